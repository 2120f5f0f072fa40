"""Vectors of items and users of a model trained on synthetic data: python search_vectors.py DIR ITEMS

Writes DIR/items.f32 and DIR/queries.f32, rows of 64 little-endian floats; the job that they are of stays in DIR.
Users are the queries, since a graph finds less for users of a trained model than for queries that are drawn as items are.
"""
import sys

import numpy as np

import graph_recall

DIM = 64


def main():
    folder, items = sys.argv[1], int(sys.argv[2])
    graph_recall.make(f"{folder}/{items}", items, DIM, [])
    queries = min(graph_recall.USERS, max(4_000, 400_000_000 // items))
    for name, side, rows in (("items", "item", items), ("queries", "user", queries)):
        _, vectors = graph_recall.vectors(f"{folder}/{items}", side)
        chosen = np.random.default_rng(1).permutation(len(vectors))[:rows]
        vectors[chosen].astype("<f4").tofile(f"{folder}/{name}.f32")


main()
