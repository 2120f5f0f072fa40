"""Queries/s against items of exact and HNSW search, as an SVG.

    search_plot.py search.jsonl search.svg
"""
import json
import math
import sys

W, H, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 120, 20, 50
COLOURS = {"exact": "#1f5fa8", "hnsw": "#c2571a"}


def main():
    rows = [json.loads(line) for line in open(sys.argv[1])]
    lx = [math.log10(r["items"]) for r in rows]
    ly = [math.log10(r["qps"]) for r in rows]
    x0, x1 = min(lx), max(lx)
    y0, y1 = math.floor(min(ly)), math.ceil(max(ly))

    def x(v):
        return LEFT + (math.log10(v) - x0) / (x1 - x0) * (W - LEFT - RIGHT)

    def y(v):
        return H - BOTTOM - (math.log10(v) - y0) / (y1 - y0) * (H - TOP - BOTTOM)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
           f'<rect width="{W}" height="{H}" fill="white"/>']
    for decade in range(y0, y1 + 1):
        for v in (1, 2, 5):
            value = v * 10 ** decade
            if value > 10 ** y1:
                break
            out.append(f'<line x1="{LEFT}" x2="{W - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
            out.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,}</text>')
    for items in sorted({r["items"] for r in rows}):
        out.append(f'<line x1="{x(items):.1f}" x2="{x(items):.1f}" y1="{TOP}" y2="{H - BOTTOM}" stroke="#eee"/>')
        out.append(f'<text x="{x(items):.1f}" y="{H - BOTTOM + 16}" text-anchor="middle">{items // 1000}k</text>')
    for kind, colour in COLOURS.items():
        points = sorted((r["items"], r["qps"]) for r in rows if r["kind"] == kind)
        line = " ".join(f"{x(i):.1f},{y(q):.1f}" for i, q in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(i):.1f}" cy="{y(q):.1f}" r="3.5" fill="{colour}"/>' for i, q in points]
        i, q = points[-1]
        out.append(f'<text x="{x(i) + 8:.1f}" y="{y(q) + 4:.1f}" fill="{colour}">{kind}</text>')
    out.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 12}" text-anchor="middle">items (64 floats each)</text>')
    out.append(f'<text x="14" y="{TOP + 4}" font-weight="bold">queries/s</text></svg>')
    open(sys.argv[2], "w").write("\n".join(out) + "\n")


main()
