"""Who is blamed when one of a stage's processes is gone, from what each has said and how the launcher saw it end.

``tests/plugins/test_local_failures.py`` has the same with real processes where a machine without GPUs can have them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from smolrecipe.running import watch as watching
from smolrecipe.running.blame import reason_of
from smolrecipe.running.notes import OwnNote, ends_file, is_alive, prepare_notes, read_notes
from smolrecipe.running.watch import LostProcessesError, Watch

GONE = "RuntimeError: [gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:17288."
TIMEOUT = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation"
WATCHDOG = (
    "[rank0]:[E926 10:21:07 ProcessGroupNCCL.cpp:683] [Rank 0] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=42, OpType=ALLREDUCE, NumelIn=1) ran for 600029 milliseconds before timing out.\n"
)
KILLED, SEGV, ABORTED, TERMINATED = -9, -11, -6, -15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare_notes(tmp_path, 2)
    return tmp_path


def say(folder: Path, rank: int, *failure: str) -> None:
    note = OwnNote(folder, rank, 2)
    if failure:
        note.failed(*failure)


def blame(folder: Path, ends: Mapping[str, tuple[int, float]], log: str = "") -> str:
    """The reason after step 3, with what the launcher says: rank -> exit code, and seconds from now."""
    (folder / "log.txt").write_text(log)
    if ends:
        told = json.dumps({rank: [code, int(time.time() + later)] for rank, (code, later) in ends.items()})
        with ends_file(folder).open("r+") as file:
            file.write(told)
    return reason_of(folder, folder / "log.txt", 1, 2, 3)


def test_one_that_was_killed_and_not_the_one_that_lost_it(folder: Path) -> None:
    say(folder, 0, "lost", GONE)
    say(folder, 1)
    said = blame(folder, {"0": (1, 0), "1": (KILLED, 0)})
    assert said.startswith(" lost rank 1 of 2 (process ") and "by SIGKILL (out of memory?" in said
    assert "in step 4; the others cannot go on without it" in said and "peer" not in said


def test_one_that_was_killed_where_the_launcher_says_nothing(folder: Path) -> None:
    say(folder, 0, "lost", GONE)
    say(folder, 1)
    assert "which ended without a word, in step 4; the others" in blame(folder, {})


def test_survivors_that_the_launcher_killed_half_a_minute_later(folder: Path) -> None:
    """With NCCL they do not notice: they wait in a kernel until they are killed."""
    say(folder, 0)
    say(folder, 1)
    assert blame(folder, {"0": (KILLED, 31), "1": (KILLED, 0)}).startswith(" lost rank 1 of 2")
    assert blame(folder, {"0": (SEGV, 0), "1": (KILLED, 31)}).startswith(" lost rank 0 of 2")


def test_one_that_hangs_is_the_one_that_says_nothing(folder: Path) -> None:
    say(folder, 0, "lost", TIMEOUT)
    say(folder, 1)
    for code, later in ((KILLED, 31), (TERMINATED, 1)):
        said = blame(folder, {"0": (1, 0), "1": (code, later)})
        assert said.startswith(" hung: rank 1 of 2 (process ") and "did not answer in step 4" in said
        assert "Timed out waiting 5000ms" in said


def test_one_that_hangs_where_nccl_s_watchdog_aborts_those_that_wait(folder: Path) -> None:
    say(folder, 0)
    say(folder, 1)
    said = blame(folder, {"0": (ABORTED, 0), "1": (KILLED, 31)}, log=WATCHDOG)
    assert said.startswith(" hung: rank 1 of 2 (process "), said
    assert blame(folder, {"0": (ABORTED, 0), "1": (KILLED, 31)}).startswith(" lost rank 0 of 2"), "an abort of its own"


def test_one_that_never_started(folder: Path) -> None:
    say(folder, 0, "lost", "DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.")
    assert blame(folder, {}).startswith(" could not begin: rank 1 of 2 never started (DistStoreError")


def test_the_network_between_them(folder: Path) -> None:
    for rank in range(2):
        say(folder, rank, "lost", TIMEOUT)
    said = blame(folder, {"0": (1, 0), "1": (1, 0)})
    assert said.startswith(" failed in step 4: its 2 processes lost each other (RuntimeError") and "network" in said


def test_what_a_stage_says_itself_goes_before_the_signal_that_it_led_to(folder: Path) -> None:
    say(folder, 0, "told", "the loss is not finite in step 4")
    say(folder, 1)
    assert blame(folder, {"0": (1, 0), "1": (SEGV, 0)}) == ": the loss is not finite in step 4"


def test_the_first_of_two_that_failed(folder: Path) -> None:
    say(folder, 1, "disk", "no space is left")
    time.sleep(0.01)
    say(folder, 0, "disk", "no space is left either")
    assert " failed in step 4: rank 1 of 2 (process " in blame(folder, {"0": (1, 0), "1": (1, 0)})


def test_one_that_leaves_without_a_word(folder: Path) -> None:
    say(folder, 0, "lost", GONE)
    say(folder, 1)
    assert "which ended with exit code 7 and said no more" in blame(folder, {"0": (1, 0), "1": (7, 0)})


def test_a_stage_that_somebody_else_asked_to_stop(folder: Path) -> None:
    for rank in range(2):
        OwnNote(folder, rank, 2).stopped(4)
    assert blame(folder, {"0": (1, 0), "1": (1, 0)}).endswith("signal from outside, and saved after step 4")


def test_notes_have_room_for_any_message_and_tell_who_lives(folder: Path) -> None:
    note = OwnNote(folder, 0, 2)
    for message in ("\U0001f600" * 5000, "x" * 10_000, '"\\\n' * 3000):
        note.failed("crash", message)
        found = read_notes(folder)
        assert list(found) == [0] and found[0].message and message.startswith(found[0].message)
    assert is_alive(folder, 0) and not is_alive(folder, 1)


class TestWatch:
    """The runner's own bound, for launchers and engines that have none."""

    @pytest.fixture
    def watch(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
        monkeypatch.setattr(watching, "LOSS_SECONDS", 0.3)
        monkeypatch.setattr(watching, "_LOOK_EVERY_SECONDS", 0.02)
        return Watch(folder)

    @staticmethod
    def worker(folder: Path, rank: int) -> subprocess.Popen[str]:
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom smolrecipe.running.notes import OwnNote\n"
            "note = OwnNote(Path(sys.argv[1]), int(sys.argv[2]), 2)\nprint('here', flush=True)\ntime.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, folder, str(rank)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        return process

    @staticmethod
    def look_for(watch: Watch, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            watch.look()
            time.sleep(0.01)

    def test_the_others_have_their_time_when_one_was_killed(self, watch: Watch, folder: Path) -> None:
        workers = [self.worker(folder, rank) for rank in range(2)]
        self.look_for(watch, 0.6)  # all is well
        workers[1].kill()
        workers[1].wait()
        begun = time.monotonic()
        with pytest.raises(LostProcessesError):
            self.look_for(watch, 5)
        assert time.monotonic() - begun > 0.25
        workers[0].kill()
        workers[0].wait()

    def test_one_that_failed_counts_and_those_that_are_done_do_not(self, watch: Watch, folder: Path) -> None:
        done, other = OwnNote(folder, 0, 2), OwnNote(folder, 1, 2)
        done.done()
        self.look_for(watch, 0.6)
        other.failed("told", "no")
        with pytest.raises(LostProcessesError):
            self.look_for(watch, 5)
