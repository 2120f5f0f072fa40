"""Unit vectors of low rank with noise, closer to trained towers than isotropic ones.

    search_vectors.py DIR ITEMS      writes DIR/items.f32 and DIR/queries.f32, rows of 64 little-endian floats
"""
import sys

import numpy as np

DIM, RANK = 64, 16


def main():
    folder, items = sys.argv[1], int(sys.argv[2])
    queries = min(40_000, max(4_000, 400_000_000 // items))
    rng = np.random.default_rng(1)
    base = rng.standard_normal((RANK, DIM))
    for name, rows in (("items", items), ("queries", queries)):
        x = rng.standard_normal((rows, RANK)) @ base / np.sqrt(RANK) + 0.2 * rng.standard_normal((rows, DIM))
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("<f4").tofile(f"{folder}/{name}.f32")


main()
