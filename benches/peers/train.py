"""Training steps of DSSM with in-batch softmax, batch 4,096, on random codes.

10 user and 6 item code features of width 16, the first user table with 1,000,000 rows, towers [256, 128, 64]: what
`training_speed spike` trains. Ours also corrects by logQ, masks accidental hits, clips and decays; the peers do not.
"""
import re

from contender import Contender, Job, ours, peer, serve

ROWS = 1_000_000
BATCH = 4096
STEPS = 30


def contenders(job: Job) -> list[Contender]:
    """Ours, then torch with rows of gradients and with whole tables of gradients."""
    group = "train"

    def rival(name, sparse):
        return peer(group, name, torch_steps, threads=job.threads, sparse=sparse)

    return [
        ours(group, "twotower", [job.example("training_speed"), "spike", STEPS, ROWS], read_speed),
        rival("torch, SparseAdam", True),
        rival("torch, dense Adam", False),
    ]


def read_speed(out: str, _: float) -> dict:
    """The sample of our example's line, `… examples/s, … ms a step, …`."""
    speed, step = map(float, re.search(r"([\d.]+) examples/s.*, ([\d.]+) ms a step", out).groups())
    return {"rows": BATCH * STEPS, "seconds": BATCH * STEPS / speed, "ms_a_step": step}


def torch_steps(threads: int, sparse: bool) -> dict:
    """Two steps to warm up, then `STEPS` steps."""
    import time

    import torch

    from towers import Tower
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    sizes = [ROWS] + 9 * [100], 6 * [10_000]
    users, items = (torch.stack([torch.randint(n, (count,)) for n in cardinalities], dim=1)
                    for cardinalities, count in zip(sizes, (200_000, 100_000)))
    towers = [Tower(cardinalities, 16, [256, 128, 64], sparse=sparse) for cardinalities in sizes]
    tables = [p for t in towers for p in t.tables.parameters()]
    layers = [p for t in towers for p in t.layers.parameters()]
    adam, lr = torch.optim.Adam, 1e-3
    optimisers = [adam(layers, lr=lr), (torch.optim.SparseAdam if sparse else adam)(tables, lr=lr)]
    labels = torch.arange(BATCH)
    for step in range(STEPS + 2):
        if step == 2:
            began = time.perf_counter()
        # Squared uniforms give the items a popularity with a head and a tail.
        user, item = torch.randint(len(users), (BATCH,)), (torch.rand(BATCH) ** 2 * len(items)).long()
        logits = towers[0](users[user]) @ towers[1](items[item]).T / 0.05
        loss = torch.nn.functional.cross_entropy(logits, labels)
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    seconds = time.perf_counter() - began
    return {"rows": BATCH * STEPS, "seconds": seconds, "ms_a_step": round(seconds / STEPS * 1e3, 1)}


if __name__ == "__main__":
    serve(globals())
