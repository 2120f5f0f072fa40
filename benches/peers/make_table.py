"""RESULTS.md from results.json; as a program, prints the README's table.

    python make_table.py [FOLDER]
"""
import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
UNITS = {"encode": "users/s", "infer": "users/s", "train": "examples/s", "retrieve": "queries/s"}
EXTRAS = {"recall": "recall@50 {:.3f}", "ef": "ef {:.0f}", "build_seconds": "build {:.0f} s",
          "ms_a_step": "{:.0f} ms a step", "peak_fraction": "{:.0%} of sgemm peak"}
QUIET = 0.5  # load average above which the machine had other work
SEARCH = "Top-50 of {} items, {}"
# What, section, group, ours, start of the rivals' names, the ratio aimed at. The fastest of the rivals counts.
AIMS = [
    ("Vocabularies and codes", "encode", "encode", "twotower", "pandas", 15),
    ("Vocabularies and codes", "encode", "encode", "twotower", "polars", 1),
    ("User vectors from raw rows, ONNX Runtime", "infer", "infer", "twotower, ort", "onnxruntime", 0.6),
    ("User vectors from raw rows, native engine", "infer", "infer", "twotower, native", "onnxruntime", 0.8),
    ("User vectors from raw rows, ONNX Runtime", "infer", "infer", "twotower, ort", "torch eval", 1),
    ("User vectors from raw rows, native engine", "infer", "infer", "twotower, native", "torch eval", 1),
    ("User vectors from raw rows, ONNX Runtime", "infer", "infer", "twotower, ort", "Torch-RecHub", 12),
    ("User vectors from raw rows, native engine", "infer", "infer", "twotower, native", "Torch-RecHub", 12),
    ("User vectors from raw rows, native-int16", "infer", "infer", "twotower, native-int16", "torch eval", 1),
    ("User vectors from raw rows, native-int16", "infer", "infer", "twotower, native-int16", "Torch-RecHub", 12),
    ("User vectors from raw rows, native-int16, f16 vectors", "infer", "infer",
     "twotower, native-int16, f16 vectors", "Torch-RecHub", 12),
    ("Training steps", "train", "train", "twotower", "torch", 3),
    *((SEARCH.format(n, "exact"), "retrieve", f"exact, {n} items", "twotower, exact", "faiss", 1)
      for n in ("2,000", "20,000", "200,000")),
    (SEARCH.format("200,000", "HNSW"), "retrieve", "hnsw, 200,000 items", "twotower, hnsw", "hnswlib", 0.8),
]


def rates(entry: dict) -> list[float]:
    """Rows a second of each sample, in order of size."""
    return sorted(s["rows"] / s["seconds"] for s in entry["samples"])


def rate(entry: dict) -> float:
    """Median rows a second."""
    return statistics.median(rates(entry))


def figure(x: float) -> str:
    """Three digits that count."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def of_group(section: dict, group: str) -> list[dict]:
    """The contenders of one table that were measured."""
    return [e for e in section.get("contenders", {}).values() if e["group"] == group and e["samples"]]


def aims(results: dict) -> list[tuple]:
    """(what, unit, our rate, best rival, its rate, ratio aimed at) of the pairs that were measured."""
    found = []
    for what, name, group, mine, prefix, least in AIMS:
        entries = of_group(results["sections"].get(name, {}), group)
        our = [e for e in entries if e["ours"] and e["name"] == mine]
        rivals = [e for e in entries if not e["ours"] and e["name"].startswith(prefix)]
        if our and rivals:
            best = max(rivals, key=rate)
            found.append((what + found_share(our[0]), UNITS[name], rate(our[0]), best["name"] + found_share(best),
                          rate(best), least))
    return found


def found_share(entry: dict) -> str:
    """Recall of an approximate search, for its name."""
    values = [s["recall"] for s in entry["samples"] if "recall" in s]
    return f", recall {statistics.median(values):.3f}" if values else ""


def short_table(results: dict, lines: int | None = None) -> str:
    """Our rate beside each rival's. With `lines`, that many at most, and only of sections that may be quoted."""
    rows = ["<!-- peers:begin -->", "| | twotower | | beside | ratio |", "|---|---|---|---|---|"]
    if lines is not None:
        quiet = {name: s for name, s in results["sections"].items() if s["load_before"] <= QUIET}
        results = results | {"sections": quiet}
    found = aims(results)
    if lines is not None and len(found) > lines:  # spread over what was measured, first and last included
        found = [found[round(i * (len(found) - 1) / (lines - 1))] for i in range(lines)]
    for what, unit, mine, rival, theirs, _ in found:
        rows.append(f"| {what} | {figure(mine)} {unit} | {rival} | {figure(theirs)} | {mine / theirs:.3g} |")
    return "\n".join([*rows, "<!-- peers:end -->"])


def note(entry: dict) -> str:
    """Its note, and the medians of what its samples say besides speed."""
    parts = [entry["note"]] if entry["note"] else []
    for key, form in EXTRAS.items():
        values = [s[key] for s in entry["samples"] if key in s]
        if values:
            parts.append(form.format(statistics.median(values)))
    return "; ".join(parts)


def group_table(entries: list[dict], unit: str) -> list[str]:
    """One table: a row a contender, a column with our speed over it for each of ours."""
    mine = [e for e in entries if e["ours"]]
    heads = ["", f"{unit}, median", "lowest to highest", *(f"{e['name']} ÷ it" for e in mine), "peak RSS, MiB", "notes"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for e in entries:
        low, *_, high = [*rates(e), rates(e)[-1]]
        ratios = ["" if e is m else f"{rate(m) / rate(e):.2f}" for m in mine]
        peak = max(s["peak_rss_mib"] for s in e["samples"])
        cells = [e["name"], figure(rate(e)), f"{figure(low)} to {figure(high)}", *ratios, f"{peak:,}", note(e)]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def described(machine: dict) -> str:
    """A machine and what was installed on it."""
    m = machine
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    return (f"{m['cpu']}, {m['cores_used']} of {m['cores']} cores ({', '.join(m['vector_instructions']) or 'no AVX'}), "
            f"{m['memory_gib']} GiB, {m['system']}. {m['twotower']}; Python {m['python']}, {packages}.")


def results_page(results: dict) -> str:
    """RESULTS.md."""
    lines = [
        "# twotower beside its peers", "",
        "Made by `run.py`; see [README.md](README.md) for what is measured and how.", "",
        "## In short", "", short_table(results), "",
        "## Aims", "", "| | beside | aim | measured | |", "|---|---|---|---|---|",
    ]
    for what, _, mine, rival, theirs, least in aims(results):
        ratio = mine / theirs
        lines.append(f"| {what} | {rival} | {least} | {ratio:.2f} | {'met' if ratio >= least else '**missed**'} |")
    for name, section in results["sections"].items():
        p = section["parameters"]
        size = f", {p['users']:,} users" if name in ("encode", "infer") else ""
        lines += ["", f"## {name}", "",
                  f"Measured on {section['date']}{size}; load average before the run {section['load_before']:.1f}."]
        if section["load_before"] > QUIET:
            lines[-1] += " **The machine had other work: not to be quoted.**"
        lines += ["", described(section["machine"])]
        if "disagreements" in section:
            lines += ["", "Codes compared with ours: " + "; ".join(
                f"{who}: {', '.join(wrong) or 'the same'}" for who, wrong in section["disagreements"].items()) + "."]
        for group in dict.fromkeys(e["group"] for e in section["contenders"].values()):
            entries = of_group(section, group)
            if entries:
                lines += ["", *([f"### {group}", ""] if group != name else []), *group_table(entries, UNITS[name])]
            missing = [e["name"] for e in section["contenders"].values() if e["group"] == group and not e["samples"]]
            if missing:
                lines += ["", f"Not measured: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Writes RESULTS.md beside results.json."""
    (folder / "RESULTS.md").write_text(results_page(json.loads((folder / "results.json").read_text())))


if __name__ == "__main__":
    print(short_table(json.loads((Path(sys.argv[1] if len(sys.argv) > 1 else HERE) / "results.json").read_text()), 5))
