"""What takes part in a comparison, and the two ends of the pipe to a peer's own process."""
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """Where everything is, and how large the work is."""

    work: Path
    twotower: Path
    users: int
    items: tuple[int, ...]
    threads: int

    @property
    def demo(self) -> Path:
        """Folder of `twotower demo`: pipeline.toml, data, run."""
        return self.work / "demo"

    def example(self, name: str) -> Path:
        """An example program, built beside the command."""
        return self.twotower.parent / "examples" / name


@dataclass(frozen=True, eq=False)
class Contender:
    """A command that does the work once and is measured as a process of its own.

    `read` makes a sample from the command's standard output and its wall seconds: a dictionary with `rows`
    and `seconds`, and whatever else is worth a note. `output` is removed before each turn, as it is absent on
    every night but a repeated one. `reads_log` gives `read` the standard error in the place of the output.
    """

    group: str
    name: str
    argv: list[str]
    read: Callable[[str, float], dict]
    ours: bool = False
    note: str = ""
    output: Path | None = None
    reads_log: bool = False


def ours(group: str, name: str, argv: list, read: Callable[[str, float], dict], note: str = "",
         output: Path | None = None, reads_log: bool = False) -> Contender:
    """A program of this repository."""
    return Contender(group, name, [str(x) for x in argv], read, True, note, output, reads_log)


def peer(group: str, name: str, function: Callable, note: str = "", **arguments) -> Contender:
    """A function of one of these files, run by `serve` in a fresh interpreter; returns the sample. Its argument
    `out` is where its output goes."""
    argv = [sys.executable, function.__code__.co_filename, function.__name__, json.dumps(arguments, default=str)]
    return Contender(group, name, argv, lambda out, _: json.loads(out.splitlines()[-1]), note=note,
                     output=arguments.get("out"))


def serve(scope: dict) -> None:
    """The other end of `peer`: calls the function named on the command line and prints what it returns."""
    name, arguments = sys.argv[1:]
    print(json.dumps(scope[name](**json.loads(arguments))))


def timed(work: Callable[[], object], rows: int, at_least: float = 2.0) -> dict:
    """One pass to warm up, then passes until `at_least` seconds have gone."""
    work()
    passes, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < at_least:
        work()
        passes += 1
    return {"rows": rows * passes, "seconds": seconds}
