"""What models.py runs as processes of their own: making data, and training and embedding in PyTorch.

Data are tables and a job for twotower, and arrays for PyTorch, of the same events.

A folder holds user.parquet, item.parquet, events.parquet and pipeline.toml for twotower, and events.npz for PyTorch:
`offsets` of users' events, their `items` from 1, their `times` in seconds, and `catalogue`, the number of items. Those
of graphs hold `users`, `items` (from 0) and `nodes`, the numbers of users and of items.
"""
import json
from pathlib import Path

from contender import serve

LONGEST = 201  # events of a user in training: 200 to read, and each but the first to predict
BATCH_USERS = 128
ITEMS = 2000  # of the inference part
START = 1_700_000_000  # of the clocks that are made here
YEAR = 31_536_000
CLOCK_SEED = 7


def cut(source: str, out: str, users: int | None) -> dict:
    """The last `LONGEST` events of each of the first `users` users of a file of lines `user item`, with a clock made
    here: an event follows the one before it after 100 to 10,000 s. The catalogue is that of the whole file."""
    import numpy as np
    pairs = np.loadtxt(source, dtype=np.int64, ndmin=2)[:, :2]
    catalogue = np.unique(pairs[:, 1])
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    ids, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    ids, starts, counts = ids[:users], starts[:users], counts[:users]
    kept = np.minimum(counts, LONGEST)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    # Of user u, the last kept[u] rows of starts[u] .. starts[u] + counts[u].
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept) + np.repeat(starts + counts - kept, kept)
    gaps = np.random.default_rng(CLOCK_SEED).integers(100, 10_001, offsets[-1])
    passed = np.cumsum(gaps)
    times = START + passed - np.repeat(passed[offsets[:-1]], kept)
    items = np.searchsorted(catalogue, pairs[rows, 1]) + 1
    write(Path(out), ids, catalogue, offsets, items, times, f"""{ALL_TRAIN}
[train]
batch_size = {round(BATCH_USERS * offsets[-1] / len(ids))}
beta2 = 0.98
schedule = "constant"
""")
    size = {"users": len(ids), "items": len(catalogue), "events": int(offsets[-1]), "positions": int((kept - 1).sum())}
    (Path(out) / "size.json").write_text(json.dumps(size))
    return size


def make(out: str, users: int, history: int) -> dict:
    """Users with `history` different items each. Every hundredth user's events are a year older than the others', and
    these alone train: weights do not matter here."""
    import numpy as np
    user, place = np.arange(users)[:, None], np.arange(history)
    first = (np.random.default_rng(history).random((users, 1)) ** 2 * ITEMS).astype(np.int64)
    items = (first + place * (1 + user % 37)) % ITEMS + 1
    times = START + user % 1000 + 1000 * place - YEAR * (user % 100 == 0)
    before = START - YEAR // 2
    write(Path(out), user[:, 0], np.arange(1, ITEMS + 1), np.arange(users + 1) * history, items.reshape(-1),
          times.reshape(-1), f"""
[split]
kind = "time"
validation_from = {before}
test_from = {before}

[train]
epochs = 1
loss = {{ bce = {{ negatives = 1 }} }}
""")
    return {}


def write(out: Path, users, catalogue, offsets, items, times, settings: str) -> None:
    """The folder of sequences. The model is set on the command line."""
    import numpy as np
    user = np.repeat(users, np.diff(offsets))
    tables(out, users, catalogue, user, catalogue[items - 1], times, settings)
    np.savez(out / "events.npz", offsets=offsets, items=items, times=times, catalogue=len(catalogue))


def tables(out: Path, users, catalogue, user, item, times, settings: str) -> None:
    """The tables and the job. Features and model are set on the command line."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    out.mkdir(parents=True, exist_ok=True)
    written = {"user": {"user": users}, "item": {"item": catalogue},
               "events": {"user": user, "item": item, "time": times}}
    for name, columns in written.items():
        pq.write_table(pa.table(columns), out / f"{name}.parquet")
    (out / "pipeline.toml").write_text(f"""# Written by benches/peers/model_peers.py.

[tables.users]
path = "user.parquet"
id = "user"

[tables.items]
path = "item.parquet"
id = "item"

[tables.interactions]
path = "events.parquet"
user = "user"
item = "item"
timestamp = "time"
timestamp_unit = "second"

[features]
user = [{{ kind = "sequence", name = "recent", max_len = 200 }}]
item = [{{ kind = "id", name = "item" }}]
{settings}""")


# Every event trains, and neither side needs a schedule.
ALL_TRAIN = """
[split]
kind = "ratio"
validation = 0.0
test = 0.0
"""


def pairs(source: str, out: str) -> dict:
    """The distinct pairs of a file of lines `user item`."""
    import numpy as np
    events = np.loadtxt(source, dtype=np.int64, ndmin=2)[:, :2]
    return graph(Path(out), events[:, 0], events[:, 1])


def drawn(out: str, users: int, items: int, edges: int) -> dict:
    """About `edges` distinct pairs: users drawn uniformly, items with a head and a tail."""
    import numpy as np
    rng = np.random.default_rng(1)
    user = rng.integers(0, users, edges)
    item = (rng.random(edges) ** 2 * items).astype(np.int64)
    return graph(Path(out), user, item)


def graph(out: Path, users, items) -> dict:
    """The folder of a graph with these pairs."""
    import numpy as np
    (user_ids, users), (item_ids, items) = (np.unique(of, return_inverse=True) for of in (users, items))
    key = np.unique(users * len(item_ids) + items)
    users, items = key // len(item_ids), key % len(item_ids)
    times = START + np.arange(len(key))
    tables(out, user_ids, item_ids, user_ids[users], item_ids[items], times, ALL_TRAIN)
    nodes = np.array([len(user_ids), len(item_ids)])
    np.savez(out / "graph.npz", users=users, items=items, nodes=nodes)
    size = {"users": len(user_ids), "items": len(item_ids), "edges": len(key)}
    (out / "size.json").write_text(json.dumps(size))
    return size


def epochs_sample(positions: int, seconds: list[float]) -> dict:
    """The sample of a training, given the seconds of its epochs."""
    timed = seconds[1:] or seconds
    return {"rows": positions, "seconds": sum(timed) / len(timed), "epochs": seconds}


def train_in_torch(folder: str, threads: int, form: str, loss: str, epochs: int, span: int | None = None) -> dict:
    """Epochs over all users, 128 a batch; the first warms up, if there are more. `loss` is `bce`, with a negative per
    position, or `softmax`, over the catalogue. Both are computed at real positions only, batches are cut from arrays
    made beforehand, and Adam is fused."""
    import time

    import numpy as np
    import torch
    from torch.nn import functional

    from torch_sequence import Sasrec, Users
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    rng, users = np.random.default_rng(1), Users(folder)
    model = Sasrec(form, users.catalogue, LONGEST - 1, 50, span=span).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    seconds, losses = [], []
    for _ in range(epochs):
        began, total = time.perf_counter(), 0.0
        order = rng.permutation(len(users.read))
        for start in range(0, len(order), BATCH_USERS):
            batch = order[start:start + BATCH_USERS]
            read, predict, times = (torch.from_numpy(of[batch]) for of in (users.read, users.predict, users.times))
            real = predict != 0
            states, positives = model(read, times)[real], predict[real]
            if loss == "softmax":
                value = functional.cross_entropy(states @ model.items.weight[1:].T, positives - 1)
            else:
                negatives = users.negatives(rng, np.repeat(batch, real.sum(1).numpy()))
                scores = torch.stack([(states * model.items(items)).sum(-1) for items in (positives, negatives)])
                labels = torch.tensor([[1.0], [0.0]]).expand_as(scores)
                value = 2 * functional.binary_cross_entropy_with_logits(scores, labels)
            adam.zero_grad()
            value.backward()
            adam.step()
            total += value.item() * len(positives)
        seconds.append(time.perf_counter() - began)
        losses.append(total / int((users.predict != 0).sum()))
    return {**epochs_sample(int((users.predict != 0).sum()), seconds), "losses": losses}


def train_graph_in_torch(folder: str, threads: int, form: str, layers: int, dim: int, batch: int, epochs: int) -> dict:
    """Epochs of LightGCN with BPR and a uniform negative over all pairs in random order; the first warms up, if there are
    more. Adam is fused."""
    import time

    import numpy as np
    import torch
    from torch.nn import functional

    from torch_graph import LightGCN
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    with np.load(f"{folder}/graph.npz") as edges:
        users, items = (torch.from_numpy(edges[name]) for name in ("users", "items"))
        nodes = edges["nodes"].tolist()
    model = LightGCN(form, users, items, nodes, layers, dim)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    seconds, losses = [], []
    for _ in range(epochs):
        began, total = time.perf_counter(), 0.0
        order = torch.randperm(len(users))
        for start in range(0, len(order), batch):
            mine = order[start:start + batch]
            rows = (users[mine], nodes[0] + items[mine], nodes[0] + torch.randint(nodes[1], (len(mine),)))
            final = model()
            user, positive, negative = (final[of] for of in rows)
            value = functional.softplus(((negative - positive) * user).sum(-1)).mean()
            first = [model.first[of] for of in rows]
            adam.zero_grad()
            (value + 1e-4 / 2 / len(mine) * sum(of.square().sum() for of in first)).backward()
            adam.step()
            total += value.item() * len(mine)
        seconds.append(time.perf_counter() - began)
        losses.append(total / len(users))
    return {**epochs_sample(len(users), seconds), "losses": losses}


def embed_in_torch(folder: str, threads: int, form: str, dim: int, batches: list[int]) -> dict:
    """One pass over all users in memory, with the batch size that is fastest on the first 8,192 of them."""
    import time

    import numpy as np
    import torch
    from torch.nn import functional

    from contender import timed
    from torch_sequence import Sasrec
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    with np.load(f"{folder}/events.npz") as events:
        users = len(events["offsets"]) - 1
        histories = torch.from_numpy(events["items"].reshape(users, -1))
        model = Sasrec(form, int(events["catalogue"]), histories.shape[1], dim).eval()

    def vectors(of, batch):
        with torch.inference_mode():
            parts = [model(of[i:i + batch])[:, -1] for i in range(0, len(of), batch)]
            return functional.normalize(torch.cat(parts))

    few = histories[:8192]
    speeds = {batch: timed(lambda: vectors(few, batch), 1, at_least=1.0) for batch in batches}
    best = min(batches, key=lambda batch: speeds[batch]["seconds"] / speeds[batch]["rows"])
    began = time.perf_counter()
    assert vectors(histories, best).shape == (users, dim)
    return {"rows": users, "seconds": time.perf_counter() - began, "batch": best}


def sgemm(threads: int, size: int = 1024) -> dict:
    """Products of two square f32 matrices; a row is 10^9 operations."""
    import torch

    from contender import timed
    torch.set_num_threads(threads)
    a, b, out = (torch.randn(size, size) for _ in range(3))
    return timed(lambda: torch.mm(a, b, out=out), 2 * size ** 3 / 1e9)


if __name__ == "__main__":
    serve(globals())
