"""How many recalled items two runs have in common: python agreement.py RUN RUN, with Parquet lists in RUN/recall.

Prints the share of the first run's items that the second has for the same user, and the largest difference of the
similarity of a rank. Needs polars, as benches/peers/requirements.txt pins it.
"""
import sys

import polars as pl


def recalled(run: str) -> pl.DataFrame:
    """A row a user: its items, best first, and their similarities."""
    return pl.read_parquet(f"{run}/recall/*.parquet", columns=["user_id", "item_ids", "cosine_similarity"])


first, second = map(recalled, sys.argv[1:3])
assert first["user_id"].equals(second["user_id"]), "the runs recall for other users, or in another order"
both = first.with_columns(other=second["item_ids"], rank=second["cosine_similarity"])
common = both.select(pl.col("item_ids").list.set_intersection("other").list.len().sum()).item()
apart = (both["cosine_similarity"].explode() - both["rank"].explode()).abs().max()
items = first["item_ids"].list.len().sum()
print(f"{first.height:,} users: {common / items:.4%} of {items:,} items in common, similarities of a rank within {apart:.1e}")
