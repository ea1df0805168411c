"""Runs the judge of recipe mutants, and notices what it cannot say itself: that it hangs, that it is no more."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HANGS_AFTER = 60.0
"""Seconds of wall time without a word; a mutant may take five of a processor's."""


def verdicts(seed: int, count: int, *, every: int = 10) -> Iterator[dict[str, Any]]:
    """The verdict on each of ``count`` mutants; after a hang or a crash the judge starts again behind it."""
    start = 0
    while start < count:
        last: dict[str, Any] = {}
        command = [sys.executable, str(HERE / "recipe_judge.py"), str(seed), str(start), str(count), str(every)]
        # Mutants name the folder they run in, too: its files are none of theirs to read.
        process = subprocess.Popen(
            command,
            cwd=HERE / "watch",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
        try:
            for line in _lines(process):
                last = json.loads(line)
                if "outcome" in last:
                    start = last["index"] + 1
                    yield last
            hung = process.poll() is None
        finally:
            process.kill()
            _, errors = process.communicate()
        if start < count:
            if not last:
                raise AssertionError(errors.decode(errors="replace"))
            how = (
                f"hung for {HANGS_AFTER} s"
                if hung
                else f"the interpreter ended with {process.returncode}: {errors[-500:]!r}"
            )
            yield {**last, "outcome": "lost", "seconds": HANGS_AFTER, "wrong": [how], "said": []}
            start = last["index"] + 1


def _environment() -> dict[str, str]:
    toy = HERE.parent / "toy_plugin"
    return {**os.environ, "PYTHONPATH": f"{toy}{os.pathsep}{HERE}", "HOME": "/nonexistent"}


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the process says, until it ends or is silent for too long."""
    assert process.stdout is not None
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], HANGS_AFTER)[0]:
            return
        more = os.read(process.stdout.fileno(), 65536)
        if not more:
            process.wait()
            return
        *lines, rest = (rest + more).split(b"\n")
        yield from lines


def table(found: Sequence[dict[str, Any]]) -> str:
    """How many of each kind there were, what became of them, and how many went wrong."""
    counts = Counter((verdict["kind"], verdict["outcome"]) for verdict in found)
    wrong = Counter(verdict["kind"] for verdict in found if verdict["wrong"])
    lines = [f"{'kind':<18}{'valid':>7}{'refused':>9}{'else':>6}{'wrong':>7}"]
    for kind in dict.fromkeys(verdict["kind"] for verdict in found):
        valid, refused = counts[kind, "valid"], counts[kind, "refused"]
        other = sum(counts[kind, outcome] for outcome in ("raised", "lost"))
        lines.append(f"{kind:<18}{valid:>7}{refused:>9}{other:>6}{wrong[kind]:>7}")
    return "\n".join(lines)


if __name__ == "__main__":
    everything = []
    for verdict in verdicts(int(sys.argv[1]), int(sys.argv[2])):
        everything.append(verdict)
        if verdict["wrong"]:
            print(json.dumps(verdict, ensure_ascii=False))
    print(table(everything))
    print("slowest", sorted((v["seconds"], v["index"], v["why"][:80]) for v in everything)[-8:])
    print("seconds", sum(v["seconds"] for v in everything))
