"""Whether the recall that an HNSW index states is that of users: python graph_recall.py WORK [ITEMSxDIM]...

For each shape (2000x8 to 200000x128 where none is given) it makes synthetic data in a folder of WORK, trains, lets
`recall` build and measure a graph, and searches anew in 64-bit floats for 5,000 users drawn from the stored vectors,
without what they have seen. Prints a row for each: what `index/index.json` states of its own sample of users, what the
results in `recall/` have, and the difference, which must be below .01 (exit code 1 otherwise).

TWOTOWER names the program, USERS the number of users (20,000). Needs numpy and pyarrow, as benches/peers/requirements.txt
pins them. 200,000 items take some minutes.
"""
import glob
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
TWOTOWER = os.environ.get("TWOTOWER", os.path.join(ROOT, "target/release/twotower"))
USERS = int(os.environ.get("USERS", 20_000))
SHAPES = ["2000x8", "5000x16", "20000x8", "20000x64", "50000x32", "200000x128"]
CHECKED, TOLERANCE = 5_000, 0.01
# Scores are rounded to 32 bits, so that items nearer to each other than this are equal.
EQUAL = 1e-7


def twotower(*words: str, cwd: str | None = None) -> None:
    done = subprocess.run([TWOTOWER, "--quiet", *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"twotower {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")


def make(folder: str, items: int, dim: int, settings: list[str]) -> list[str]:
    """Vectors of a trained model in `folder`, made where they are not there yet; the settings as words of a command."""
    os.makedirs(folder, exist_ok=True)
    job = open(os.path.join(ROOT, "pipeline/src/demo_pipeline.toml")).read()
    job = job.replace('kind = "dssm"', f'kind = "dssm"\nhidden = [64, {dim}]').replace("epochs = 30", "epochs = 3")
    open(f"{folder}/pipeline.toml", "w").write(job)
    if not os.path.exists(f"{folder}/data/meta.json"):
        twotower("synth", f"{folder}/data", "--users", str(USERS), "--items", str(items))
    words = [word for setting in ['infer.engine="native"', *settings] for word in ("--set", setting)]
    for stage in (["encode-features"], ["train"], ["infer", "--side", "item"], ["infer", "--side", "user"]):
        twotower(*stage, *words, cwd=folder)
    return words


def vectors(folder: str, side: str) -> tuple[list, np.ndarray]:
    """Ids and unit vectors of one side, in 64-bit floats."""
    table = pq.read_table(sorted(glob.glob(f"{folder}/run/vectors/{side}/part-*.parquet")))
    values = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    values = values.reshape(len(table), -1)
    return table["id"].to_pylist(), values / np.linalg.norm(values, axis=1, keepdims=True)


def recalls(folder: str, k: int) -> np.ndarray:
    """The recall of up to 5,000 users, drawn from all, by a search for the best `k` items that they have not seen."""
    item_ids, items = vectors(folder, "item")
    user_ids, users = vectors(folder, "user")
    place = {item: row for row, item in enumerate(item_ids)}
    seen: dict[str, set[int]] = {}
    log = pq.read_table(f"{folder}/data/interactions", columns=["user_id", "product_id"])
    for user, item in zip(log["user_id"].to_pylist(), log["product_id"].to_pylist()):
        if item in place:
            seen.setdefault(user, set()).add(place[item])
    found = pq.read_table(sorted(glob.glob(f"{folder}/run/recall/part-*.parquet")))
    assert found["user_id"].to_pylist() == user_ids, "results and vectors are of other users"
    lists = found["item_ids"]
    chosen = np.random.default_rng(0).permutation(len(users))[:CHECKED]
    shares = []
    for some in np.array_split(chosen, max(1, len(chosen) // 100)):
        for user, scores in zip(some, users[some] @ items.T):
            hidden = seen.get(user_ids[user], set())
            scores[list(hidden)] = -np.inf
            wanted = min(k, len(items) - len(hidden))
            if wanted == 0:
                continue
            least = np.partition(scores, -wanted)[-wanted] - EQUAL
            rows = [place[item] for item in lists[int(user)].as_py()]
            assert len(rows) == wanted and len(set(rows)) == wanted and not hidden.intersection(rows)
            shares.append(np.count_nonzero(scores[rows] >= least) / wanted)
    return np.array(shares)


def main() -> None:
    work, *names = sys.argv[1:]
    settings = [name for name in names if "=" in name]
    shapes = [name for name in names if "=" not in name] or SHAPES
    print("items dim ef users stated worst p5 | checked measured worst p5 | difference")
    worst = 0.0
    for shape in shapes:
        items, dim = map(int, shape.split("x"))
        folder = os.path.join(work, shape)
        words = make(folder, items, dim, settings)
        # Whatever the graph is worth, it is stated.
        twotower("recall", "--index", "hnsw", "--set", "index.min_index_recall=0", *words, cwd=folder)
        index = json.load(open(f"{folder}/run/index/index.json"))
        # A program that measures no users states one figure alone.
        users = index.get("measured") or {"users": 0, "k": 50, "mean": index["recall"], "min": np.nan, "p5": np.nan}
        measured = recalls(folder, users["k"])
        difference = abs(users["mean"] - measured.mean())
        worst = max(worst, difference)
        print(
            f"{items} {dim} {index['ef_search']} {users['users']} {users['mean']:.4f} {users['min']:.2f} {users['p5']:.2f}"
            f" | {len(measured)} {measured.mean():.4f} {measured.min():.2f} {np.quantile(measured, 0.05):.2f}"
            f" | {difference:.4f}",
            flush=True,
        )
    print(f"largest difference {worst:.4f}, allowed {TOLERANCE}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
