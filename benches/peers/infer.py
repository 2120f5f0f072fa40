"""User rows to vectors: tower 13 features, embedding 16, [256, 128, 64].

Ours goes from raw Parquet to vectors on disk, as a whole process. The peers start from codes that we encoded, in
memory, and leave the vectors in memory.
"""
import shutil
from pathlib import Path

from contender import Contender, Job, ours, peer, serve
from encode import BOOLEAN, CATEGORICAL, NUMERIC, codes_of, command

# Name, engine, precision of the stored vectors.
OURS = [
    ("ort", "ort", "f32"),
    ("native", "native", "f32"),
    ("native-int16", "native-int16", "f32"),
    ("native-int16, f16 vectors", "native-int16", "f16"),
]
CODES = CATEGORICAL + BOOLEAN
HIDDEN = [256, 128, 64]
EMBEDDING = 16
LOADER_WORKERS = 8  # what Torch-RecHub's generator of loaders takes where it is not told


def prepare(job: Job) -> list[Contender]:
    """Copies the trained run for each of ours; the codes of all users, unless the encode section left them."""
    for name, _, _ in OURS:
        for part in ("encoders", "towers"):
            shutil.copytree(job.demo / "run" / part, run_of(job, name) / part, dirs_exist_ok=True)
    return [] if codes_of(job).exists() else [ours("codes", "codes of all users", command(job), lambda *_: {})]


def run_of(job: Job, name: str) -> Path:
    """The run folder of one of ours."""
    return job.work / f"infer-{name.replace(', ', '-').replace(' ', '-')}"


def contenders(job: Job) -> list[Contender]:
    """Ours, then the peers."""
    group, codes = "infer", codes_of(job)

    def engine(name, engine, precision):
        argv = [job.twotower, "infer", "--config", job.demo / "pipeline.toml", "--run", run_of(job, name),
                "--side", "user", "--engine", engine, "--set", f"infer.precision={precision}", "--force", "--json", "-q"]
        return ours(group, f"twotower, {name}", argv, lambda _, wall: {"rows": job.users, "seconds": wall},
                    "whole process, raw Parquet to vectors on disk", output=run_of(job, name) / "vectors")

    def onnx(sessions, threads, batch):
        return peer(group, f"onnxruntime, {sessions} x {threads} threads, batch {batch}", onnxruntime_loop,
                    "our user_tower.onnx, codes in memory, batches cut beforehand",
                    tower=job.demo / "run" / "towers" / "user_tower.onnx", codes=codes, sessions=sessions,
                    threads=threads, batch=batch)

    def torch(batch):
        return peer(group, f"torch eval, batch {batch}", torch_slices, "same shape, slices of tensors in memory",
                    codes=codes, threads=job.threads, batch=batch)

    def rechub(workers):
        return peer(group, f"Torch-RecHub inference_embedding, {workers} loader workers", rechub_embedding,
                    "codes in memory, batch 4096" + "; the library's default" * (workers == LOADER_WORKERS),
                    codes=codes, threads=job.threads, workers=workers, scratch=job.work)

    return [
        *(engine(*each) for each in OURS),
        onnx(job.threads, 1, 256), onnx(job.threads, 1, 512), onnx(1, job.threads, 1024),
        torch(1024), torch(4096), torch(16384),
        rechub(0), rechub(job.threads), rechub(LOADER_WORKERS),
    ]


def load(codes: str) -> dict:
    """The tower's inputs by name: int32 `[rows]` for codes, float32 `[rows, 2]` (value, missing) for numbers."""
    import numpy as np
    import pyarrow.parquet as pq
    table = pq.read_table(codes, columns=CODES + NUMERIC).combine_chunks()
    inputs = {c: table[c].to_numpy().astype(np.int32) for c in CODES}
    for c in NUMERIC:
        inputs[c] = table[c].chunk(0).flatten().to_numpy().reshape(-1, 2)
    return inputs


def onnxruntime_loop(tower: str, codes: str, sessions: int, threads: int, batch: int) -> dict:
    """A bare loop of ONNX Runtime: `sessions` callers of `threads` threads each, on halves of the rows."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import onnxruntime as ort

    from contender import timed
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    inputs = load(codes)
    rows = len(inputs[CODES[0]])
    out = np.empty((rows, HIDDEN[-1]), np.float32)
    starts = np.array_split(np.arange(0, rows, batch), sessions)
    feeds = [[(i, {c: v[i:i + batch] for c, v in inputs.items()}) for i in part] for part in starts]
    callers = [ort.InferenceSession(tower, options, providers=["CPUExecutionProvider"]) for _ in feeds]

    def call(caller, part):
        for i, feed in part:
            out[i:i + batch] = caller.run(None, feed)[0]

    with ThreadPoolExecutor(sessions) as pool:
        sample = timed(lambda: list(pool.map(call, callers, feeds)), rows)
    assert abs(np.linalg.norm(out, axis=1) - 1).max() < 1e-3, "vectors are not of unit length"
    return sample


def torch_slices(codes: str, threads: int, batch: int) -> dict:
    """A tower of the same shape in plain torch, random weights."""
    import torch

    from contender import timed
    from towers import Tower
    torch.set_num_threads(threads)
    inputs = load(codes)
    rows = len(inputs[CODES[0]])
    ids = torch.stack([torch.from_numpy(inputs[c]) for c in CODES], dim=1)
    numbers = torch.cat([torch.from_numpy(inputs[c].copy()) for c in NUMERIC], dim=1)
    tower = Tower((ids.amax(0) + 1).tolist(), EMBEDDING, HIDDEN, numbers=numbers.shape[1]).eval()

    def embed():
        with torch.inference_mode():
            return torch.cat([tower(ids[i:i + batch], numbers[i:i + batch]) for i in range(0, rows, batch)])

    return timed(embed, rows)


def rechub_embedding(codes: str, threads: int, workers: int, scratch: str) -> dict:
    """`MatchTrainer.inference_embedding` over the library's own loader, as its examples do; random weights."""
    import tempfile
    import time

    import torch
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.matching import DSSM
    from torch_rechub.trainers import MatchTrainer
    from torch_rechub.utils.data import MatchDataGenerator
    torch.set_num_threads(threads)
    inputs = load(codes)
    users = {**{c: inputs[c] for c in CODES}, **{c: inputs[c][:, 0].copy() for c in NUMERIC}}
    features = [SparseFeature(c, int(users[c].max()) + 1, embed_dim=EMBEDDING) for c in CODES]
    features += [DenseFeature(c) for c in NUMERIC]
    shape = {"dims": HIDDEN, "activation": "prelu"}
    model = DSSM(features, [SparseFeature("item", 10, embed_dim=EMBEDDING)], user_params=shape, item_params=shape)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        torch.save(model.state_dict(), f"{folder}/model.pth")
        trainer = MatchTrainer(model, device="cpu", model_path=folder)
        _, loader, _ = MatchDataGenerator(users).generate_dataloader(users, users, batch_size=4096, num_workers=workers)
        began = time.perf_counter()
        vectors = trainer.inference_embedding(model, "user", loader, folder)
        return {"rows": len(vectors), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    serve(globals())
