"""What tests of happenings ask: train a stage to which this and that happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import titan_chaos
from attrs import asdict
from titan_chaos import ONE, TWO, Happening, Seen, Training
from titan_toys import write_tokenizer


class Trainings:
    """The server, from a test's side. ``folder`` has a folder for each stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_tokenizer(folder / "tokenizer" / "tokenizer")
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, titan_chaos.__file__, str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def train(self, name: str, *happens: Happening, **asked: Any) -> list[Seen]:
        """Train a stage; what each of its processes saw."""
        training = Training(name=name, happens=happens, **asked)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(asdict(training)) + "\n")
        self._server.stdin.flush()
        return [Seen(**seen) for seen in json.loads(self._server.stdout.readline())]

    def copy(self, name: str, to: str) -> None:
        """Copy a stage's folder."""
        shutil.copytree(self.folder / name, self.folder / to)

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """One server for all tests."""
    server = Trainings(tmp_path_factory.mktemp("chaos"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole(trainings: Trainings) -> Seen:
    """A stage that nothing happened to."""
    (seen,) = trainings.train("whole", **ONE)
    assert seen.outcome == "done", seen.output
    return seen


@pytest.fixture(scope="session")
def whole_two(trainings: Trainings) -> list[Seen]:
    """The same in two processes."""
    seen = trainings.train("whole-two", **TWO)
    assert [one.outcome for one in seen] == ["done", "done"], seen[0].output
    return seen
