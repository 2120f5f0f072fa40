"""Runs twotower beside its peers and writes results.json and RESULTS.md; see README.md.

    python run.py --work DIR --users 1000000 --repeats 3 [--only encode,infer,train,retrieve]

Every measurement is a process of its own. Within a section the contenders take turns, A B C A B C, so that what else
the machine does falls on all. Measurements that results.json holds for the same parameters and the same binary of
ours are kept.
"""
import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import encode
import infer
import make_table
import retrieve
import train
from contender import HERE, Contender, Job

SECTIONS = {"encode": encode, "infer": infer, "train": train, "retrieve": retrieve}


class Failed(Exception):
    """A contender's process ended with an error."""


def measure(contender: Contender, threads: int) -> dict:
    """Runs it once; the sample has the peak resident memory of its process, or of its largest child, in MiB."""
    limits = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"]
    environment = {**os.environ, **dict.fromkeys(limits, str(threads))}
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                contender.argv, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        except OSError as error:
            raise Failed(str(error)) from error
        with process.stdout:
            out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise Failed(f"exit code {process.returncode}: {errors.read()[-1500:].strip()}")
        if contender.reads_log:
            errors.seek(0)
            out = errors.read()
    return {**contender.read(out, wall), "peak_rss_mib": round(usage.ru_maxrss / 1024)}


def prepare(section, job: Job) -> None:
    """What must be on disk before the section's first measurement."""
    for step in getattr(section, "prepare", lambda _: [])(job):
        print(f"  preparing {step.name}", flush=True)
        measure(step, job.threads)


def run_section(name: str, job: Job, repeats: int, state: dict, save) -> None:
    """Measures what `state` lacks."""
    prepare(SECTIONS[name], job)
    lost = take_turns(SECTIONS[name].contenders(job), repeats, job.threads, state, save)
    if name == "encode" and not lost:
        state["disagreements"] = {it.name: measure(it, job.threads)["wrong"] for it in encode.checks(job)}


def take_turns(contenders: list[Contender], repeats: int, threads: int, state: dict, save) -> set[Contender]:
    """Takes the samples that `state` lacks, in turns, and calls `save` after each; a contender that fails is reported
    and left out. Returns those that did."""
    lost = set()
    for turn in range(repeats):
        for it in contenders:
            entry = state["contenders"].setdefault(f"{it.group}: {it.name}", {
                "group": it.group, "name": it.name, "ours": it.ours, "note": it.note, "samples": []})
            if len(entry["samples"]) > turn or it in lost:
                continue
            print(f"  {turn + 1}/{repeats} {it.group}: {it.name}", end=" ", flush=True)
            if it.output and it.output.is_dir():
                shutil.rmtree(it.output)
            elif it.output:
                it.output.unlink(missing_ok=True)
            # What was written and removed before is the disk's work no longer.
            os.sync()
            try:
                sample = measure(it, threads)
            except Failed as error:
                lost.add(it)
                print(f"failed: {error}", flush=True)
                continue
            entry["samples"].append(sample)
            print(f"{sample['rows'] / sample['seconds']:,.0f}/s", flush=True)
            save()
    return lost


def digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces: a child's peak memory counts from ours at its start."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pinned() -> list[str]:
    """Names of the packages of requirements.txt."""
    return [line.split("==")[0] for line in (HERE / "requirements.txt").read_text().splitlines() if "==" in line]


def machine(threads: int, twotower: Path, packages: list[str]) -> dict:
    """What the figures depend on."""
    cpu = Path("/proc/cpuinfo").read_text()

    def field(key):
        return next((line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith(key)), "")

    return {
        "cpu": field("model name") or platform.machine(),
        "vector_instructions": [x for x in ("avx2", "avx512f") if x in field("flags").split()],
        "cores_used": threads,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "twotower": subprocess.run([twotower, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def bind(threads: int) -> float:
    """Binds this process and its children to the first cores. Returns the load of the machine, with a warning where it
    is not quiet."""
    load = os.getloadavg()[0]
    if load > make_table.QUIET:
        print(f"warning: load average {load:.1f}: another program is at work, so these figures are not to be quoted")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    return load


def write_json(path: Path, value: object) -> None:
    """Replaces a file whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True,
                        help="folder for data, runs and indexes; one per number of users")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", default="2000,20000,200000", help="numbers of items of the retrieve section")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="cores that each contender is bound to")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between")
    parser.add_argument("--twotower", type=Path, default=Path("target/release/twotower"),
                        help="our command; examples/ beside it")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json and RESULTS.md")
    parser.add_argument("--force", action="store_true", help="measure the sections anew")
    a = parser.parse_args()
    chosen = a.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if not a.twotower.is_file():
        parser.error(f"--twotower: no file {a.twotower}; see README.md")

    load = bind(a.threads)
    for folder in (a.work, a.out):
        folder.mkdir(parents=True, exist_ok=True)
    job = Job(a.work.resolve(), a.twotower.resolve(), a.users, tuple(int(n) for n in a.items.split(",")), a.threads)
    path = a.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    here = machine(a.threads, job.twotower, pinned())

    def save():
        write_json(path, results)

    print(f"data: twotower demo, {job.users:,} users", flush=True)
    demo = [job.twotower, "demo", job.demo, "--users", str(job.users), "--json", "-q"]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
    for name in chosen:
        section = SECTIONS[name]
        print(name, flush=True)
        programs = sorted({it.argv[0] for it in section.contenders(job) if it.ours})
        identity = {
            "parameters": {"users": job.users, "items": list(job.items), "threads": job.threads},
            "programs": {Path(p).name: digest(Path(p)) for p in programs if Path(p).exists()},
        }
        state = results["sections"].get(name, {})
        if a.force or {key: state.get(key) for key in identity} != identity:
            state = {**identity, "date": datetime.date.today().isoformat(), "load_before": load, "machine": here,
                     "contenders": {}}
        results["sections"][name] = state
        run_section(name, job, a.repeats, state, save)
        save()
        make_table.write(a.out)
    print(f"wrote {a.out / 'RESULTS.md'}")


if __name__ == "__main__":
    sys.exit(main())
