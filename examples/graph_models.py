"""Tables of graph models: python examples/graph_models.py WORK --data DIR --grid NAME,... [--seeds 3]

Runs `encode-features`, `train` and `evaluate` for each row of a grid (GRIDS below) and each seed, and prints a Markdown
table: NDCG@10 on the validation items in the best epoch, that epoch, recall and NDCG on the test items, seconds of
training an epoch (without validation), and minutes of all epochs (with it); means ± standard deviations over the seeds.
A seed is that of the split as well as of the training. Baselines stand below the models, and the protocol, as `evaluate`
names it, above. Settings are to be chosen by the validation column alone.

The grids `text` and `text-cold` need `--text FILE`, a Parquet of vectors by item_id, as lightgcn-ml-1m/text_vectors.py
makes it. The latter holds out all ratings of 5 % of the movies instead of a tenth of each user's: its test items are those
that nobody has taken in training.

DIR is MovieLens-1M, with ratings.dat, or the ratings in the order of time as ratings_chrono.csv. Ratings below 3 are left
out. Tables are written to WORK/ml-1m, the results to WORK/ml-1m/GRID.md and GRID.csv. Each run is kept in
WORK/ml-1m/GRID/ROW-SEED: what is complete there is not done again, and a training that was stopped goes on, when the same
command is given once more.

The settings that a row does not name are those of examples/lightgcn-ml-1m/pipeline.toml, or of `--job`. A row that fails
does not stop the others; the exit code is 1 then. TWOTOWER names the program. Python 3.11 or newer, no other packages.
"""
import argparse
import csv
import pathlib
import re
import sys

from grids import HERE, Table, chosen, prepare, require_program, run_grid, toml

MEASURES = [(f"{measure.lower()}@{k}", f"{title}@{k}") for k in (10, 20, 50) for measure, title in (("recall", "R"), ("ndcg", "N"))]

# The paper's loss, layers and penalty, in fewer and larger steps than it takes.
BPR = {
    "train.loss": {"bpr": {"negatives": 1}},
    "model.layers": 3,
    "model.penalty": 1e-4,
    "train.learning_rate": 0.02,
    "train.epochs": 60,
    "train.patience": 0,
}

RANDOM = {"kind": "random", "validation": 0.1, "test": 0.1}
COLD = {"kind": "cold_items", "items": 0.05, "validation": 0.1}

# Inner products put popular items ahead, and so those that nobody has taken behind.
COSINE = {
    "model.similarity": "cosine",
    "model.temperature": 0.15,
    "model.penalty": 1e-4,
    "train.loss": "in_batch",
    "train.learning_rate": 0.004,
}

# How items begin: by chance, or with their texts.
STARTS = {"random-start": {}, **{mode: {"model.text": {"mode": mode}} for mode in ("frozen", "trainable", "residual")}}

# NCL's authors have batches of 4,096, to which the weights of its sums belong, and a penalty of norms.
NCL_FRAME = BPR | {"model.penalty_form": "norms", "train.batch_size": 4096}
NCL = NCL_FRAME | {"model.ncl": {}}

# The rows of the ablation: NCL_FRAME, and what they add to it. Without Xavier, the deviation at the start is 0.1.
NORMAL = {"model.init": "normal"}
NO_PENALTY = {"model.penalty": 0}


def transport(layer="final"):
    return {"model.transport": {"layer": layer}}


# What a grid's rows have beside the job.
GRIDS = {
    "lightgcn": {"softmax": {}, "bpr": BPR},
    "ncl": {"lightgcn": NCL_FRAME, "ncl": NCL},
    "ablation": {
        "xavier-bpr-reg": NCL_FRAME,
        "xavier-bpr-reg-ot": NCL_FRAME | transport(),
        "xavier-bpr-ot": NCL_FRAME | NO_PENALTY | transport(),
        "normal-bpr-reg": NCL_FRAME | NORMAL,
        "normal-bpr-ot": NCL_FRAME | NORMAL | NO_PENALTY | transport(),
        "normal-bpr-reg-ot": NCL_FRAME | NORMAL | transport(),
        **{f"normal-bpr-reg-ot-{layer}": NCL_FRAME | NORMAL | transport(layer) for layer in (0, 2, 3)},
    },
    "layers": {str(layers): {"model.layers": layers} for layers in (1, 2, 3, 4)},
    "text": STARTS,
    "text-cold": {f"cold-{start}": {**COSINE, **row, "split": COLD} for start, row in STARTS.items()},
}


def ratings(folder):
    """The file of MovieLens-1M's ratings."""
    for name in ("ratings.dat", "ratings_chrono.csv"):
        if (folder / name).exists():
            return folder / name
    raise SystemExit(f"{folder}: expected MovieLens-1M's ratings.dat here, or ratings_chrono.csv; see examples/ml-1m/fetch.sh")


def read(folder):
    """The ratings (user, item, rating, time or place) of MovieLens-1M."""
    path = ratings(folder)
    if path.suffix == ".dat":
        return [line.split("::") for line in path.read_text().split()]
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


def positives(data):
    """The ratings of 3 and more, and nothing to note of them."""
    return [(user, item, time) for user, item, rating, time in read(data) if float(rating) >= 3], None


def text_features(file, dim):
    """The features of items whose texts have vectors."""
    vector = {"kind": "vector", "name": "text", "column": "vector", "dim": dim, "file": str(file), "file_id": "item_id"}
    return [{"kind": "id", "name": "item"}, vector]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--grid", required=True, metavar="NAME,...", help=", ".join(GRIDS))
    parser.add_argument("--seeds", type=int, default=3, help="split and train with the seeds 1 to this one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for all rows")
    parser.add_argument("--only", metavar="ROW,...", help="rows by name")
    parser.add_argument("--text", type=pathlib.Path, metavar="FILE", help="vectors of texts, for rows that begin with them")
    parser.add_argument("--text-dim", type=int, default=256, metavar="N", help="numbers of such a vector")
    parser.add_argument("--job", type=pathlib.Path, help="a pipeline.toml to start from")
    options = parser.parse_args()
    grids = options.grid.split(",")
    if unknown := [name for name in grids if name not in GRIDS]:
        parser.error(f"--grid {','.join(unknown)}: grids are {', '.join(GRIDS)}")
    if options.text is None and any("model.text" in row for name in grids for row in GRIDS[name].values()):
        parser.error("--text FILE is missing: the vectors of texts that rows of this grid begin with")
    require_program()
    folder = options.work.resolve() / "ml-1m"
    job = options.job or HERE / "lightgcn-ml-1m/pipeline.toml"
    prepare(folder, {"size": ratings(options.data).stat().st_size}, job, lambda: positives(options.data))
    table = Table(MEASURES, lambda protocol: re.sub(r", seed \d+", "", protocol))

    def sets(row):
        def of(seed):
            split = {**row.get("split", RANDOM), "seed": seed}
            row_sets = [f"{key}={toml(value)}" for key, value in row.items() if key != "split"]
            if "model.text" in row:
                row_sets.append(f"features.item={toml(text_features(options.text.resolve(), options.text_dim))}")
            return [*row_sets, f"split={toml(split)}", f"train.seed={seed}", *options.set]
        return of

    passed = [
        run_grid(folder / grid, {name: sets(GRIDS[grid][name]) for name in chosen(GRIDS[grid], options.only)},
                 options.seeds, table)
        for grid in grids
    ]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
