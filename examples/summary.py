"""Prints mean and standard deviation over seeds of the metrics files that movielens.sh left in a folder."""

import collections
import json
import pathlib
import statistics
import sys

SHOWN = ("recall@10", "ndcg@10", "recall@50", "recall@100", "mrr@100", "coverage@10")

runs = collections.defaultdict(list)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*/evaluation/metrics.json")):
    runs[path.parent.parent.name.rsplit("-", 1)[0]].append(json.loads(path.read_text()))
for name, files in runs.items():
    protocols = {f["protocol"] for f in files}
    assert len(protocols) == 1, f"{name}: unlike protocols: {protocols}"
    first = files[0]
    print(f"{name}: {first['protocol']}; {first['users']} users, {first['items']} items, {len(files)} seeds")
    print("| model | " + " | ".join(SHOWN) + " |")
    print("|---" * (len(SHOWN) + 1) + "|")
    for model in first["models"]:
        cells = []
        for metric in SHOWN:
            values = [f["models"][model][metric] for f in files]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 and model == "model" else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        print(f"| {model} | " + " | ".join(cells) + " |")
    print()
