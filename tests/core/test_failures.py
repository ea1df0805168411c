"""Runs that fail for reasons of the machine: each ends in a sentence that says what, where, what is kept, how to go on.

The conditions are real: a file system that fills up or is read-only, mounted in a namespace of the test's own, a limit
on file sizes, a file that is gone, a process that is killed.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smolrecipe.errors import StageError
from smolrecipe.running.causes import Cause, cause_of

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Plant = Callable[..., Path]

STAGE = """
import os, signal
from pathlib import Path
from attrs import frozen
import smolrecipe
from smolrecipe import Artifact, Launcher, StageError, StageKind, option
import sys


@frozen(kw_only=True)
class Options:
    how: str = option(doc="what happens")
    file: str = option(default="", doc="a file that it reads")


def run(options, context):
    context.progress(1, 3, loss=1.0)
    context.saved(1)
    context.progress(2, 3, loss=0.5)
    if options.how == "fill":
        with (context.folder / "weights.bin").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    if options.how == "fill for good":
        try:
            (context.folder / "weights.bin").write_bytes(bytes(1 << 24))
        except OSError as error:
            raise RuntimeError("the checkpoint could not be saved")
    if options.how == "leave no room":
        left = os.statvfs(context.folder)
        (context.folder / "weights.bin").write_bytes(bytes((left.f_bavail - 1) * left.f_frsize))
    if options.how == "read":
        Path(options.file).read_text()
    if options.how == "lose a file of its own":
        (context.folder / "gone.json").read_text()
    if options.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if options.how == "memory":
        bytearray(1 << 60)
    if options.how == "exit":
        os._exit(7)
    return Artifact()


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="hurt", summary="hurt", options=Options, run=run, produces=lambda options: {"number": True})


@smolrecipe.hookimpl
def smolrecipe_launchers():
    yield Launcher(name="direct", summary="one process", source="here", capacity=lambda options: {},
                   command=lambda options, devices, worker: [sys.executable, "-m", *worker])
"""
RECIPE = "name: hurt\nlauncher: {{use: direct}}\nstages:\n  one: {{use: hurt, how: {how}, file: '{file}'}}\n"


@pytest.fixture
def recipe(plant: Plant, write_recipe: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    plant("smolrecipe_planted", {"__init__.py": STAGE}, plugin="planted")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "planted")

    def recipe(how: str, file: str = "") -> Path:
        return write_recipe(RECIPE.format(how=how, file=file))

    return recipe


@functools.cache
def why_no_namespace() -> str:
    made = subprocess.run(["unshare", "-rm", "true"], capture_output=True, text=True, check=False)
    return made.stderr.strip()


needs_mount = pytest.mark.skipif(
    bool(why_no_namespace()), reason=f"no file system can be mounted here: {why_no_namespace()}"
)


def run_mounted(tmp_path: Path, mount: str, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run smolrecipe where ``mount`` mounts something on tmp_path/store; tmp_path/copy is a copy of that."""
    store = tmp_path / "store"
    store.mkdir(exist_ok=True)
    script = f'{mount} && {{ "$@"; code=$?; cp -r "{store}" "{tmp_path}/copy"; exit $code; }}'
    smolrecipe = [sys.executable, "-m", "smolrecipe", *map(str, arguments), "--runs", str(store / "runs")]
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *smolrecipe],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def tmpfs(tmp_path: Path, kilobytes: int) -> str:
    return f'mount -t tmpfs -o size={kilobytes}k tmpfs "{tmp_path}/store"'


def check_sentence(said: str, *parts: str, saved: str = "1, saved") -> None:
    assert "Traceback" not in said, said
    for part in ("error: stage 'one'", f"last good step: {saved}", "log.txt", "to go on: smolrecipe run ", *parts):
        assert part in said, said


@needs_mount
@pytest.mark.parametrize("how", ["fill", "fill for good"])
def test_a_full_disk_is_named_with_the_room_that_it_has(recipe: Callable[..., Path], tmp_path: Path, how: str) -> None:
    """The words come from the stage's process, which has no room to write them to; nor has the log."""
    result = run_mounted(tmp_path, tmpfs(tmp_path, 512), ["run", recipe(f"'{how}'")])
    assert result.returncode == 1
    check_sentence(result.stderr, "no space is left on the disk (0.0 MiB of 0.5 MiB free)", "--runs")


@needs_mount
def test_a_disk_that_is_full_when_the_runner_publishes(recipe: Callable[..., Path], tmp_path: Path) -> None:
    result = run_mounted(tmp_path, tmpfs(tmp_path, 512), ["run", recipe("leave no room")])
    assert result.returncode == 1
    check_sentence(result.stderr, "no space is left on the disk", "MiB of 0.5 MiB free")
    assert not [path for path in (tmp_path / "copy/runs/hurt").glob("one-*") if path.suffix != ".partial"]


@needs_mount
def test_a_disk_that_is_full_from_the_beginning(recipe: Callable[..., Path], tmp_path: Path) -> None:
    fill = (
        f'{tmpfs(tmp_path, 64)} && mkdir -p "{tmp_path}/store/runs/hurt" && (cat /dev/zero >"{tmp_path}/store/x" || :)'
    )
    result = run_mounted(tmp_path, fill, ["run", recipe("fill")])
    assert result.returncode == 2
    assert "hurt cannot be written (No space left on device; 0.0 MiB of 0.1 MiB free): choose another" in result.stderr


@needs_mount
def test_a_read_only_file_system_is_named(recipe: Callable[..., Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "runs" / "hurt").mkdir(parents=True)
    bind = f'mount --bind "{store}" "{store}" && mount -o remount,bind,ro "{store}"'
    result = run_mounted(tmp_path, bind, ["run", recipe("fill")])
    assert result.returncode == 2
    assert "hurt cannot be written (Read-only file system): choose another with --runs" in result.stderr


@needs_mount
def test_a_read_only_file_system_in_a_stage(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    code = (
        f"from pathlib import Path\nfrom smolrecipe.running.causes import cause_of\nfolder = Path('{store}')\n"
        "try: (folder / 'x').touch()\nexcept OSError as error: print(cause_of(error, folder).message)"
    )
    bind = f'mount --bind "{store}" "{store}" && mount -o remount,bind,ro "{store}"'
    script = f'{bind} && exec "{sys.executable}" -c "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"cannot write {store}/x: the file system is read-only; mount it for writing, or choose another with --runs\n"
    )


def test_a_limit_on_the_size_of_files(recipe: Callable[..., Path], smolrecipe: Run) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        result = smolrecipe("run", recipe("fill"), check=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_sentence(result.stderr, "the file is larger than this process may make it (ulimit -f)")


def test_a_file_that_vanished_is_named_and_one_of_the_stage_s_own_is_a_bug(
    recipe: Callable[..., Path], smolrecipe: Run, tmp_path: Path
) -> None:
    missing = tmp_path / "corpus.jsonl"
    result = smolrecipe("run", recipe("read", str(missing)), check=1)
    check_sentence(result.stderr, f"stage 'one': {missing}, which the stage reads, is not there (any more)")
    result = smolrecipe("run", recipe("lose a file of its own"), check=1)
    check_sentence(result.stderr, "stage 'one' crashed with FileNotFoundError: [Errno 2]")


def test_memory_that_ran_out_says_what_to_lower(recipe: Callable[..., Path], smolrecipe: Run) -> None:
    check_sentence(smolrecipe("run", recipe("memory"), check=1).stderr, "memory ran out (MemoryError)", "micro-batch")


def test_a_process_that_was_killed_is_told_with_its_signal(recipe: Callable[..., Path], smolrecipe: Run) -> None:
    check_sentence(
        smolrecipe("run", recipe("kill"), check=1).stderr, "stage 'one' was ended by SIGKILL (out of memory? "
    )
    check_sentence(smolrecipe("run", recipe("exit"), check=1).stderr, "stage 'one' ended with exit code 7")


class TestCauses:
    """Errors as the engines make them, of what the system really answered."""

    @staticmethod
    def cause_without_room(write: Callable[[], object], folder: Path) -> Cause:
        """The cause that is found where no file may be longer than a few blocks."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(BaseException) as caught:
                write()
            return cause_of(caught.value, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @pytest.mark.parametrize("library", ["safetensors", "torch.save", "torch.distributed.checkpoint", "pyarrow"])
    def test_what_libraries_make_of_a_write_that_fails(self, tmp_path: Path, library: str) -> None:
        import torch

        weights = {"w": torch.ones(100_000)}

        def write() -> None:
            if library == "safetensors":
                from safetensors.torch import save_file

                save_file(weights, tmp_path / "x.safetensors")
            elif library == "torch.save":
                torch.save(weights, tmp_path / "x.pt")
            elif library == "torch.distributed.checkpoint":
                from torch.distributed import checkpoint

                checkpoint.save(weights, checkpoint_id=str(tmp_path / "x"))
            else:
                import pyarrow as pa
                from pyarrow import parquet

                column = pa.array([os.urandom(8) for _ in range(50_000)])
                parquet.write_table(pa.table({"x": column}), tmp_path / "x.parquet", compression="none")

        cause = self.cause_without_room(write, tmp_path)
        assert cause.kind == "disk" and "larger than this process may make it" in cause.message, cause

    def test_what_torch_says_when_memory_runs_out(self, tmp_path: Path) -> None:
        import torch

        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 55)
        assert cause_of(caught.value, tmp_path).kind == "memory"
        cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        assert cause_of(cuda, tmp_path).kind == "memory"

    def test_a_stage_s_own_words_stay_and_the_disk_is_told_beside_them(self, tmp_path: Path) -> None:
        def save() -> None:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "step-3/a"))
            except OSError as error:
                raise StageError("the checkpoint of step 3 could not be saved") from error

        with pytest.raises(StageError) as caught:
            save()
        cause = cause_of(caught.value, tmp_path)
        assert cause.message.startswith(
            f"the checkpoint of step 3 could not be saved (cannot write {tmp_path}/step-3/a: no space is left on the"
        )

    def test_what_was_handled_before_is_not_blamed(self, tmp_path: Path) -> None:
        def fall_back() -> None:
            try:
                Path("/nowhere/cache").read_text()
            except FileNotFoundError:
                raise ZeroDivisionError("a bug in what to do without a cache")  # noqa: B904

        with pytest.raises(ZeroDivisionError) as caught:
            fall_back()
        assert cause_of(caught.value, tmp_path).kind == "crash"

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (errno.EDQUOT, "the quota is used up"),
            (errno.EACCES, "no permission for"),
            (errno.EIO, "look after that disk or mount"),
            (errno.ESTALE, "look after that disk or mount"),
        ],
    )
    def test_other_words_of_the_system(self, tmp_path: Path, number: int, words: str) -> None:
        cause = cause_of(OSError(number, os.strerror(number), "/data/x"), tmp_path)
        assert cause.kind == "disk" and words in cause.message and "/data/x" in cause.message
