"""Tables of sequence models: python examples/sequence_models.py WORK --data FILE --grid NAME,... [--seeds 3]

Runs `encode-features`, `train` and `evaluate` for each row of a grid (GRIDS below) and each seed, and prints a
Markdown table: NDCG@10 on the validation items in the best epoch, that epoch, HR@10 and NDCG@10 on the test items,
seconds of training an epoch (without validation), and minutes of all epochs (with it); means ± standard deviations
over the seeds. Popularity and item-to-item neighbours stand below the models, and the protocol, as `evaluate` names
it, above. Settings are to be chosen by the validation column alone.

FILE has the form of SASRec's data, lines `user item` in the order of time (ml-1m.txt, Video.txt), or that of
MovieLens' u.data, lines `user item rating time`. Its tables are written to WORK/DATA, the results, of the rows that
this command names, to WORK/DATA/GRID.md and GRID.csv. Each run is kept in WORK/DATA/GRID/ROW-SEED: what is complete
there is not done again, and a training that was stopped goes on, when the same command is given once more. With other
settings (`--set`) a run is redone in its place, from the first stage that they concern: with `--set
evaluate.ranking=sampled_paper` nothing is trained again. To keep both, name another WORK.

The settings that a row does not name are those of the job of the data's example, or of `--job`. A row that fails does
not stop the others; the exit code is 1 then. TWOTOWER names the program. Python 3.11 or newer, no other packages.
"""
import argparse
import os
import pathlib
import sys
import tomllib

from grids import HERE, Table, chosen, prepare, require_program, run_grid, toml

# What the data of a file are called, and the example whose job is the start of all rows.
EXAMPLES = {"ml-1m.txt": ("ml-1m", "sasrec-ml-1m"), "Video.txt": ("video", "video"), "u.data": ("ml-100k", "tisasrec-ml-100k")}

BCE = {"train.loss": {"bce": {"negatives": 1}}}
STRONG = {"train.loss": {"sampled_softmax": {"negatives": 3000}}}
LOSSES = {
    "full-softmax": {"train.loss": "full_softmax"},
    "softmax-3000": STRONG,
    "softmax-256": {"train.loss": {"sampled_softmax": {"negatives": 256}}},
    "gbce-256": {"train.loss": {"gbce": {"negatives": 256, "t": 0.75}}},
    "bce-1": BCE,
}

# The settings of SASRec's authors (kang205/SASRec), and their `maxlen` and `dropout_rate` for each file. A batch of
# theirs is 128 sequences, here as many events as these have on average. They train for 201 epochs and look at the test
# items on the way; here the epoch is chosen by the validation items.
AUTHORS = {
    "model.dim": 50,
    "model.blocks": 2,
    "model.heads": 1,
    "model.norm": "original",
    "train.learning_rate": 0.001,
    "train.beta2": 0.98,
    "train.schedule": "constant",
    "train.warmup_steps": 0,
    "train.weight_decay": 0,
    "train.clip_norm": 0,
    "train.unknown_rate": 0,
    "train.missing_rate": 0,
    "train.epochs": 200,
    "train.patience": 20,
    "evaluate.ranking": "sampled_paper",
}
AUTHORS_OF = {
    "ml-1m.txt": {"max_len": 200, "model.dropout": 0.2, "train.batch_size": 14_700},
    "Video.txt": {"max_len": 50, "model.dropout": 0.5, "train.batch_size": 925},
}

# What a grid's rows have beside the job. `max_len`, `intervals` and `span` are of the sequence. Rows with `intervals` are
# left out where the file has no times.
TIMES = {"model.kind": "tisasrec", "intervals": "personal", "span": 256}
SHARES = (0.2, 0.4, 0.6, 0.8)


def contrast(kind, share, representation):
    return {"model.contrast": {"weight": 0.1, "representation": representation, kind: share}}


GRIDS = {
    "losses": LOSSES,
    "paper": {"bce": AUTHORS | BCE, "softmax-3000": AUTHORS | STRONG},
    "batches": {str(size): {"train.batch_size": size} for size in (256, 512, 1024, 2048, 8192)},
    "norms": {norm: {"model.norm": norm} for norm in ("original", "paper", "pre", "post")},
    # Gates need the norms of `pre`, so all rows have it.
    "blocks": {
        f"{block}-{multiple}": {"model.norm": "pre", "model.block": block, "model.feed_forward_multiple": multiple}
        for block in ("transformer", "ligr")
        for multiple in (1, 2, 4)
    },
    "tisasrec": {
        "sasrec": {},
        "personal-256": TIMES,
        "personal-2048": TIMES | {"span": 2048},
        "hour-256": TIMES | {"intervals": "hour"},
        "day-256": TIMES | {"intervals": "day"},
    },
    "cl4srec": {
        "plain": {},
        **{
            f"{kind}-{share}-{representation}": contrast(kind, share, representation)
            for kind in ("crop", "mask", "replace")
            for share in SHARES
            for representation in ("mean", "flatten")
        },
    },
    # Streams need a norm that is not on what is passed on, so all rows have `pre`.
    "mhc": {
        f"{model}-{blocks}-{streams}": {"model.norm": "pre", "model.blocks": blocks} | settings | more
        for model, settings in (("sasrec", {}), ("tisasrec", TIMES))
        for blocks in (2, 4, 8)
        for streams, more in (("plain", {}), ("mhc", {"model.hyper_connections": {"streams": 4}}))
    },
}


def settings(row, sequence):
    """The `--set` of a row, beside a job that has this sequence as its feature of users."""
    row = {"model.kind": "sasrec"} | row
    sequence = {key: value for key, value in sequence.items() if key not in ("intervals", "span")}
    sequence |= {key: row.pop(key) for key in ("max_len", "intervals", "span") if key in row}
    return [f"{key}={toml(value)}" for key, value in row.items()] + [f"features.user={toml([sequence])}"]


def read(path, users):
    """The events (user, item, time or place) of a file, of its first `users` users, and whether they have times."""
    with open(path) as file:
        events = [line.split() for line in file if line.strip()]
    columns = {len(event) for event in events}
    if columns not in ({2}, {4}):
        found = f"found lines of {' and '.join(map(str, sorted(columns)))} words"
        raise SystemExit(f"{path}: expected lines `user item` or lines `user item rating time`, {found}")
    times = columns == {4}
    events = [(event[0], event[1], event[3] if times else place) for place, event in enumerate(events)]
    if users:
        kept = set(list(dict.fromkeys(event[0] for event in events))[:users])
        events = [event for event in events if event[0] in kept]
    return events, times


def rows_of(grid, options, times):
    """The rows of a grid to run, with all their settings but the seed."""
    data, rows = options.data.name, GRIDS[grid]
    if grid == "paper" and data not in AUTHORS_OF:
        raise SystemExit(f"{data}: the grid `paper` has the authors' settings of {' and '.join(AUTHORS_OF)} alone")
    own = {"paper": AUTHORS_OF.get(data), "losses": {}}.get(grid, {} if options.loss == "strong" else BCE)
    only = chosen(rows, options.only)
    if left_out := [name for name in only if "intervals" in rows[name] and not times]:
        print(f"{data} has no times, so these rows are left out: {', '.join(left_out)}", file=sys.stderr)
    return {name: own | rows[name] for name in only if name not in left_out}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--grid", required=True, metavar="NAME,...", help=", ".join(GRIDS))
    parser.add_argument("--seeds", type=int, default=3, help="train with the seeds 1 to this one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for all rows")
    parser.add_argument("--only", metavar="ROW,...", help="rows by name, such as plain,crop-0.2-mean")
    parser.add_argument("--loss", choices=("strong", "bce"), default="strong", help="of all grids but losses and paper: the job's own, or binary cross-entropy")
    parser.add_argument("--users", type=int, help="take the first so many users alone, to try a grid")
    parser.add_argument("--job", type=pathlib.Path, help="a pipeline.toml to start from")
    options = parser.parse_args()
    if unknown := [name for name in options.grid.split(",") if name not in GRIDS]:
        parser.error(f"--grid {','.join(unknown)}: grids are {', '.join(GRIDS)}")
    require_program()
    data, example = EXAMPLES.get(options.data.name, (options.data.stem, "sasrec-ml-1m"))
    job = options.job or HERE / example / "pipeline.toml"
    sequence = tomllib.loads(job.read_text())["features"]["user"][0]
    folder = options.work.resolve() / (f"{data}-{options.users}-users" if options.users else data)
    source = {"size": os.path.getsize(options.data), "users": options.users}
    times = prepare(folder, source, job, lambda: read(options.data, options.users))
    grids = {grid: rows_of(grid, options, times) for grid in options.grid.split(",")}
    names = {grid: grid if grid in ("losses", "paper") else f"{grid}-{options.loss}" for grid in grids}
    table = Table([("hit@10", "HR@10"), ("ndcg@10", "NDCG@10")])

    def sets(row):
        return lambda seed: [*settings(row, sequence), f"train.seed={seed}", *options.set]

    passed = [
        run_grid(folder / names[grid], {name: sets(row) for name, row in rows.items()}, options.seeds, table)
        for grid, rows in grids.items()
    ]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
