"""Loads `twotower serve` at rising rates until it saturates, beside a bare handler of the same server, publishes all the
while, and counts wrong, mixed and lost answers. Beside the standard library it needs pyarrow, to learn who there is.

    python3 benches/serve_load.py --bin target/release/twotower --runs runs          # about 30 s
    python3 benches/serve_load.py --bin ... --runs runs --full                       # a million requests, 100 publishes

`--runs` holds two or more complete runs of the same users with Parquet results; its link `latest` is moved, and put back
at the end. Latencies count from when a request was due, so that one that waits for a slow one before it counts as slow.
`/healthz` is the bare handler: the same connections and routes, no run. Prints a table and, last, a line of JSON."""

import argparse
import http.client
import json
import multiprocessing
import os
import queue
import random
import re
import subprocess
import sys
import time

import pyarrow.parquet

BARE = "/healthz"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release/twotower")
    parser.add_argument("--runs", required=True)
    parser.add_argument("--full", action="store_true", help="a million requests and 100 publishes at the end")
    parser.add_argument("--clients", type=int, default=2, help="processes that ask")
    parser.add_argument("--users", type=int, default=200, help="users whose lists are asked for and compared")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each rate")
    parser.add_argument("--serve", default="", help="more options of `twotower serve`")
    return parser.parse_args()


def publish(runs, name):
    link = os.path.join(runs, ".load-next")
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(name, link)
    os.rename(link, os.path.join(runs, "latest"))


def get(connection, path):
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def judge(expected, path, status, body):
    """What is wrong with an answer; None if nothing is."""
    if status != 200:
        return "lost"
    if path == BARE:
        return None if body == b"ok\n" else "wrong"
    run = json.loads(body)["run"]
    if expected.get(run, {}).get(path) == body:
        return None
    # The list of one run under the name of another, or no list of any.
    items = json.loads(body)["items"]
    others = (of[path] for of in expected.values() if path in of)
    return "mixed" if any(json.loads(other)["items"] == items for other in others) else "wrong"


def client(address, paths, expected, rate, seconds, seed, out):
    """Asks at a rate, or as fast as it can at none, for some seconds; puts latencies and counts of bad answers."""
    draw, latencies, bad = random.Random(seed), [], {"wrong": 0, "mixed": 0, "lost": 0}
    connection = http.client.HTTPConnection(address, timeout=30)
    began = time.perf_counter()
    due, end = began, began + seconds
    while due < end:
        now = time.perf_counter()
        if now >= end + 1:
            break
        if rate and due > now:
            time.sleep(due - now)
        elif not rate:
            due = now
        path = draw.choice(paths)
        try:
            problem = judge(expected, path, *get(connection, path))
        except (OSError, http.client.HTTPException, ValueError):
            problem = "lost"
            connection.close()
        if problem:
            bad[problem] += 1
        latencies.append(time.perf_counter() - due)
        due += 1 / rate if rate else 0
        if not rate and time.perf_counter() >= end:
            break
    out.put((latencies, bad, time.perf_counter() - began))


def load(address, paths, expected, rate, seconds, clients, seed, meanwhile=lambda: None):
    out = multiprocessing.Queue()
    share = rate / clients if rate else None
    asked = [
        multiprocessing.Process(target=client, args=(address, paths, expected, share, seconds, 1000 * seed + n, out))
        for n in range(clients)
    ]
    for process in asked:
        process.start()
    latencies, bad, took, left = [], {"wrong": 0, "mixed": 0, "lost": 0}, 0.0, clients
    while left:
        meanwhile()
        try:
            own, counts, seconds_taken = out.get(timeout=0.05)
        except queue.Empty:
            continue
        left -= 1
        latencies += own
        took = max(took, seconds_taken)
        for name, count in counts.items():
            bad[name] += count
    for process in asked:
        process.join()
    latencies.sort()
    at = lambda share: 1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))]
    return {"answers": len(latencies), "per_s": len(latencies) / took, "p50_ms": at(0.5), "p99_ms": at(0.99), **bad}


def main():
    options = arguments()
    runs = options.runs
    before = os.readlink(os.path.join(runs, "latest"))
    names = sorted(
        name for name in os.listdir(runs)
        if os.path.exists(os.path.join(runs, name, "gates", "manifest.json")) and not os.path.islink(os.path.join(runs, name))
    )
    if len(names) < 2:
        sys.exit(f"{runs} holds {len(names)} complete runs, expected two or more of the same users")
    command = [options.bin, "serve", "--runs", runs, "--listen", "127.0.0.1:0", "--poll-ms", "50", *options.serve.split()]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    bad = {"wrong": 0, "mixed": 0, "lost": 0}
    try:
        address = server.stdout.readline().split("http://")[1].strip()
        connection = http.client.HTTPConnection(address, timeout=60)

        def serve(name):
            publish(runs, name)
            while json.loads(get(connection, "/readyz")[1]).get("run") != name:
                time.sleep(0.02)

        folder = os.path.join(runs, names[0], "recall")
        part = sorted(os.listdir(folder))[0]
        table = pyarrow.parquet.ParquetFile(os.path.join(folder, part)).read_row_group(0, columns=["user_id"])
        users = list(dict.fromkeys(table["user_id"].to_pylist()))[: options.users]
        paths, expected = [f"/v1/users/{user}/items" for user in users], {}
        for name in names:
            serve(name)
            expected[name] = {path: get(connection, path)[1] for path in paths}
        results, publishes = [], 0

        def report(what, rate, found):
            for name in bad:
                bad[name] += found[name]
            results.append({"what": what, "rate": rate, "rss_mib": round(resident_mib(server.pid)), **found})
            print(
                f"{what:9} {rate or 'most':>7} {found['per_s']:9.0f}/s  p50 {found['p50_ms']:8.2f} ms"
                f"  p99 {found['p99_ms']:8.2f} ms  {resident_mib(server.pid):6.0f} MiB", flush=True)

        state = {"next": time.monotonic(), "publishes": 0}

        def publishing(every, most):
            def step():
                if state["publishes"] < most and time.monotonic() >= state["next"]:
                    state["publishes"] += 1
                    publish(runs, names[state["publishes"] % len(names)])
                    state["next"] = time.monotonic() + every
            return step

        for what, asked in (("bare", [BARE]), ("lists", paths)):
            for rate in (250, 500, 1000, 2000, 4000, 8000, None):
                found = load(address, asked, expected, rate, options.seconds, options.clients, rate or 0,
                             publishing(2.0, 10**9))
                report(what, rate, found)
                # Saturated: it does not keep up any more.
                if rate and found["per_s"] < 0.9 * rate:
                    break
        if options.full:
            state["publishes"], wanted, asked_for = 0, 1_000_000, 0
            started = time.monotonic()
            while asked_for < wanted or state["publishes"] < 100:
                found = load(address, paths, expected, None, 20, options.clients, asked_for, publishing(2.5, 100))
                asked_for += found["answers"]
                report("million", None, found)
            print(f"{asked_for} answers, {state['publishes']} publishes, {time.monotonic() - started:.0f} s")
        publishes = state["publishes"]
        server.terminate()
        code = server.wait(timeout=60)
        print(json.dumps({"publishes": publishes, "bad": bad, "exit_code": code, "results": results}))
        sys.exit(1 if any(bad.values()) or code else 0)
    finally:
        server.kill()
        publish(runs, before)


if __name__ == "__main__":
    main()
