"""How good the first job is: python first_job.py WORK [--data FOLDER] [--sets NAME,...] [--variants NAME,...]

For each data set it writes three tables to a folder of WORK, lets `init` write the job, runs it untouched, and prints a
row of a Markdown table: recall@10 of the model and of both baselines on the test events, on the validation events that
of the best epoch, and the seconds of `train` and of the whole run.

Data sets: `ml-100k`, `ml-1m` and `video` are read from folders of FOLDER, as GroupLens and SASRec's authors publish them
(ml-1m as `movies.dat`, `users.dat` and `ratings_chrono.csv`: user, item, rating, position in the user's order).
`dense`, `medium` and `sparse` are made here, from a fixed seed: users with 80 to 120, 15 to 35 and 5 to 13 events. `tail` is `sparse` with ten
times the items, most of which have no event. Items
lie in groups, most users keep to a few groups, and every item has some that often follow it. So what a user had last
tells most, as in logs of purchases, and item-to-item is a strong baseline. `features` is `twotower synth`: of its users
5% have events, about 5 each, which columns of the users predict and no order of events does.

With `--variants` each set is also run with other settings (VARIANTS below), or `all` of them. They are to be compared by
the validation column: the test events are for the final choice. TWOTOWER names the program. Runs are kept: what is there
is not run again.
"""
import argparse
import bisect
import csv
import itertools
import json
import os
import random
import subprocess
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
TWOTOWER = os.environ.get("TWOTOWER", os.path.join(ROOT, "target/release/twotower"))

# Users, items, groups of items, and the fewest and the most events of a user.
SYNTHETIC = {
    "dense": (2_000, 1_000, 20, 80, 120),
    "medium": (5_000, 3_000, 60, 15, 35),
    "sparse": (10_000, 6_000, 120, 5, 13),
    "tail": (10_000, 60_000, 120, 5, 13),
}
# How the next item of a synthetic user is drawn: one that follows one of the newest three, one of a group that the user
# likes, or else any.
FOLLOWS, LIKED = 0.4, 0.45
FOLLOWERS, LIKED_GROUPS = 4, 3
FIRST_TIME = 1_600_000_000

# Users and items of `twotower synth`.
FEATURES = (100_000, 2_000)

# Settings beside those that `init` chose.
VARIANTS = {
    "defaults": [
        "train.loss=in_batch",
        "train.learning_rate=0.001",
        "model.embedding_dim=16",
        "model.hidden=[256,128,64]",
        "model.temperature=0.05",
    ],
    "in-batch": ["train.loss=in_batch"],
    "mixed": ["train.loss={mixed={uniform=1024}}"],
    "full": ["train.loss=full_softmax"],
    "temperature-0.05": ["model.temperature=0.05"],
    "temperature-0.2": ["model.temperature=0.2"],
    "rate-0.001": ["train.learning_rate=0.001"],
    "two-layers": ["model.hidden=[128,64]"],
    "width-128": ["model.embedding_dim=128", "model.hidden=[128]"],
    "epochs-20": ["train.epochs=20"],
}


def table(folder, name, head, rows):
    with open(f"{folder}/{name}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def lines(path):
    with open(path, encoding="latin-1") as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def ml_100k(source, folder):
    genres = [line.split("|")[0] for line in lines(f"{source}/u.genre")]
    users = [line.split("|") for line in lines(f"{source}/u.user")]
    table(folder, "users", ["user_id", "age", "gender", "occupation", "zip"], users)
    items = [line.split("|") for line in lines(f"{source}/u.item")]
    of = lambda flags: "|".join(genre for genre, flag in zip(genres, flags) if flag == "1")
    table(folder, "items", ["item_id", "title", "release_date", "genres"], [[*i[:3], of(i[5:])] for i in items])
    events = [line.split("\t") for line in lines(f"{source}/u.data")]
    table(folder, "interactions", ["user_id", "item_id", "rating", "timestamp"], events)


def ml_1m(source, folder):
    users = [line.split("::") for line in lines(f"{source}/users.dat")]
    table(folder, "users", ["user_id", "gender", "age", "occupation", "zip"], users)
    table(folder, "items", ["item_id", "title", "genres"], [line.split("::") for line in lines(f"{source}/movies.dat")])
    with open(f"{source}/ratings_chrono.csv") as file:
        events = [[r["user"], r["item"], r["rating"], FIRST_TIME + int(r["pos"])] for r in csv.DictReader(file)]
    table(folder, "interactions", ["user_id", "item_id", "rating", "timestamp"], events)


def video(source, folder):
    events = [line.split() for line in lines(f"{source}/Video.txt")]
    for column, name, id_name in ((0, "users", "user_id"), (1, "items", "item_id")):
        table(folder, name, [id_name], [[value] for value in dict.fromkeys(event[column] for event in events)])
    numbered = [[user, item, FIRST_TIME + row] for row, (user, item) in enumerate(events)]
    table(folder, "interactions", ["user_id", "item_id", "timestamp"], numbered)


def synthetic(name, folder):
    users, items, groups, fewest, most = SYNTHETIC[name]
    draw = random.Random(f"first job {name}")
    by_group = [list(range(group, items, groups)) for group in range(groups)]
    # Within a group the item of rank r is drawn in proportion to 1 / (r + 3).
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(by_group[0]))))
    popular = list(itertools.accumulate(1 / (group + 5) for group in range(groups)))
    pick = lambda sums, count: min(bisect.bisect(sums, draw.random() * sums[count - 1]), count - 1)
    some_item = lambda group: by_group[group][pick(weights, len(by_group[group]))]
    some_group = lambda: pick(popular, groups)
    followers = [[some_item(item % groups) for _ in range(FOLLOWERS)] for item in range(items)]
    user_rows, events = [], []
    for user in range(users):
        liked = [some_group() for _ in range(LIKED_GROUPS)]
        user_rows.append([f"u{user:05}", draw.choice("abcdefgh"), draw.randint(18, 80)])
        had = []
        when = FIRST_TIME + draw.randrange(1_000_000)
        for _ in range(draw.randint(fewest, most)):
            chance = draw.random()
            if had and chance < FOLLOWS:
                item = draw.choice(followers[draw.choice(had[-3:])])
            elif chance < FOLLOWS + LIKED:
                item = some_item(draw.choice(liked))
            else:
                item = some_item(some_group())
            when += draw.randrange(1, 100_000)
            if item not in had:
                had.append(item)
                events.append([f"u{user:05}", f"i{item:05}", when])
    table(folder, "users", ["user_id", "region", "age"], user_rows)
    # Categories are of several groups each.
    rows = [[f"i{item:05}", f"Item number {item}", f"c{item % groups // 4}"] for item in range(items)]
    table(folder, "items", ["item_id", "title", "category"], rows)
    table(folder, "interactions", ["user_id", "item_id", "timestamp"], sorted(events, key=lambda event: event[2]))


REAL = {"ml-100k": ml_100k, "ml-1m": ml_1m, "video": video}


def twotower(*words, cwd):
    done = subprocess.run([TWOTOWER, "--quiet", *words], cwd=cwd, capture_output=True, text=True)
    # Exit code 5 is of a gate, after all has been measured.
    if done.returncode not in (0, 5):
        raise SystemExit(f"twotower {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done


def prepare(name, data, folder):
    if os.path.exists(f"{folder}/pipeline.toml"):
        return
    os.makedirs(folder, exist_ok=True)
    tables = {"users": "users.csv", "items": "items.csv", "interactions": "interactions.csv"}
    if name == "features":
        users, items = FEATURES
        twotower("synth", "data", "--users", str(users), "--items", str(items), cwd=folder)
        tables = {"users": "data/users", "items": "data/items.parquet", "interactions": "data/interactions"}
    elif name in SYNTHETIC:
        synthetic(name, folder)
    else:
        REAL[name](f"{data}/{name}", folder)
    named = [word for table, path in tables.items() for word in (f"--{table}", path)]
    twotower("init", *named, "--output", "pipeline.toml", cwd=folder)


def measure(name, folder, variant, settings):
    run = f"{folder}/run-{variant}"
    if not os.path.exists(f"{run}/seconds"):
        sets = [word for setting in settings for word in ("--set", setting)]
        began = time.monotonic()
        twotower("run", "--run", f"run-{variant}", *sets, cwd=folder)
        open(f"{run}/seconds", "w").write(f"{time.monotonic() - began:.0f}")
    read = lambda path: json.load(open(f"{run}/{path}"))
    metrics = read("evaluation/metrics.json")["models"]
    training = read("towers/training.json")
    of_epoch = {e["epoch"]: e["validation"]["values"]["recall@10"] for e in training["epochs"] if e.get("validation")}
    best = training["best_epoch"]
    figures = [metrics[model]["recall@10"] for model in ("model", "popularity", "item_to_item")]
    test = " | ".join(f"{figure:.4f}" for figure in figures)
    epochs = f"{best} of {len(training['epochs'])}"
    seconds = f"{read('towers/manifest.json')['seconds']:.0f} | {open(f'{run}/seconds').read()}"
    print(f"| {name} | {variant} | {test} | {of_epoch.get(best, 0):.4f} | {epochs} | {seconds} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("--data", help="folder of the real data sets; without it, only synthetic ones")
    parser.add_argument("--sets", help="data sets, by default all that can be had")
    parser.add_argument("--variants", default="", help="other settings, or `all`")
    options = parser.parse_args()
    names = options.sets.split(",") if options.sets else [*(REAL if options.data else ()), *SYNTHETIC, "features"]
    chosen = list(VARIANTS) if options.variants == "all" else [v for v in options.variants.split(",") if v]
    print("| data | settings | model | popularity | item-to-item | validation | best epoch | train, s | run, s |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        folder = os.path.join(os.path.abspath(options.work), name)
        prepare(name, options.data, folder)
        measure(name, folder, "init", [])
        for variant in chosen:
            measure(name, folder, variant, VARIANTS[variant])


if __name__ == "__main__":
    main()
