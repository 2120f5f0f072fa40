"""Vocabularies and codes of the users, Parquet to Parquet: 8 categorical, 2 boolean, 3 numeric features.

Each peer reads the users' files, collects every column's distinct values (and the numeric columns' mean and
deviation), maps, and writes ids, codes and values. A null (or, in a boolean, a word for it) is code 1, an unreadable
boolean 2, values go from 3 on.
"""
import time
from collections.abc import Callable
from pathlib import Path

from contender import Contender, Job, ours, peer, serve

ENCODE = ["encode-features", "--all-users", "--without-positives", "--force", "--json", "-q"]
CATEGORICAL = ["gender", "age_band", "channel", "brand", "city", "plan_id", "model", "district"]
BOOLEAN = ["is_5g", "is_family"]
LOGARITHM = ["arpu", "data_gb"]
NUMERIC = [*LOGARITHM, "tenure"]
MISSING, UNKNOWN, FIRST = 1, 2, 3
WORDS = {
    **dict.fromkeys(["", "NULL", "\\N"], MISSING),
    **dict.fromkeys(["false", "0", "N", "否"], FIRST),
    **dict.fromkeys(["true", "1", "Y", "是"], FIRST + 1),
}
COMPRESSION = "lz4"  # as ours


def codes_of(job: Job) -> Path:
    """Our codes of all users, after this section has run."""
    return job.work / "encode" / "encoders" / "users-all.parquet"


def command(job: Job) -> list:
    """Our command."""
    return [job.twotower, *ENCODE, "--config", job.demo / "pipeline.toml", "--run", job.work / "encode"]


def contenders(job: Job) -> list[Contender]:
    """Ours, then the peers."""
    folder, group = job.demo / "data" / "users", "encode"

    def rival(name, function, note=""):
        return peer(group, name, function, note, folder=folder, out=output(job, function))

    return [
        ours(group, "twotower", command(job), lambda _, wall: {"rows": job.users, "seconds": wall},
             "whole process; items too", output=job.work / "encode"),
        rival("pandas, dictionaries", pandas_dictionaries, "in memory"),
        rival("polars, Enum", polars_enum, "two streaming scans"),
        rival("polars, Enum, in memory", polars_enum_memory, "read once"),
        rival("polars, Categorical", polars_categorical, "one streaming scan"),
        rival("polars, replace_strict", polars_replace, "two streaming scans"),
    ]


def checks(job: Job) -> list[Contender]:
    """For each peer, the comparison of its codes with ours."""
    return [peer("codes", function.__name__, check, theirs=output(job, function), our_codes=codes_of(job))
            for function in (pandas_dictionaries, polars_enum, polars_enum_memory, polars_categorical, polars_replace)]


def output(job: Job, function: Callable) -> Path:
    """Where a peer leaves its codes."""
    return job.work / f"{function.__name__}.parquet"


def pandas_dictionaries(folder: str, out: str) -> dict:
    """A dictionary per column, `Series.map`, the way a pandas user writes it."""
    import numpy as np
    import pandas as pd
    began = time.perf_counter()
    users = pd.concat([pd.read_parquet(f) for f in sorted(Path(folder).glob("*.parquet"))], ignore_index=True)
    vocabularies = {c: {v: i + FIRST for i, v in enumerate(users[c].dropna().unique())} for c in CATEGORICAL}
    codes = pd.DataFrame({"user_id": users["user_id"]})
    for c in CATEGORICAL + BOOLEAN:
        mapped = users[c].map(vocabularies.get(c, WORDS)).fillna(UNKNOWN)
        codes[c] = mapped.where(users[c].notna(), MISSING).astype(np.uint32)
    for c in NUMERIC:
        x = np.log1p(users[c]) if c in LOGARITHM else users[c]
        codes[c] = ((x - x.mean()) / x.std()).fillna(0).astype(np.float32)
    codes.to_parquet(out, compression=COMPRESSION, index=False)
    return {"rows": len(users), "seconds": time.perf_counter() - began}


def polars_enum(folder: str, out: str) -> dict:
    """Distinct values make an Enum; a cast to it is the code."""
    return polars_encode(folder, out, enum_code)


def polars_enum_memory(folder: str, out: str) -> dict:
    """The same on a frame held in memory."""
    return polars_encode(folder, out, enum_code, memory=True)


def polars_replace(folder: str, out: str) -> dict:
    """Distinct values make a dictionary for `replace_strict`."""
    return polars_encode(folder, out, replace_code)


def polars_categorical(folder: str, out: str) -> dict:
    """A cast to Categorical collects the values while it codes them: one scan for them, one for the numbers."""
    return polars_encode(folder, out, categorical_code, fitted=[])


def enum_code(column, values):
    import polars as pl
    kind = pl.Enum(values.cast(pl.String))
    return column.cast(pl.String).cast(kind, strict=False).to_physical().cast(pl.UInt32) + FIRST


def replace_code(column, values):
    import polars as pl
    codes = pl.Series(range(FIRST, FIRST + len(values)), dtype=pl.UInt32)
    return column.replace_strict(values, codes, default=None, return_dtype=pl.UInt32)


def categorical_code(column, _):
    import polars as pl
    kind = pl.Categorical(pl.Categories(column.meta.output_name()))
    return column.cast(pl.String).cast(kind).to_physical().cast(pl.UInt32) + FIRST


def polars_encode(folder: str, out: str, code, memory: bool = False, fitted: list[str] = CATEGORICAL) -> dict:
    """Fits in one lazy query and encodes in another; `code` makes codes of a column, given the values of `fitted`."""
    import polars as pl

    def number(c):
        x = pl.col(c).cast(pl.Float64)
        return x.log1p() if c in LOGARITHM else x

    began = time.perf_counter()
    users = pl.read_parquet(f"{folder}/*.parquet").lazy() if memory else pl.scan_parquet(f"{folder}/*.parquet")
    fit = users.select(
        *(pl.col(c).unique().drop_nulls().implode() for c in fitted),
        *(number(c).mean().alias(f"{c} mean") for c in NUMERIC),
        *(number(c).std().alias(f"{c} deviation") for c in NUMERIC),
        rows=pl.len(),
    ).collect(engine="streaming").row(0, named=True)
    values = {c: pl.Series(fit[c]) for c in fitted}
    words = pl.Series(list(WORDS)), pl.Series(list(WORDS.values()), dtype=pl.UInt32)
    encoded = users.select(
        "user_id",
        *(code(pl.col(c), values.get(c)).fill_null(MISSING) for c in CATEGORICAL),
        *(pl.when(pl.col(c).is_null()).then(MISSING)
          .otherwise(pl.col(c).replace_strict(*words, default=UNKNOWN)).cast(pl.UInt32).alias(c) for c in BOOLEAN),
        *(((number(c) - fit[f"{c} mean"]) / fit[f"{c} deviation"]).fill_null(0).cast(pl.Float32) for c in NUMERIC),
    )
    encoded.sink_parquet(out, compression=COMPRESSION)
    return {"rows": fit["rows"], "seconds": time.perf_counter() - began}


def check(theirs: str, our_codes: str) -> dict:
    """The features in which two files do not tell the same rows apart, or whose numbers differ by more than 1e-3."""
    import polars as pl
    a, b = pl.read_parquet(theirs), pl.read_parquet(our_codes)
    both = a.join(b, left_on="user_id", right_on="__id")
    wrong = [] if len(both) == len(a) == len(b) else ["user_id"]
    for c in CATEGORICAL + BOOLEAN:
        pairs = both.select(c, f"{c}_right").unique()
        if not len(pairs) == pairs[c].n_unique() == pairs[f"{c}_right"].n_unique():
            wrong.append(c)
    for c in NUMERIC:
        if (both[c] - both[f"{c}_right"].arr.get(0)).abs().max() > 1e-3:
            wrong.append(c)
    return {"wrong": wrong}


if __name__ == "__main__":
    serve(globals())
