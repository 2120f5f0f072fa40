"""Top-50 of unit vectors of 64 dimensions by inner product.

The vectors have rank 16 plus some noise, which is nearer to trained towers than isotropic vectors are. Graphs are
searched with the smallest ef that reaches recall@50 of 0.99 on 1,000 queries. Indexes are built once and kept.
Queries are drawn as the items are, for all contenders alike: users of a trained model get less recall at the same ef.
"""
import json
import time
from pathlib import Path

from contender import Contender, Job, ours, peer, serve, timed

DIM, K, RANK = 64, 50, 16
M, EF_CONSTRUCTION, RECALL = 16, 200, 0.99
SHAPE = f"M {M}, efC {EF_CONSTRUCTION}"
GRAPH_FROM = 20_000  # items
ANNOY_UP_TO = 2_000  # items


def contenders(job: Job) -> list[Contender]:
    """Exact search at every number of items, graphs where they may pay."""
    return [contender for items in job.items for contender in at(job, items)]


def prepare(job: Job) -> list[Contender]:
    """Writes the vectors, once."""
    out = job.work / "vectors"
    return [peer("vectors", f"{items} vectors", write_vectors, items=items, queries=count(items), out=out)
            for items in job.items if not (out / f"{items}.queries.f32").exists()]


def count(items: int) -> int:
    """Queries for a catalogue: enough for a second or more of search."""
    return min(200_000, max(10_000, 400_000_000 // items))


def at(job: Job, items: int) -> list[Contender]:
    """The contenders at one number of items."""
    folder = job.work / "vectors"
    program = job.example("search_speed")
    # An index of ours serves the program that built it.
    kept = folder / f"{items}.twotower-{program.stat().st_mtime_ns if program.exists() else 0}"
    data = {"base": folder / f"{items}.items.f32", "queries": folder / f"{items}.queries.f32", "threads": job.threads}

    def twotower(kind, *more):
        argv = [program, "--items", data["base"], "--queries", data["queries"], "--dim", DIM, "--k", K,
                "--kind", kind, "--threads", job.threads, "--repeats", 3, *more]
        return ours(f"{kind}, {items:,} items", f"twotower, {kind}", argv, lambda out, _: read_search(out, items, kept))

    def rival(kind, name, function, note="", **more):
        return peer(f"{kind}, {items:,} items", name, function, note, **data, **more)

    yield twotower("exact")
    yield rival("exact", "faiss IndexFlatIP", faiss_flat)
    yield rival("exact", "torch matmul + topk", torch_topk)
    if items <= ANNOY_UP_TO:
        yield rival("exact", "annoy, 10 trees", annoy_default, "Torch-RecHub's index and settings; approximate")
    if items >= GRAPH_FROM:
        yield twotower("hnsw", "--m", M, "--ef-construction", EF_CONSTRUCTION, "--target-recall", RECALL,
                       "--parallel-build", "--index", kept)
        yield rival("hnsw", "hnswlib", hnswlib_graph, SHAPE, index=folder / f"{items}.hnswlib")
        yield rival("hnsw", "faiss HNSW", faiss_graph, SHAPE, index=folder / f"{items}.faiss")


def read_search(out: str, items: int, index: Path) -> dict:
    """The sample of our example's JSON line; `index` is where it keeps a graph."""
    found = json.loads(out.splitlines()[-1])
    sample = {"rows": count(items), "seconds": count(items) / found["qps"]}
    if found["kind"] == "exact":
        return {**sample, "peak_fraction": found["peak_fraction"]}
    seconds = round(first(str(index), found["build_seconds"]), 1)
    return {**sample, "recall": found["recall"], "ef": found["ef"], "build_seconds": seconds}


def write_vectors(items: int, queries: int, out: str) -> dict:
    """Files of little-endian f32, row after row."""
    import numpy as np
    began = time.perf_counter()
    Path(out).mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    base = rng.standard_normal((RANK, DIM), np.float32) / np.sqrt(RANK)
    for name, n in (("items", items), ("queries", queries)):
        x = rng.standard_normal((n, RANK), np.float32) @ base + 0.2 * rng.standard_normal((n, DIM), np.float32)
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("<f4").tofile(f"{out}/{items}.{name}.f32")
    return {"rows": items + queries, "seconds": time.perf_counter() - began}


def read(path: str):
    """The rows of a file of vectors."""
    import numpy as np
    return np.fromfile(path, "<f4").reshape(-1, DIM)


def exact(base, threads: int):
    """faiss' exact index."""
    import faiss
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(DIM)
    index.add(base)
    return index


def recall(found, truth) -> float:
    """Share of the true neighbours that were found."""
    import numpy as np
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, truth)]) / K)


def faiss_flat(base: str, queries: str, threads: int) -> dict:
    """Batch search of all queries in one call."""
    index, q = exact(read(base), threads), read(queries)
    return timed(lambda: index.search(q, K), len(q))


def torch_topk(base: str, queries: str, threads: int) -> dict:
    """Batches of 1,024 queries (128 from 100,000 items on, so that scores stay small)."""
    import torch
    torch.set_num_threads(threads)
    b, q = torch.from_numpy(read(base)).T.contiguous(), torch.from_numpy(read(queries))
    batch = 1024 if b.shape[1] < 100_000 else 128
    return timed(lambda: [torch.topk(part @ b, K) for part in q.split(batch)], len(q))


def annoy_default(base: str, queries: str, threads: int) -> dict:
    """As Torch-RecHub's wrapper queries it, but from `threads` threads."""
    from concurrent.futures import ThreadPoolExecutor

    from annoy import AnnoyIndex
    b, q = read(base), read(queries)[:20_000]
    index = AnnoyIndex(DIM, "angular")
    index.set_seed(1)
    for i, vector in enumerate(b):
        index.add_item(i, vector)
    index.build(10)

    def search(part):
        return [index.get_nns_by_vector(v, K) for v in part]

    parts = [q[i::threads] for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        sample = timed(lambda: list(pool.map(search, parts)), len(q))
    return {**sample, "recall": recall(search(q[:1000]), exact(b, threads).search(q[:1000], K)[1])}


def hnswlib_graph(base: str, queries: str, threads: int, index: str) -> dict:
    """hnswlib, inner product."""
    import hnswlib
    b = read(base)
    graph = hnswlib.Index("ip", DIM)

    def build():
        graph.init_index(len(b), M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
        graph.add_items(b, num_threads=threads)
        graph.save_index(index)

    seconds = once(index, build)
    graph.load_index(index)

    def search(ef, q):
        graph.set_ef(ef)
        return graph.knn_query(q, K, num_threads=threads)[0]

    return graph_sample(b, queries, threads, search, seconds)


def faiss_graph(base: str, queries: str, threads: int, index: str) -> dict:
    """faiss IndexHNSWFlat, inner product."""
    import faiss
    faiss.omp_set_num_threads(threads)
    b = read(base)

    def build():
        graph = faiss.IndexHNSWFlat(DIM, M, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = EF_CONSTRUCTION
        graph.add(b)
        faiss.write_index(graph, index)

    seconds = once(index, build)
    graph = faiss.read_index(index)

    def search(ef, q):
        graph.hnsw.efSearch = ef
        return graph.search(q, K)[1]

    return graph_sample(b, queries, threads, search, seconds)


def once(index: str, build) -> float:
    """Seconds of the build that made the file `index`, now or earlier; a file beside it keeps them."""
    began = time.perf_counter()
    if not built(index).exists():
        build()
    return first(index, time.perf_counter() - began)


def first(index: str, seconds: float) -> float:
    """The seconds given when this was first called for `index`."""
    if not built(index).exists():
        built(index).write_text(str(seconds))
    return float(built(index).read_text())


def built(index: str) -> Path:
    """Says that an index is complete, and how long it took."""
    return Path(f"{index}.seconds")


def graph_sample(base, queries: str, threads: int, search, build_seconds: float) -> dict:
    """Bisects for the smallest ef that reaches the recall, then times all queries with it."""
    q = read(queries)
    few = q[:1000]
    truth = exact(base, threads).search(few, K)[1]
    low, high = K, 2048
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(search(middle, few), truth) >= RECALL else (middle + 1, high)
    return {**timed(lambda: search(low, q), len(q)), "recall": round(recall(search(low, few), truth), 4), "ef": low,
            "build_seconds": round(build_seconds, 1)}


if __name__ == "__main__":
    serve(globals())
