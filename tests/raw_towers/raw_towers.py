"""Raw rows through towers of `twotower export` in Python's onnxruntime, beside the vectors of `twotower infer`.

raw_towers.py make FOLDER        writes tables with hostile values for every kind of feature
raw_towers.py check FOLDER RUN RAW [users-as-text]
    feeds the rows of the job's tables, as they are, to the towers in RAW, and compares their vectors with those of RUN

It knows nothing of encoders: what an input takes is in inputs.json alone.
"""

import datetime
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

USERS, ITEMS = 10_000, 60
HOSTILE = ["", " ", "a", " a", "a ", "A", "ä", "a\u0308", "是", "\u3000x\u3000", "x\u00a0", "İ", "i̇", "\u212a", "ſ", "ß",
           "\x00", "a\x00b", "\t\n", "0", "00", "-0", "1", "1.0", "9223372036854775807", "nan", "NaN", "null", "\ufeffa",
           "😀", "'\"\\", "a|b", "%s", "\u2028", "x" * 5000, "\U0010ffff", "\u200b", "true", "[a-z]*", "é" * 300]
SPACES = ["", " ", "\t", "\u00a0", "\u3000", "\u2009", "\u0085", "\r\n", "\u200b", " \u1680"]
FLAGS = ["yes", "no", "1", "0", "true", "false", "t", "f", "是", "否", "null", "n/a", "\\N", "Straße", "İs", "kelvin", "",
         "ΣΑΣ", "perhaps", "y\x00", "2"]
# Texts of numbers and of dates, and what they say.
NUMBERS = {"1": 1.0, " 2.5 ": 2.5, "1,234.50": 1234.5, "¥7": 7.0, "(3.00)": -3.0, "12.5%": 0.125, "x": None, "": None,
           "1e3": 1000.0, "inf": None, "1e101": None}
DATES = {"2026-01-31": (2026, 1, 31), "2026/1/2": (2026, 1, 2), "20240229": (2024, 2, 29), "2026年3月4日": (2026, 3, 4),
         "soon": None, "": None, "9999-12-31": None, "2025-12-31 23:59:59": (2025, 12, 31)}
EPOCH = datetime.date(1970, 1, 1)


def cased(rng, text):
    return "".join(c.upper() if rng.random() < 0.5 else c.lower() if rng.random() < 0.5 else c for c in text)


def make(folder):
    rng = np.random.default_rng(24)
    some = lambda value: None if rng.random() < 0.08 else value
    pick = lambda values: values[rng.integers(len(values))]
    text = lambda: pick(HOSTILE) if rng.random() < 0.8 else f"only {rng.integers(10**9)}"
    floats = [0.0, -0.0, 1.0, 3.0, 0.1, -2.5, 1e20, float("inf"), float("-inf"), float("nan"), 5e-324, 2.0**53, 2.0**53 + 2,
              1e100, 1.1e100, -1e100, 1e-9]
    integers = [0, 1, -1, 7, 2**63 - 1, -(2**63), 10**18, -(10**18), 999, 20_260_131, 2_026_111, 0, 12, 1_700_000_000]
    number = lambda: pick(floats) if rng.random() < 0.3 else float(rng.normal() * 10.0 ** rng.integers(-3, 6))
    integer = lambda: int(pick(integers)) if rng.random() < 0.5 else int(rng.integers(-50, 50))
    flag = lambda: pick(SPACES) + cased(rng, pick(FLAGS)) + pick(SPACES)
    day = lambda: EPOCH + datetime.timedelta(days=int(rng.integers(-30_000, 50_000)))
    ticks = lambda scale: int(pick([-1, 0, -86_400 * scale, 4_133_980_799 * scale, -(2**62)])) if rng.random() < 0.2 else int(rng.integers(-2e9, 4e9)) * scale + int(rng.integers(scale))
    digits = lambda: int(pick([0, 20_240_230, 20_260_132, 18_991_231, 21_001_231, 2_026_131, -20_260_131, 2**62])) if rng.random() < 0.3 else int(day().strftime("%Y%m%d"))
    element = lambda: pick(["rock", "Rock", "jazz ", "是", "", "a b", "ä", "x|y", "-1", "0", "\x00", "r" * 40]) if rng.random() < 0.9 else f"t{rng.integers(10**6)}"
    listed = lambda make: some([some(make()) for _ in range(rng.integers(0, 7))])
    joined = lambda mark: some(mark.join(pick(SPACES) + pick(["rock", "a b", "是", "", "é|", ":", "jazz", "\\d+", f"t{rng.integers(40)}"]) + pick(SPACES) for _ in range(rng.integers(0, 7))))
    vector = lambda dim: some(pick([[0.0] * dim, rng.normal(size=dim).tolist(), (rng.normal(size=dim) * 1e-20).tolist(), (rng.normal(size=dim) * 1e18).tolist()]))
    rows = range(USERS)
    columns = {
        "user": pa.array([f"u{n}" + pick(["", " ", "\u3000", "é"]) for n in rows]),
        "text": pa.array([some(text()) for _ in rows]),
        "words": pa.array([some(text()) for _ in rows]).dictionary_encode(),
        "whole": pa.array([some(integer()) for _ in rows], pa.int64()),
        "short": pa.array([some(int(rng.integers(-100, 100))) for _ in rows], pa.int8()),
        "double": pa.array([some(number()) for _ in rows], pa.float64()),
        "single": pa.array([some(np.float32(pick([0.1, 0.5, 3, -0.0, np.nan, np.inf, 1e10, rng.normal()]))) for _ in rows], pa.float32()),
        "truth": pa.array([some(bool(rng.integers(2))) for _ in rows]),
        "flag": pa.array([some(flag()) for _ in rows]),
        "flag_number": pa.array([some(int(rng.integers(-2, 4))) for _ in rows], pa.int32()),
        "flag_float": pa.array([some(float(pick([0, 1, -0.0, 0.5, np.nan, np.inf, 2]))) for _ in rows]),
        "date": pa.array([some(day()) for _ in rows], pa.date32()),
        "date_ms": pa.array([None if (d := some(day())) is None else d for _ in rows], pa.date64()),
        "moment": pa.array([some(ticks(1_000_000)) for _ in rows], pa.int64()).cast(pa.timestamp("us", "Asia/Shanghai")),
        "moment_ms": pa.array([some(ticks(1000)) for _ in rows], pa.int64()).cast(pa.timestamp("ms")),
        "seconds": pa.array([some(ticks(1)) for _ in rows], pa.int64()),
        "milliseconds": pa.array([some(float(pick([np.nan, np.inf, -np.inf, -0.5, 1e19])) if rng.random() < 0.1 else ticks(1000) + 0.25) for _ in rows], pa.float64()),
        "digits": pa.array([some(digits()) for _ in rows], pa.int64()),
        "list": pa.array([listed(element) for _ in rows], pa.list_(pa.string())),
        "list_whole": pa.array([listed(integer) for _ in rows], pa.list_(pa.int64())),
        "list_double": pa.array([listed(number) for _ in rows], pa.large_list(pa.float64())),
        "list_truth": pa.array([listed(lambda: bool(rng.integers(2))) for _ in rows], pa.list_(pa.bool_())),
        "joined": pa.array([joined("|") for _ in rows]),
        "colons": pa.array([joined("::") for _ in rows]),
        "spaced": pa.array([joined(" ") for _ in rows]),
        "vector": pa.array([vector(4) for _ in rows], pa.list_(pa.float32(), 4)),
        "vector_wide": pa.array([vector(3) for _ in rows], pa.list_(pa.float64())),
        "number_text": pa.array([some(pick(list(NUMBERS))) for _ in rows]),
        "date_text": pa.array([some(pick(list(DATES))) for _ in rows]),
    }
    pq.write_table(pa.table(columns), folder / "users.parquet", row_group_size=3000)
    for name, ids in {"text": [f"i{n}" + pick(["", " ", "é"]) for n in range(ITEMS)], "whole": [n * n * (-1) ** n for n in range(ITEMS)]}.items():
        items = {
            "item": pa.array(ids),
            "brand": pa.array([some(f"b{rng.integers(7)}") for _ in ids]),
            "price": pa.array([some(float(rng.gamma(2, 50))) for _ in ids]),
            "genres": pa.array(["|".join(f"g{g}" for g in rng.integers(6, size=2)) for _ in ids]),
        }
        pq.write_table(pa.table(items), folder / f"items_{name}.parquet")
        pictures = {"item": items["item"].slice(0, 50), "picture": pa.array([rng.normal(size=5).tolist() for _ in range(50)])}
        pq.write_table(pa.table(pictures), folder / f"pictures_{name}.parquet")
        events = []
        for user in columns["user"].to_pylist()[: USERS - 300]:
            time = 1_700_000_000
            for item in rng.permutation(ITEMS)[: rng.integers(1, 9)]:
                time += int(pick([0, 1, 59, 3_600, 86_400, 7_000, rng.integers(2_000_000)]))
                events.append((user, ids[item], time))
        users, taken, times = zip(*events)
        pq.write_table(pa.table({"user": users, "item": taken, "time": times}), folder / f"events_{name}.parquet")


def days(text):
    return None if DATES[text] is None else (datetime.date(*DATES[text]) - EPOCH).days


def raw_numbers(column, per_day):
    """Values of a column, and those of dates and times as whole numbers, of which a day has `per_day`."""
    kind = column.type
    if pa.types.is_date32(kind):
        return [None if day is None else day * per_day for day in column.cast(pa.int32()).to_pylist()]
    if pa.types.is_timestamp(kind):
        assert per_day == 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        return column.cast(pa.int64()).to_pylist()
    return column.to_pylist()


DTYPES = {"string": object, "int64": np.int64, "float": np.float32, "double": np.float64, "bool": bool, "int32": np.int32}
STANDINS = {"string": "", "int64": 0, "float": np.nan, "double": np.nan, "bool": False}


def padded(rows, kind):
    width = max(1, max(map(len, rows)))
    table = np.full((len(rows), width), STANDINS[kind], DTYPES[kind])
    for to, row in zip(table, rows):
        to[: len(row)] = row
    return table


def feeds(inputs, spec, side, columns, histories):
    """What each input takes, by what inputs.json says of it."""
    found = {}
    by_name = {entry["name"]: entry for entry in inputs}
    for entry in inputs:
        feature, kind = entry["feature"], entry["type"]
        setting = spec[feature]
        if entry["kind"] == "sequence":
            ids, times = histories
            if entry["name"] == feature:
                found[feature] = padded(ids, kind)
            elif entry["name"].endswith("/length"):
                found[entry["name"]] = np.array([len(row) for row in ids], np.int64)
            else:
                found[entry["name"]] = padded(times, kind)
            continue
        column = columns[feature if setting.get("file") else setting.get("column", feature) if entry["kind"] != "id" else side]
        values = raw_numbers(column, entry.get("per_day"))
        if entry["kind"] in ("numeric", "date") and pa.types.is_string(column.type):
            say = NUMBERS.get if entry["kind"] == "numeric" else days
            values = [None if value is None else say(value) for value in values]
        if entry["name"].endswith("/missing"):
            found[entry["name"]] = np.array([value is None for value in values])
        elif entry["name"].endswith("/length"):
            found[entry["name"]] = np.array([-1 if v is None else sum(e is not None for e in v) for v in values], np.int64)
        elif f"{feature}/length" in by_name:
            found[feature] = padded([[e for e in v or [] if e is not None] for v in values], kind)
        elif entry["kind"] == "vector":
            dim = entry["shape"][1]
            found[feature] = np.array([[np.nan] * dim if v is None else v for v in values], DTYPES[kind])
        elif entry["kind"] == "date" and kind == "int64":
            standin = int(entry["missing"])
            found[feature] = np.array([standin if v is None else v for v in values], np.int64)
        else:
            found[feature] = np.array([STANDINS[kind] if v is None else v for v in values], DTYPES[kind])
    return found


def check(folder, run, raw):
    job = tomllib.loads((folder / "pipeline.toml").read_text())
    described = json.loads((raw / "inputs.json").read_text())
    histories = {}
    events = pq.read_table(folder / job["tables"]["interactions"]["path"]).to_pylist()
    for event in sorted(events, key=lambda event: event["time"]):
        histories.setdefault(event["user"], []).append((event["item"], event["time"]))
    for side, tower in described["towers"].items():
        spec = {feature["name"]: feature for feature in job["features"][side]}
        table = pq.read_table(folder / job["tables"][f"{side}s"]["path"])
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        for feature in spec.values():
            if "file" in feature:
                vectors = dict(zip(*pq.read_table(folder / feature["file"]).to_pydict().values()))
                columns[feature["name"]] = pa.array([vectors.get(id) for id in columns[side].to_pylist()])
        ids = columns[side].to_pylist()
        mine = [histories.get(id, []) for id in ids]
        pairs = ([[item for item, _ in row] for row in mine], [[time for _, time in row] for row in mine])
        session = onnxruntime.InferenceSession(raw / tower["file"], providers=["CPUExecutionProvider"])
        meta = session.get_modelmeta().custom_metadata_map
        assert json.loads(meta["twotower.inputs"]) == tower["inputs"]
        assert [value.name for value in session.get_inputs()] == [entry["name"] for entry in tower["inputs"]]
        (ours,) = session.run([tower["output"]["name"]], feeds(tower["inputs"], spec, side, columns, pairs))
        theirs = {}
        for part in sorted((run / "vectors" / side).glob("*.parquet")):
            theirs |= zip(*(column.to_pylist() for column in pq.read_table(part).columns))
        expected = np.array([theirs[id] for id in ids], np.float32)
        assert ours.shape == expected.shape, (ours.shape, expected.shape)
        apart = np.abs(ours - expected).max(axis=1)
        worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
        print(f"{side}: {len(ids)} rows, at most {apart[worst]:.1e} apart")
        if not apart[worst] <= 1e-5:
            print({name: column[worst] for name, column in columns.items()}, mine[worst])
            sys.exit(f"{side} row {worst}: {apart[worst]:e} apart, and {(~(apart <= 1e-5)).sum()} rows in all")
        # A row alone has the vector that it has among others: shapes are free.
        one = {name: column.slice(7, 1) for name, column in columns.items()}
        single = feeds(tower["inputs"], spec, side, one, tuple(part[7:8] for part in pairs))
        (alone,) = session.run([tower["output"]["name"]], single)
        assert np.abs(alone - ours[7:8]).max() <= 1e-5, "a row alone has another vector"


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "make":
        make(Path(folder))
    else:
        check(Path(folder), *map(Path, rest))
