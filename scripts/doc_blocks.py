#!/usr/bin/env python3
"""Run the command blocks of Markdown pages as they are written.

    doc_blocks.py [--twotower PROGRAM] [--list] PAGE...

Every fenced block marked `sh` or `python` is run, in order, each page in a temporary folder of its own,
with the repository's `deploy`, `scripts` and `docs` linked there and `twotower` on the PATH. `python`
blocks run in the interpreter that runs this script. A block that cannot run this way has a line before it

    <!-- not run: the reason -->

A block that fails, a mark without a reason, and a mark with no block after it, fail the script.
Exits 1 at the first of them, and names the page and the line.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MARK = re.compile(r"<!-- not run:(.*)-->\s*$")


def blocks(page):
    """The blocks of a page: line number, language, text, and the reason it is not run or None."""
    found, reason, inside = [], None, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if inside:
            if line.strip() == "```":
                if inside["language"] in ("sh", "python"):
                    found.append((inside["line"], inside["language"], "\n".join(inside["text"]) + "\n", reason))
                    reason = None
                inside = None
            else:
                inside["text"].append(line)
        elif line.startswith("```"):
            inside = {"line": number, "language": line[3:].strip(), "text": []}
            if reason is not None and inside["language"] not in ("sh", "python"):
                sys.exit(f"{page}:{number}: a block that is never run needs no `not run` mark")
        elif mark := MARK.match(line):
            reason = mark[1].strip()
            if not reason:
                sys.exit(f"{page}:{number}: the `not run` mark gives no reason")
        elif line.strip() and reason is not None:
            sys.exit(f"{page}:{number}: a `not run` mark stands before this line, which is not a block")
    if inside:
        sys.exit(f"{page}:{inside['line']}: the block is not closed")
    if reason is not None:
        sys.exit(f"{page}: a `not run` mark stands at the end, before no block")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    parser.add_argument("--twotower", type=Path, default=REPOSITORY / "target/release/twotower")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    arguments = parser.parse_args()
    program = arguments.twotower.resolve()
    if not arguments.list and not program.is_file():
        sys.exit(f"--twotower: no file {program}; build it first: cargo build --release")
    for page in arguments.pages:
        found = blocks(page)
        if not found:
            sys.exit(f"{page}: no block marked `sh` or `python`")
        with tempfile.TemporaryDirectory(prefix="twotower-doc-") as folder:
            for name in ("deploy", "scripts", "docs"):
                os.symlink(REPOSITORY / name, Path(folder) / name)
            environment = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
            for line, language, text, reason in found:
                if reason is not None or arguments.list:
                    print(f"{page}:{line}: {language}, {'not run: ' + reason if reason else 'runs'}", flush=True)
                    continue
                print(f"{page}:{line}: {language}", flush=True)
                command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
                ended = subprocess.run(command, cwd=folder, env=environment, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if ended.returncode:
                    sys.exit(f"{page}:{line}: the block ended with {ended.returncode}:\n{text}\n{ended.stdout}")


if __name__ == "__main__":
    main()
