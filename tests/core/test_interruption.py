"""Being asked to stop, and being killed in between: what is saved, what is said, and what the metrics then hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.running.metrics import MetricsFollower, MetricsWriter, last_saved, read_whole_lines
from smolrecipe.stage import read_events

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
Plant = Callable[..., Path]

STAGE = """
import json, sys, time
from attrs import frozen
import smolrecipe
from smolrecipe import Artifact, Launcher, StageKind, StageStopped, option


@frozen(kw_only=True)
class Options:
    steps: int = option(default=30, doc="steps")
    seconds: float = option(default=0.1, doc="of a step", identity=False)
    heed: bool = option(default=True, doc="whether it stops when asked to", identity=False)
    saving: float = option(default=0.0, doc="seconds that saving takes", identity=False)
    every: int = option(default=1000, doc="steps from one checkpoint to the next", identity=False)


def run(options, context):
    asked = context.heed_stop() if options.heed else lambda: False
    state = context.folder / "state.json"
    step = json.loads(state.read_text()) if state.exists() else 0

    def save():
        time.sleep(options.saving)
        state.with_suffix(".new").write_text(json.dumps(step))
        state.with_suffix(".new").replace(state)
        context.saved(step)

    while step < options.steps:
        step += 1
        time.sleep(options.seconds)
        context.progress(step, options.steps, loss=1 / step)
        if step % options.every == 0:
            save()
        if asked():
            save()
            raise StageStopped(step)
    state.unlink(missing_ok=True)
    return Artifact()


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="train", summary="train", options=Options, run=run, produces=lambda options: {"number": True})


@smolrecipe.hookimpl
def smolrecipe_launchers():
    yield Launcher(name="direct", summary="one process", source="here", capacity=lambda options: {},
                   command=lambda options, devices, worker: [sys.executable, "-m", *worker])
"""


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class TestAsked:
    @pytest.fixture
    def recipe(self, plant: Plant, write_recipe: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        plant("smolrecipe_planted", {"__init__.py": STAGE}, plugin="planted")
        monkeypatch.setenv("SMOLRECIPE_PLUGINS", "planted")

        def recipe(**options: Any) -> Path:
            return write_recipe(
                f"name: t\nlauncher: {{use: direct}}\nstages:\n  one: {json.dumps({'use': 'train', **options})}\n"
            )

        return recipe

    @pytest.fixture
    def reach(self, start_smolrecipe: Start, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
        """Start a run and wait until its stage has done the third step."""

        def reach(*arguments: str | Path) -> subprocess.Popen[str]:
            process = start_smolrecipe(["run", *arguments])
            wait_for(lambda: self.steps(tmp_path)[-1:] >= [3])
            return process

        return reach

    @staticmethod
    def steps(tmp_path: Path) -> list[int]:
        found = [*tmp_path.glob("runs/t/one-*/metrics.jsonl")]
        return [event["step"] for path in found for event in read_whole_lines(path) if "step" in event]

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_stage_that_heeds_it_saves_and_the_same_command_goes_on(
        self, recipe: Callable[..., Path], reach: Start, smolrecipe: Run, tmp_path: Path, number: int, code: int
    ) -> None:
        path = recipe()
        process = reach(path)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        (state,) = tmp_path.glob("runs/t/one-*/state.json")
        saved = json.loads(state.read_text())
        assert process.returncode == code
        assert f"interrupted in stage 'one', saved after step {saved}\n  to go on: smolrecipe run {path}\n" in said
        assert self.steps(tmp_path) == [*range(1, saved + 1)]
        again = smolrecipe("run", path, "--set", "stages.one.seconds=0", check=0)
        assert f"one: goes on (its last checkpoint is of step {saved})" in again.stderr
        assert self.steps(tmp_path) == [*range(1, 31)]

    def test_the_grace_period_is_waited_for(
        self, recipe: Callable[..., Path], reach: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SMOLRECIPE_GRACE", "20")
        process = reach(recipe(saving=2))
        process.send_signal(signal.SIGTERM)
        assert "saved after step" in process.communicate(timeout=30)[1]

    def test_the_grace_period_ends(self, recipe: Callable[..., Path], reach: Start) -> None:
        process = reach(recipe(saving=100), "--grace", "1")
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert 1 <= time.monotonic() - begun < 8
        assert process.returncode == 143 and "(it had not ended by itself within 1 s, and was killed)" in said

    def test_a_second_sigterm_does_not_hurry(self, recipe: Callable[..., Path], reach: Start) -> None:
        process = reach(recipe(saving=2))
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert "saved after step" in process.communicate(timeout=30)[1]

    def test_a_second_ctrl_c_kills_at_once(self, recipe: Callable[..., Path], reach: Start) -> None:
        process = reach(recipe(saving=50))
        begun = time.monotonic()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        process.communicate(timeout=30)
        assert time.monotonic() - begun < 10 and process.returncode == 130

    def test_one_that_does_not_heed_it_ends_at_once_and_goes_on_from_its_last_checkpoint(
        self, recipe: Callable[..., Path], reach: Start, smolrecipe: Run, tmp_path: Path
    ) -> None:
        process = reach(recipe(heed=False, every=2))
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - begun < 8
        (metrics,) = tmp_path.glob("runs/t/one-*/metrics.jsonl")
        assert f"'one', which goes on from its last checkpoint, of step {last_saved(metrics)}\n" in said
        smolrecipe("run", recipe(seconds=0), check=0)
        assert self.steps(tmp_path) == [*range(1, 31)]

    def test_nothing_is_left_running(self, recipe: Callable[..., Path], reach: Start, tmp_path: Path) -> None:
        process = reach(recipe(saving=100), "--grace", "1")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert not [line for line in _processes() if str(tmp_path) in line]


def _processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has just ended
    return found


def events_of(count: int) -> list[dict[str, Any]]:
    """Steps, a sentence and checkpoints, as a stage reports them."""
    events: list[dict[str, Any]] = [{"message": "begins: \u2028 \u00fc \U0001f600 are no ends of lines"}]
    for step in range(1, count + 1):
        events.append({"step": step, "steps": count, "loss": 1 / step})
        if step % 2 == 0:
            events.append({"checkpoint": step})
    return events


def without_time(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key != "time"} for event in read_events(path)]


class TestMetrics:
    def test_a_kill_at_any_byte_leaves_whole_lines_and_a_resumed_stage_shows_each_step_once(
        self, tmp_path: Path
    ) -> None:
        whole = tmp_path / "whole.jsonl"
        writer = MetricsWriter(whole)
        for event in events_of(4):
            writer(event)
        expected, content = without_time(whole), whole.read_bytes()
        assert expected == events_of(4)
        for cut in range(len(content) + 1):
            path = tmp_path / "metrics.jsonl"
            path.write_bytes(content[:cut])
            kept = (
                without_time(path)
                if content[:cut].endswith(b"\n")
                else without_time(path)[: content[:cut].count(b"\n")]
            )
            saved = last_saved(path) or 0
            writer = MetricsWriter(path)
            resumed = [event for event in events_of(4) if event.get("step", event.get("checkpoint", 0)) > saved]
            for event in resumed:
                writer(event)
            assert path.read_bytes().endswith(b"\n")
            assert all(json.loads(line) for line in path.read_bytes().splitlines())
            steps = [event["step"] for event in without_time(path) if "step" in event]
            saves = [event["checkpoint"] for event in without_time(path) if "checkpoint" in event]
            assert (steps, saves) == ([1, 2, 3, 4], [2, 4]), (cut, kept)

    def test_a_stage_that_goes_back_behind_its_last_checkpoint_forgets_it(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        writer = MetricsWriter(path)
        for event in events_of(4):
            writer(event)
        writer = MetricsWriter(path)
        writer({"message": "the checkpoint of step 4 is damaged"})
        assert last_saved(path) == 4
        writer({"step": 3, "steps": 4, "loss": 0.5})
        assert last_saved(path) == 2
        assert [event["step"] for event in read_events(path) if "step" in event] == [1, 2, 3]

    def test_a_stage_that_only_saves_again_says_so_once(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        writer = MetricsWriter(path)
        for event in events_of(4):
            writer(event)
        MetricsWriter(path)({"checkpoint": 4})
        assert without_time(path) == events_of(4)

    def test_a_kill_between_any_two_system_calls_of_going_back(self, tmp_path: Path) -> None:
        """The writer is killed at each event that Python's auditing tells of while it drops and appends."""
        path = tmp_path / "metrics.jsonl"
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from smolrecipe.running.metrics import MetricsWriter\n"
            "path, at = Path(sys.argv[1]), int(sys.argv[2])\n"
            "seen = 0\n"
            "def hook(event, arguments):\n"
            "    global seen\n"
            "    if event in ('open', 'os.rename', 'os.truncate', 'os.remove'):\n"
            "        seen += 1\n"
            "        if seen == at: os.kill(os.getpid(), signal.SIGKILL)\n"
            "sys.addaudithook(hook)\n"
            "writer = MetricsWriter(path)\n"
            "writer({'step': 3, 'steps': 4, 'loss': 0.5}); writer({'step': 4, 'steps': 4, 'loss': 0.5})\n"
        )
        killed = 0
        for at in range(1, 50):
            path.unlink(missing_ok=True)
            for event in events_of(4)[:-1]:
                MetricsWriter(path)(event) if not path.exists() else path.open("a").write(json.dumps(event) + "\n")
            path.open("a").write('{"torn')
            ended = subprocess.run([sys.executable, "-c", code, path, str(at)], check=False)
            killed += ended.returncode == -signal.SIGKILL
            writer = MetricsWriter(path)
            for step in (3, 4):
                writer({"step": step, "steps": 4, "loss": 0.5})
            assert [event["step"] for event in read_events(path) if "step" in event] == [1, 2, 3, 4], at
            if ended.returncode == 0:
                break
        assert killed >= 4

    def test_who_follows_sees_each_new_event_once(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        writer = MetricsWriter(path)
        for event in events_of(4):
            writer(event)
        with path.open("ab") as file:
            file.write(b'{"step": 5, "ste')
        follower = MetricsFollower(path)
        writer = MetricsWriter(path)
        writer({"message": "goes on"})
        shown = follower.new_events()
        for step in (3, 4, 5):
            writer({"step": step, "steps": 6, "loss": 0.25})
        shown += follower.new_events()
        writer({"step": 6, "steps": 6, "loss": 0.25})
        shown += follower.new_events()
        assert [event.get("step", event.get("message")) for event in shown] == ["goes on", 3, 4, 5, 6]
        assert follower.new_events() == []

    def test_a_write_that_fails_leaves_no_half_line(self, tmp_path: Path) -> None:
        code = (
            "import resource, sys\n"
            "from pathlib import Path\n"
            "from smolrecipe.running.metrics import MetricsWriter\n"
            "writer = MetricsWriter(Path(sys.argv[1]))\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
            "for step in range(1, 10): writer({'step': step, 'steps': 9, 'loss': 0.5})\n"
        )
        path = tmp_path / "metrics.jsonl"
        ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
        assert "File too large" in ended.stderr
        assert path.read_bytes().endswith(b"\n") and 3 <= len(read_events(path)) <= 5


def test_the_metrics_of_a_run_that_is_killed_again_and_again(
    plant: Plant,
    write_recipe: Write,
    smolrecipe: Run,
    start_smolrecipe: Start,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    plant("smolrecipe_planted", {"__init__.py": STAGE}, plugin="planted")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "planted")
    recipe = write_recipe("name: t\nlauncher: {use: direct}\nstages: {one: {use: train, every: 3, seconds: 0.05}}\n")
    for after in (4, 11, 20):
        process = start_smolrecipe(["run", recipe])
        wait_for(lambda: TestAsked.steps(tmp_path)[-1:] >= [after])  # noqa: B023
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    smolrecipe("run", recipe, check=0)
    (metrics,) = tmp_path.glob("runs/t/one-*/metrics.jsonl")
    assert TestAsked.steps(tmp_path) == [*range(1, 31)]
    assert [event["checkpoint"] for event in read_whole_lines(metrics) if "checkpoint" in event] == [*range(3, 31, 3)]
