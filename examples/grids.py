"""Runs the rows of a grid over seeds, each in a run of its own, and writes their tables. The scripts of examples use it."""
import csv
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

from summary import one, spread

HERE = pathlib.Path(__file__).resolve().parent
TWOTOWER = os.environ.get("TWOTOWER", HERE.parent / "target/release/twotower")
BASELINES = (("popularity", "popularity"), ("item_to_item", "item-to-item"), ("item_cf", "item-based CF"), ("ease", "EASE"))


def require_program():
    if not shutil.which(TWOTOWER):
        raise SystemExit(f"{TWOTOWER} is no program: build it with `cargo build --release`, or name it by TWOTOWER")


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def prepare(folder, source, job, read):
    """Writes the job and the tables, unless they are there, whole and of the same `source`. `read` gives the events (user,
    item, time or place) and what is to be noted of them, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.toml").write_bytes(job.read_bytes())
    done = folder / "prepared.json"
    noted = json.loads(done.read_text()) if done.exists() else {}
    if noted.get("source") == source and "of_events" in noted:
        return noted["of_events"]
    events, of_events = read()
    tables = {
        "users": (["user_id"], [[user] for user in dict.fromkeys(event[0] for event in events)]),
        "items": (["item_id"], [[item] for item in dict.fromkeys(event[1] for event in events)]),
        "interactions": (["user", "item", "time"], events),
    }
    for name, (head, rows) in tables.items():
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    done.write_text(json.dumps({"source": source, "of_events": of_events}))
    return of_events


def chosen(rows, only):
    """The names of the rows to run, of those that a command names, with commas between, or all."""
    names = only.split(",") if only else list(rows)
    if unknown := [name for name in names if name not in rows]:
        raise SystemExit(f"--only {','.join(unknown)}: the rows are {', '.join(rows)}")
    return names


def run(folder, name, sets):
    """Runs the stages, or what of them is not complete. Returns what to say where one fails."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    words = ["--config", str(folder.parent / "pipeline.toml"), "--run", str(target)]
    # `figures` reads the log, so its form must not be that of the environment.
    words += ["--log-level", "info", "--log-format", "text", *(word for setting in sets for word in ("--set", setting))]
    with open(target / "log.txt", "ab") as log:
        for stage in ("encode-features", "train", "evaluate"):
            begin = log.tell()
            code = subprocess.run([TWOTOWER, stage, *words], stdout=log, stderr=log).returncode
            if code:
                said = (target / "log.txt").read_bytes()[begin:].decode(errors="replace").strip()
                last = said.splitlines()[-1] if said else "no message"
                return f"{stage} ended with {code}: {last} ({target / 'log.txt'})"
    return None


def figures(target):
    """The figures of a complete run."""
    training = json.loads((target / "towers/training.json").read_text())
    events = json.loads((target / "towers/manifest.json").read_text())["rows"]["training events"]
    metrics = json.loads((target / "evaluation/metrics.json").read_text())
    # Epochs of a training that was stopped, or done again, stand in the log more than once: the last one counts.
    pattern = r"train: epoch (\d+): .* (\d+) examples/s, ([\d.]+) s"
    lines = re.findall(pattern, (target / "log.txt").read_text(errors="replace"))
    logged = {int(epoch): (events / int(rate), float(seconds)) for epoch, rate, seconds in lines}
    times = [logged[epoch["epoch"]] for epoch in training["epochs"]]
    best = training["best_epoch"]
    return {
        "validation": training["epochs"][best - 1]["validation"]["values"]["ndcg@10"],
        "best": best,
        "test": metrics["models"]["model"],
        "seconds": statistics.median(training for training, _ in times),
        "minutes": sum(whole for _, whole in times) / 60,
        "protocol": metrics["protocol"],
        "size": f"{metrics['users']} users, {metrics['items']} items",
        "baselines": metrics["models"],
    }


class Table:
    """The table of a grid. `measures` are the metrics of test items that it shows, each with its title. `protocol` makes
    the line above it of a run's protocol."""

    def __init__(self, measures, protocol=str):
        self.protocol, self.measures = protocol, measures
        # The name in the CSV file, the title in Markdown, the value of a run, and digits.
        self.columns = [
            ("validation_ndcg@10", "validation NDCG@10", lambda run: run["validation"], 4),
            ("best_epoch", "best epoch", lambda run: run["best"], 0),
            *((f"test_{name}", f"test {title}", lambda run, name=name: run["test"][name], 4) for name, title in measures),
            ("seconds_an_epoch", "s an epoch", lambda run: run["seconds"], 1),
            ("minutes", "minutes", lambda run: run["minutes"], 1),
        ]

    def write(self, folder, done, failed):
        """Writes the table of the runs that are done, by row, and returns it as Markdown."""
        runs = [figure for row in done.values() for figure in row]
        if not runs:
            return ""
        protocol = one([self.protocol(figure["protocol"]) for figure in runs], "unlike protocols")
        most = max(map(len, done.values()))
        lines = [f"{protocol}; {runs[0]['size']}; {f'seeds 1 to {most}' if most > 1 else 'seed 1'}.", ""]
        lines.append("| row | " + " | ".join(title for _, title, *_ in self.columns) + " |")
        lines.append("|---" * (len(self.columns) + 1) + "|")
        names = [name for name, *_ in self.columns]
        table = [["row", "seeds", *(part for name in names for part in (name, f"{name}_deviation"))]]

        def add(row, columns, seeds, counted):
            """`columns` has the values of each column over seeds, none where it says nothing of the row."""
            cells = [spread(values, digits) if values else "" for values, (*_, digits) in zip(columns, self.columns)]
            lines.append(f"| {row}{seeds} | " + " | ".join(cells) + " |")
            deviation = [statistics.stdev(values) if len(values) > 1 else "" for values in columns]
            means = [statistics.mean(values) if values else "" for values in columns]
            table.append([row, counted, *(part for pair in zip(means, deviation) for part in pair)])

        for row, of in done.items():
            seeds = f" (of {len(of)})" if len(of) < most else ""
            add(row, [[value(figure) for figure in of] for _, _, value, _ in self.columns], seeds, len(of))
        # Baselines depend on the split alone, so they are those of a row with most seeds.
        longest = max(done.values(), key=len)
        for baseline, title in BASELINES:
            if all(baseline in figure["baselines"] for figure in longest):
                tested = [[figure["baselines"][baseline][name] for figure in longest] for name, _ in self.measures]
                tested = [values[:1] if len(set(values)) == 1 else values for values in tested]
                add(title, [[], [], *tested, [], []], "", "")
        lines += [f"\n{name} failed: {why}" for name, why in failed.items()]
        markdown = "\n".join(lines) + "\n"
        folder.with_suffix(".md").write_text(markdown)
        with open(folder.with_suffix(".csv"), "w", newline="") as file:
            csv.writer(file).writerows(table)
        return markdown


def run_grid(folder, rows, seeds, table):
    """Runs all rows with all seeds, and prints their table. `rows` has, by name, what to set for a seed. Returns whether
    none failed."""
    done, failed = {}, {}
    for seed in range(1, seeds + 1):
        for name, sets in rows.items():
            run_name = f"{name}-{seed}"
            print(f"{folder.name}: {run_name}", file=sys.stderr, flush=True)
            if why := run(folder, run_name, sets(seed)):
                print(f"{run_name} failed: {why}", file=sys.stderr, flush=True)
                failed[run_name] = why
                continue
            done.setdefault(name, []).append(figures(folder / run_name))
            table.write(folder, done, failed)
    in_order = {name: done[name] for name in rows if name in done}
    print(f"## {folder.name}\n\n{table.write(folder, in_order, failed)}", flush=True)
    return not failed
