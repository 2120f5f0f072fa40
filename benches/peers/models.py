"""Runs models of twotower beside PyTorch: python models.py --data ml-1m.txt --work DIR --rounds 3

`--data` is ml-1m.txt as SASRec's authors publish it: lines `user item`, in the order of time. Parts, for `--only`:

- `train`: seconds of an epoch of SASRec, d 50, 2 blocks, 1 head, length 200, dropout .2, 128 users a batch, with
  binary cross-entropy and a negative per position.
- `full`: the same with softmax over all items.
- `tisasrec`: TiSASRec with binary cross-entropy and intervals of at most 256. The file has no times: a clock is made.
- `lightgcn`: seconds of an epoch of LightGCN on the pairs of the file, d 64, 3 layers, BPR with a uniform negative, 2,048
  pairs a batch.
- `lightgcn-large`: the same on a graph of 10 million pairs that is made here, of 400,000 users and 100,000 items, with
  2^20 pairs a batch, since each batch costs a propagation over the whole graph.
- `infer`: users a second, of `twotower infer` as a whole process from tables to vectors on disk, and of PyTorch in
  memory. Users have 20 items, then 50; d 64, 2 blocks, 2,000 items.

In training sequence models, both sides have each user's last 201 events, so that an epoch is the same work. twotower also trains the
first event of a user, from an empty history, which PyTorch does not. Seconds are those of the steps, as twotower logs
them, with neither encoding nor checkpoints; of PyTorch, those of the loop over batches, negatives included. The first
of several epochs warms up and does not count.

GFLOP/s counts the matrix products that the newest element of a history of L items needs, with d numbers an element and
B blocks. All blocks but the last compute every element: queries, keys, values and two layers of the feed-forward
network, and attention to earlier elements only. The last computes all keys and values, and the rest for the newest one:

    (B - 1) (10 L d^2 + 2 d L (L + 1)) + 4 L d^2 + 6 d^2 + 4 d L

Beside it stands what `torch.mm` of 1,024 x 1,024 f32 matrices reaches on as many threads.

Each contender is a process of its own, bound to `--threads` cores, in turns. Prints a Markdown table for each part with
medians, the least and the most, and the time as a multiple of the first row's, and writes all samples to
DIR/models.json. Samples taken under the same settings with the same program are kept. TWOTOWER names the program.
Needs torch, numpy and pyarrow; models are in torch_sequence.py and torch_graph.py.
"""
import argparse
import datetime
import json
import os
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import model_peers as peers
from contender import HERE, Contender, ours, peer
from run import Failed, bind, digest, machine, measure, take_turns, write_json

TWOTOWER = Path(os.environ.get("TWOTOWER", HERE.parents[1] / "target/release/twotower"))
PACKAGES = ["torch", "numpy", "pyarrow"]
SPAN = 256
HISTORIES = [20, 50]
INFER_USERS = 200_000
INFER_DIM = 64
INFER_BATCHES = [256, 1024, 4096]
BCE = "train.loss={ bce = { negatives = 1 } }"
SGEMM = "torch.mm, 1,024 x 1,024"
GRAPH_DIM, GRAPH_LAYERS = 64, 3
LARGE_GRAPH = {"users": 400_000, "items": 100_000, "edges": 10_000_000}


class Bench:
    """What was asked for, and what all parts share."""

    def __init__(self, asked: argparse.Namespace):
        self.asked, self.work = asked, asked.work.resolve()

    def step(self, contender: Contender) -> None:
        """Runs what must be done before the first turn."""
        print(f"  preparing {contender.name}", flush=True)
        measure(contender, self.asked.threads)

    def cut(self) -> tuple[Path, dict]:
        """The folder of the training parts' data, and its size."""
        users, source = self.asked.users, self.asked.data.resolve()
        folder = self.work / f"train-{digest(source)[:8]}-{users or 'all'}"
        if not (folder / "size.json").exists():
            self.step(peer("data", "the last events of users", peers.cut, source=source, out=folder, users=users))
        return folder, json.loads((folder / "size.json").read_text())

    def command(self, stage: str, folder: Path, run: str, settings: list[str]) -> list:
        """A stage of twotower."""
        argv = [TWOTOWER, stage, "--config", folder / "pipeline.toml", "--run", folder / run, "--json"]
        threads = [f"train.threads={self.asked.threads}", f"infer.workers={self.asked.threads}"]
        return [*argv, *(word for setting in threads + settings for word in ("--set", setting))]

    def encode(self, folder: Path, run: str, settings: list[str]) -> None:
        """Encodes the tables of a folder into a run, if that was not done."""
        self.step(ours("data", f"codes of {folder.name}/{run}", self.command("encode-features", folder, run, settings),
                       lambda *_: {}))

    @staticmethod
    def model(kind: str, dim: int, length: int, intervals: str | None = None) -> list[str]:
        """Settings of a model."""
        clock = f', intervals = "{intervals}", span = {SPAN}' if intervals else ""
        user = f'{{ kind = "sequence", name = "recent", max_len = {length}{clock} }}'
        return [f"features.user=[{user}]", f'model={{ kind = "{kind}", dim = {dim} }}']

    def trained(self, group: str, name: str, folder: Path, rows: int, events: int, settings: list[str]) -> Contender:
        """Training by twotower, of so many events; `rows` of them are what PyTorch trains too."""
        run = "-".join(["run", group, *name.split()])
        self.encode(folder, run, settings)
        argv = self.command("train", folder, run, [*settings, f"train.epochs={self.asked.epochs}"])

        def read(log: str, _: float) -> dict:
            speeds = re.findall(r"train: epoch \d+: .*, (\d+) examples/s", log)
            return peers.epochs_sample(rows, [events / float(speed) for speed in speeds])

        return ours(group, " ".join(["twotower", name]).strip(), [*argv, "--engine", "native", "--force"], read,
                    reads_log=True)

    def sequences(self, group: str, settings: list[str], name: str = "") -> Contender:
        """Training of a sequence model by twotower."""
        folder, size = self.cut()
        return self.trained(group, name, folder, size["positions"], size["events"], settings)

    def torch(self, group: str, name: str, folder: Path, **how) -> Contender:
        """Training by PyTorch."""
        return peer(group, f"torch, {name}", peers.train_in_torch, folder=folder, threads=self.asked.threads,
                    epochs=self.asked.epochs, **how)

    def size(self, part: str) -> dict:
        """What an epoch of a part consists of."""
        if part == "infer":
            return {}
        return self.graph(part == "lightgcn-large")[1] if part.startswith("lightgcn") else self.cut()[1]

    def graph(self, is_large: bool) -> tuple[Path, dict]:
        """The folder of a graph, and its size."""
        if is_large:
            folder, make, how = self.work / "graph-{users}-{items}-{edges}".format(**LARGE_GRAPH), peers.drawn, LARGE_GRAPH
        else:
            source = self.asked.data.resolve()
            folder, make, how = self.work / f"graph-{digest(source)[:8]}", peers.pairs, {"source": source}
        if not (folder / "size.json").exists():
            self.step(peer("data", "a graph", make, out=folder, **how))
        return folder, json.loads((folder / "size.json").read_text())


def training(group: str, loss: str) -> Callable[[Bench], list[Contender]]:
    """The contenders of SASRec with a loss."""
    def contenders(bench: Bench) -> list[Contender]:
        folder, _ = bench.cut()
        setting = BCE if loss == "bce" else 'train.loss="full_softmax"'
        return [
            bench.sequences(group, [*bench.model("sasrec", 50, peers.LONGEST - 1), setting]),
            bench.torch(group, "MultiheadAttention", folder, form="mha", loss=loss),
            bench.torch(group, "scaled_dot_product_attention", folder, form="sdpa", loss=loss),
        ]
    return contenders


def tisasrec(bench: Bench) -> list[Contender]:
    """TiSASRec: twotower on the personal scale, which may change within a user's history, and in fixed units."""
    folder, _ = bench.cut()

    def twotower(scale):
        settings = [*bench.model("tisasrec", 50, peers.LONGEST - 1, scale), BCE]
        return bench.sequences("tisasrec", settings, f"intervals {scale}")

    def torch(name, form):
        return bench.torch("tisasrec", name, folder, form=form, loss="bce", span=SPAN)

    return [twotower("personal"), twotower("minute"),
            torch("tables of intervals gathered", "tables"), torch("products with intervals gathered", "products")]


def lightgcn(group: str, batch: int) -> Callable[[Bench], list[Contender]]:
    """The contenders of LightGCN on a graph."""
    def contenders(bench: Bench) -> list[Contender]:
        folder, size = bench.graph(group == "lightgcn-large")
        edges, how = size["edges"], {"layers": GRAPH_LAYERS, "dim": GRAPH_DIM, "batch": batch}
        settings = [
            'features.user=[{ kind = "id", name = "user" }]',
            f'model={{ kind = "lightgcn", dim = {GRAPH_DIM}, layers = {GRAPH_LAYERS} }}',
            "train.loss={ bpr = { negatives = 1 } }", f"train.batch_size={batch}", 'train.schedule="constant"',
            "train.warmup_steps=0", "train.unknown_rate=0", "train.missing_rate=0",
        ]

        def torch(name, form):
            return peer(group, f"torch, {name}", peers.train_graph_in_torch, folder=folder, form=form,
                        threads=bench.asked.threads, epochs=bench.asked.epochs, **how)

        return [bench.trained(group, "", folder, edges, edges, settings), torch("COO", "coo"), torch("CSR", "csr")]
    return contenders


def infer(bench: Bench) -> list[Contender]:
    """Inference, and the machine's products of matrices."""
    users = min(bench.asked.users or INFER_USERS, INFER_USERS)
    threads = bench.asked.threads
    result = [peer("sgemm", SGEMM, peers.sgemm, threads=threads)]
    for history in HISTORIES:
        group, folder = f"infer {history}", bench.work / f"infer-{history}-{users}"
        if not (folder / "pipeline.toml").exists():
            bench.step(peer("data", f"users with {history} items", peers.make, out=folder, users=users,
                            history=history))
        settings = [*bench.model("sasrec", INFER_DIM, history), BCE]
        bench.encode(folder, "run", settings)
        train = bench.command("train", folder, "run", settings)
        bench.step(ours("data", "a trained model", [*train, "--engine", "native"], lambda *_: {}))
        for engine in ("native", "ort"):
            argv = bench.command("infer", folder, "run", settings)
            result.append(ours(group, f"twotower, {engine}", [*argv, "--side", "user", "--engine", engine, "--force"],
                               lambda _, wall: {"rows": users, "seconds": wall}, output=folder / "run" / "vectors"))
        for name, form in [("MultiheadAttention", "mha"), ("scaled_dot_product_attention", "sdpa"),
                           ("the same, only the newest in the last block", "newest")]:
            result.append(peer(group, f"torch, {name}", peers.embed_in_torch, folder=folder, threads=threads, form=form,
                               dim=INFER_DIM, batches=INFER_BATCHES))
    return result


PARTS = {
    "train": training("train", "bce"),
    "full": training("full", "softmax"),
    "tisasrec": tisasrec,
    "lightgcn": lightgcn("lightgcn", 2048),
    "lightgcn-large": lightgcn("lightgcn-large", 1 << 20),
    "infer": infer,
}
# Parts that need no file.
MADE = {"infer", "lightgcn-large"}
TITLES = {
    "train": "SASRec, binary cross-entropy with a negative per position",
    "full": "SASRec, softmax over the catalogue",
    "tisasrec": "TiSASRec, binary cross-entropy with a negative per position",
    "lightgcn": "LightGCN, BPR with a negative per pair",
    "lightgcn-large": "LightGCN, BPR with a negative per pair",
}


def flops(history: int, dim: int = INFER_DIM, blocks: int = 2) -> int:
    """Operations of a user, by the formula above."""
    every = 10 * history * dim ** 2 + 2 * dim * history * (history + 1)
    return (blocks - 1) * every + 4 * history * dim ** 2 + 6 * dim ** 2 + 4 * dim * history


def middle(entry: dict, value: Callable[[dict], float]) -> tuple[float, float, float]:
    """Median, least and most of the samples."""
    values = [value(sample) for sample in entry["samples"]]
    return statistics.median(values), min(values), max(values)


def table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    columns = head.split("|")
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines)


def report(part: str, entries: list[dict], size: dict) -> str:
    """The tables of a part."""
    entries = [entry for entry in entries if entry["samples"]]
    blocks = []
    for group in dict.fromkeys(entry["group"] for entry in entries if entry["group"] != "sgemm"):
        mine = [entry for entry in entries if entry["group"] == group]
        first = middle(mine[0], seconds_a_row)[0]

        def shared(entry):
            rss = middle(entry, lambda sample: sample["peak_rss_mib"])[0]
            return [f"{rss:,.0f}", f"{middle(entry, seconds_a_row)[0] / first:.2f}"]

        if part != "infer":
            work = f"{size['edges']:,} pairs" if "edges" in size else f"{size['positions']:,} real positions"
            title = f"{TITLES[part]}: {work} of {size['users']:,} users an epoch"
            rows = [[entry["name"], "{:.2f} ({:.2f} to {:.2f})".format(*middle(entry, lambda s: s["seconds"])),
                     *shared(entry)] for entry in mine]
            blocks.append(f"{title}\n\n" + table("Contender | s per epoch | peak RSS, MiB | times the first's", rows))
            continue
        operations = flops(int(group.split()[1])) / 1e9
        sgemm = next((middle(e, speed)[0] for e in entries if e["group"] == "sgemm"), float("nan"))
        rows = []
        for entry in mine:
            median, least, most = middle(entry, speed)
            batches = sorted({sample["batch"] for sample in entry["samples"] if "batch" in sample})
            name = ", ".join([entry["name"], *(f"batch {batch}" for batch in batches)])
            rows.append([name, f"{median:,.0f} ({least:,.0f} to {most:,.0f})", f"{median * operations:.1f}",
                         f"{median * operations / sgemm:.2f}", *shared(entry)])
        title = (f"Inference, histories of {group.split()[1]}: {operations * 1e3:.3f} MFLOP a user; "
                 f"{SGEMM}: {sgemm:.1f} GFLOP/s")
        blocks.append(f"{title}\n\n" + table(
            "Contender | users/s | GFLOP/s | of torch.mm | peak RSS, MiB | times the first's", rows))
    return "\n\n".join(blocks)


def speed(sample: dict) -> float:
    """Rows a second."""
    return sample["rows"] / sample["seconds"]


def seconds_a_row(sample: dict) -> float:
    """The inverse of the speed."""
    return 1 / speed(sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="ml-1m.txt; not needed for --only infer,lightgcn-large")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, runs and models.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a training; the first of several warms up")
    parser.add_argument("--users", type=int, help="take the first users only, to see that all works")
    parser.add_argument("--threads", type=int, default=2, help="cores that each contender is bound to")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    a = parser.parse_args()
    chosen = a.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not TWOTOWER.is_file():
        parser.error(f"no file {TWOTOWER}; build it with cargo build --release, or set TWOTOWER")
    if set(chosen) - MADE and not (a.data and a.data.is_file()):
        parser.error("--data must name ml-1m.txt, as SASRec's authors publish it")

    load = bind(a.threads)
    data = {"data": digest(a.data)} if set(chosen) - MADE else {}
    a.work.mkdir(parents=True, exist_ok=True)
    path = a.work / "models.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    here = machine(a.threads, TWOTOWER, PACKAGES)
    bench = Bench(a)
    for part in chosen:
        print(part, flush=True)
        identity = {"users": a.users, "epochs": a.epochs, "threads": a.threads, "program": digest(TWOTOWER),
                    "packages": here["packages"], **({} if part in MADE else data)}
        state = results.get(part, {})
        if state.get("identity") != identity:
            state = {"identity": identity, "date": datetime.date.today().isoformat(), "load_before": load,
                     "machine": here, "contenders": {}}
        results[part] = state
        try:
            contenders = PARTS[part](bench)
        except Failed as error:
            sys.exit(f"{part}: what it needs could not be made: {error}")
        take_turns(contenders, a.rounds, a.threads, state, lambda: write_json(path, results))
        state["size"] = bench.size(part)
        write_json(path, results)
        print(f"\n{report(part, list(state['contenders'].values()), state['size'])}\n", flush=True)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
