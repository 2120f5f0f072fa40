"""Events of every user of a synthetic data set, in random order: python events.py DATA PER_USER

`twotower synth` gives events to one user in twenty. This writes DATA/events/*.parquet, a file for each file of
DATA/users, with PER_USER events of each user: items near one that the user likes, popular ones more often. Needs numpy
and pyarrow, as benches/peers/requirements.txt pins them.
"""
import glob
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def main() -> None:
    data, per_user = sys.argv[1], int(sys.argv[2])
    items = np.array(pq.read_table(f"{data}/items.parquet", columns=["product_id"])["product_id"].to_pylist())
    popularity = 1 / np.arange(1, len(items) + 1) ** 0.6
    rng = np.random.default_rng(7)
    os.makedirs(f"{data}/events", exist_ok=True)
    for number, path in enumerate(sorted(glob.glob(f"{data}/users/*.parquet"))):
        ids = pq.read_table(path, columns=["user_id"])["user_id"].combine_chunks()
        liked = rng.choice(len(items), len(ids), p=popularity / popularity.sum())
        order = rng.permutation(len(ids) * per_user)
        user = np.repeat(np.arange(len(ids)), per_user)
        item = (np.repeat(liked, per_user) + rng.integers(0, 40, len(user))) % len(items)
        time = rng.integers(1_750_000_000, 1_760_000_000, len(user))
        table = {
            "user_id": ids.take(pa.array(user[order])),
            "product_id": pa.array(items[item[order]]),
            "ts": pa.array(time[order]),
        }
        pq.write_table(pa.table(table), f"{data}/events/part-{number:05}.parquet")


if __name__ == "__main__":
    main()
