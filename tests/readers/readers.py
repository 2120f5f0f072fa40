"""Executes the blocks of the documents that open results, and checks what they give.

Called by run.sh. Each Python block of "Opening results" in docs/FORMATS.md, and each of the READMEs that opens
`runs/latest`, is executed as it stands, in a folder with the runs that it speaks of. It leaves what it read in
`results`, of whatever type its library has for tables.
"""

import os
import pathlib
import re
import subprocess
import sys

import duckdb

USERS, ITEMS, TOPK, NEWCOMERS = 3000, 2000, 50, 40
DOCUMENTS = pathlib.Path(__file__).resolve().parents[2]


def blocks(text: str) -> list[str]:
    """The Python blocks of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def sections() -> dict[str, list[str]]:
    """The blocks of "Opening results" by the heading that they stand under."""
    text = (DOCUMENTS / "docs/FORMATS.md").read_text()
    section = text.split("\n## Opening results\n")[1].split("\n## ")[0]
    parts = re.split(r"^### (.*)\n", section, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(blocks, parts[2::2])))


def rows(results) -> list[dict]:
    """The rows of a table of any of the libraries."""
    if hasattr(results, "collect"):  # a lazy frame of polars
        results = results.collect()
    if hasattr(results, "to_dicts"):  # polars
        return results.to_dicts()
    if hasattr(results, "fetchall"):  # DuckDB
        return [dict(zip(results.columns, row)) for row in results.fetchall()]
    if hasattr(results, "to_table"):  # a data set of pyarrow
        results = results.to_table()
    if hasattr(results, "to_pylist"):
        return results.to_pylist()
    return results.to_dict("records")  # pandas


def check_scores(scores) -> None:
    scores = [float(score) for score in scores]
    assert all(-1 <= score <= 1 for score in scores), scores
    assert scores == sorted(scores, reverse=True), f"not best first: {scores}"


def check(found: list[dict], of: str) -> str:
    """Checks rows of any form that results have; of which users or items they are is in `of`."""
    expected = {"users": USERS, "items": ITEMS, "newcomers": NEWCOMERS}[of]
    columns = list(found[0])
    if columns in (["user_id", "item_ids", "cosine_similarity"], ["item_id", "similar_item_ids", "cosine_similarity"]):
        of_whom, lists = columns[:2]
        assert len(found) == expected, f"{len(found)} rows, expected {expected}"
        assert len({row[of_whom] for row in found}) == expected, "somebody is there twice"
        for row in found:
            assert 0 < len(row[lists]) == len(set(row[lists])) == len(row["cosine_similarity"]) <= TOPK, row
            check_scores(row["cosine_similarity"])
    elif columns == ["user_id", "rank", "item_id", "cosine_similarity"]:
        by_user: dict = {}
        for row in found:
            by_user.setdefault(row["user_id"], []).append((row["rank"], row["item_id"], row["cosine_similarity"]))
        assert len(by_user) == expected, f"{len(by_user)} users, expected {expected}"
        for pairs in by_user.values():
            pairs.sort()
            assert [rank for rank, _, _ in pairs] == list(range(1, len(pairs) + 1)), "somebody is there twice"
            assert len({item for _, item, _ in pairs}) == len(pairs) <= TOPK
            check_scores([score for _, _, score in pairs])
    elif columns == ["id", "vector"]:
        assert len(found) == len({row["id"] for row in found}) == expected, f"{len(found)} rows, expected {expected}"
        for row in found:
            assert abs(sum(float(value) ** 2 for value in row["vector"]) - 1) < 1e-3, row
    else:
        raise AssertionError(f"columns {columns}")
    return f"{len(found)} rows of {expected} {of}"


def execute(name: str, block: str, of: str) -> None:
    """Executes a block in the folder of the runs, and checks what it read."""
    print(f"{name}: {block.strip().splitlines()[-1]}")
    known: dict = {}
    exec(compile(block, name, "exec"), known)
    print(f"    {check(rows(known['results']), of)}")


def main(twotower: str, work: pathlib.Path) -> None:
    os.chdir(work)

    def run(*words: str) -> None:
        done = subprocess.run([twotower, *words, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, f"twotower {words[0]}: exit code {done.returncode}\n{done.stderr}"

    settings = ["infer.engine=native", f"recall.topk={TOPK}", "train.epochs=1", 'gates.off=["metric","coverage"]']
    settings = [word for setting in settings for word in ("--set", setting)]
    run("demo", "runs", "--users", str(USERS), "--items", str(ITEMS), *settings)
    job = ["--config", "runs/pipeline.toml", "--run", "runs/run", *settings, "--set", "run.part_users=1000"]
    duckdb.sql(f"COPY (FROM 'runs/data/users/*.parquet' LIMIT {NEWCOMERS}) TO 'newcomers.parquet'")
    found = sections()
    forms = {"Lists": "parquet", "Pairs": "parquet-long", "JSON Lines": "jsonl"}
    others = {"Vectors": "users", "Newcomers": "newcomers", "Similar items": "items"}
    assert list(found) == [*forms, *others], list(found)
    assert all(found.values()), "a section without a block"
    for heading, form in forms.items():
        run("run", *job, "--set", f"recall.format={form}")
        names = sorted(os.listdir("runs/latest/recall"))
        assert len(names) == 3 and all(name.startswith("part-0000") for name in names), names
        for block in found[heading]:
            execute(heading, block, "users")
        if form == "parquet":
            for name in ("README.md", "README.zh-CN.md"):
                for block in blocks((DOCUMENTS / name).read_text()):
                    if "runs/latest/recall" in block:
                        execute(name, block, "users")
    job += ["--set", "recall.format=parquet"]
    run("infer", *job, "--side", "user", "--table", "newcomers.parquet", "--recall", "--output", "newcomers")
    run("similar", *job, "--topk", "20", "--output", "similar")
    for heading, of in others.items():
        for block in found[heading]:
            execute(heading, block, of)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]).resolve())
