"""Prints mean and standard deviation over seeds of the metrics files that movielens.sh left in a folder.

usage: python3 examples/summary.py FOLDER
"""

import collections
import json
import pathlib
import statistics
import sys

SHOWN = ("recall@10", "ndcg@10", "recall@50", "recall@100", "mrr@100", "coverage@10")


def spread(values, digits=4):
    """`mean ± standard deviation` of figures over seeds; of one, the figure alone."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def one(values, what):
    """The value that all have, such as the protocol of several metrics files."""
    assert len(set(values)) == 1, f"{what}: {sorted(set(values))}"
    return values[0]


def main():
    runs = collections.defaultdict(list)
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*/evaluation/metrics.json")):
        runs[path.parent.parent.name.rsplit("-", 1)[0]].append(json.loads(path.read_text()))
    for name, files in runs.items():
        protocol = one([f["protocol"] for f in files], f"{name}: unlike protocols")
        first = files[0]
        print(f"{name}: {protocol}; {first['users']} users, {first['items']} items, {len(files)} seeds")
        print("| model | " + " | ".join(SHOWN) + " |")
        print("|---" * (len(SHOWN) + 1) + "|")
        for model in first["models"]:
            # Baselines depend on no seed.
            of = files if model == "model" else files[:1]
            print(f"| {model} | " + " | ".join(spread([f["models"][model][m] for f in of]) for m in SHOWN) + " |")
        print()


if __name__ == "__main__":
    main()
