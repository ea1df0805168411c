"""The scripts that ``launch slurm`` writes, what it refuses, and the launcher of several machines; no cluster."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from smolrecipe import Devices, StageError
from smolrecipe.components import Launcher
from smolrecipe_slurm import TorchrunOptions, command, problems, smolrecipe_commands, smolrecipe_launchers
from smolrecipe_slurm.scripts import directive

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """\
name: trial
launcher: {use: direct}
stages:
  one: {use: count, to: 1}
  left: {use: count, to: 2, from: one, processes: 16, device: cuda}
  right: {use: count, to: 3, from: one, processes: 2}
"""

RECORDER = '#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> "$RECORD"; exit ${ENDS:-0}\n'
"""A program that writes down what it was called with."""


@pytest.fixture
def recipe(toy_plugin: None, monkeypatch: pytest.MonkeyPatch, write_recipe: Write) -> Path:
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,slurm")
    return write_recipe(RECIPE, "a b'c \"$(touch hit)` #.yaml")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program of that name in front of all others; what it is called with is written to the returned file."""

    def make(name: str) -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(RECORDER)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("RECORD", str(tmp_path / "record"))
        return tmp_path / "record"

    return make


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "slurm/trial").iterdir())}


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


class TestScripts:
    def test_one_job_for_each_stage(self, recipe: Path, smolrecipe: Run, tmp_path: Path) -> None:
        done = smolrecipe("launch", "slurm", recipe, "--dry-run", check=0)
        assert done.stdout.splitlines()[-4:] == [
            "one: 1 process on 1 node",
            "left: 16 GPUs on 2 nodes, after one",
            "right: 2 processes on 1 node, after one",
            "written to slurm/trial; to submit: bash slurm/trial/submit.sh, or --submit",
        ]
        files = texts(tmp_path)
        assert list(files) == ["01-one.sbatch", "02-left.sbatch", "03-right.sbatch", "submit.sh"]
        assert all(text in done.stdout for text in files.values()), "what is written is printed"
        for name in files:
            assert subprocess.run(["bash", "-n", tmp_path / "slurm/trial" / name], check=False).returncode == 0
        assert not [*tmp_path.glob("**/hit")]

    def test_published_stages_have_no_job(self, recipe: Path, smolrecipe: Run, tmp_path: Path) -> None:
        smolrecipe("launch", "slurm", recipe, check=0)
        smolrecipe("run", recipe, "--only", "one", check=0)
        done = smolrecipe("launch", "slurm", recipe, "--json", check=0)
        assert [(job["stage"], job["nodes"], job["after"], job["job"]) for job in json.loads(done.stdout)] == [
            ("left", 2, [], None), ("right", 1, [], None),
        ]  # fmt: skip
        assert list(texts(tmp_path)) == ["01-left.sbatch", "02-right.sbatch", "submit.sh"], "no job of before is left"

    def test_what_slurm_is_asked_for(self, recipe: Path, smolrecipe: Run, tmp_path: Path) -> None:
        smolrecipe(
            *("launch", "slurm", recipe, "--partition", "hopper", "--account", "us", "--qos", "high", "--mem", "0"),
            *("--time", "24:00:00", "--cpus-per-task", "96", "--gpus-per-node", "4", "--grace", "90"),
            *("--sbatch", "--constraint=h100|h200", "--setup", "module load cuda", "--setup", "ulimit -n 9999"),
            check=0,
        )
        script = texts(tmp_path)["02-left.sbatch"]
        found = directives(script)
        assert found[0].startswith("--job-name=trial.left-")
        assert found[1:] == [
            "--output=02-left.%j.out", "--open-mode=append", "--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=4",
            "--partition=hopper", "--account=us", "--qos=high", "--time=24:00:00", "--mem=0", "--cpus-per-task=96",
            '--constraint="h100|h200"', "--requeue", "--signal=B:TERM@150", "--kill-on-invalid-dep=yes",
        ]  # fmt: skip
        lines = script.splitlines()
        assert lines.index("module load cuda") + 1 == lines.index("ulimit -n 9999") < lines.index("trap stop TERM")
        assert "srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --kill-on-bad-exit=0 \\" in lines
        assert "gpus-per-node" not in texts(tmp_path)["01-one.sbatch"]

    def test_hostile_words_reach_the_command_as_they_are(
        self, recipe: Path, smolrecipe: Run, tmp_path: Path, record: Callable[[str], Path]
    ) -> None:
        written = record("smolrecipe")
        label = 'stages.one.label=it\'s "$(touch hit)" `touch hit`; touch hit #'
        smolrecipe("launch", "slurm", recipe, "--program", "smolrecipe", "--set", label, check=0)
        script = tmp_path / "slurm/trial/01-one.sbatch"
        subprocess.run(["bash", script], cwd="/", check=True, env={**os.environ, "SLURM_JOB_ID": "1"}, timeout=30)
        assert written.read_text().split("\0")[:-1] == [
            "--plugins", "toy,slurm", "run", str(recipe), "--only", "one", "--runs", str(tmp_path / "runs"),
            "--grace", "60", "--set", label,
        ]  # fmt: skip
        assert not [*tmp_path.glob("**/hit")]

    def test_jobs_are_held_to_the_lock_file(
        self, recipe: Path, smolrecipe: Run, tmp_path: Path, record: Callable[[str], Path]
    ) -> None:
        smolrecipe("lock", recipe, "-o", "the lock.json", check=0)
        said = smolrecipe("launch", "slurm", recipe, "--lock", "the lock.json", check=2).stderr
        assert "--lock names the file for --locked: give both" in said
        drifted = ("--locked", "--lock", "the lock.json", "--set", "stages.one.to=5")
        for words in (
            ("slurm", recipe), ("node", recipe, "left", "--nodes", "2", "--node-rank", "1", "--rendezvous", "a:1"),
        ):  # fmt: skip
            said = smolrecipe("launch", *words, *drifted, check=2).stderr
            assert "stages.one.to is not what was locked (1 -> 5): set it back, or lock again" in said
        assert not (tmp_path / "slurm").exists(), "nothing is written that would be refused"
        smolrecipe("launch", "slurm", recipe, "--locked", "--lock", "the lock.json", check=0)
        held = f"--locked --lock '{tmp_path}/the lock.json'"
        assert all(held in text for name, text in texts(tmp_path).items() if name != "submit.sh")
        script = tmp_path / "slurm/trial/03-right.sbatch"
        record("scontrol")
        (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho RUNNING\n")
        (tmp_path / "bin/squeue").chmod(0o755)
        environment = {**os.environ, "SLURM_JOB_ID": "1"}
        smolrecipe("run", recipe, "--only", "one", check=0)
        subprocess.run(["bash", script], check=True, env=environment, timeout=60)
        assert [*tmp_path.glob("runs/trial/right-*/stage.json")]
        recipe.write_text(RECIPE.replace("to: 2", "to: 4"))
        assert subprocess.run(["bash", script], check=False, env=environment, timeout=60).returncode == 2

    @pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
    def test_a_stopped_job_goes_back_unless_slurm_has_ended_it(
        self, recipe: Path, smolrecipe: Run, tmp_path: Path, record: Callable[[str], Path], state: str, requeued: bool
    ) -> None:
        written = record("scontrol")
        (tmp_path / "bin/squeue").write_text(f"#!/bin/sh\necho {state}\n")
        (tmp_path / "bin/squeue").chmod(0o755)
        smolrecipe("launch", "slurm", recipe, "--program", "sh -c 'exit 143'", check=0)
        done = subprocess.run(
            ["bash", tmp_path / "slurm/trial/01-one.sbatch"],
            env={**os.environ, "SLURM_JOB_ID": "7"}, capture_output=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 143
        assert (written.read_text() if written.exists() else "") == ("requeue\0" + "7\0") * requeued

    def test_directives_are_quoted(self) -> None:
        assert directive("--partition=a,b") == "#SBATCH --partition=a,b"
        assert directive("--exclusive") == "#SBATCH --exclusive"
        assert directive('--comment=a "b" \\ c') == '#SBATCH --comment="a \\"b\\" \\\\ c"'


class TestSubmitting:
    def test_jobs_wait_for_those_of_the_stages_that_they_use(
        self, recipe: Path, smolrecipe: Run, tmp_path: Path, record: Callable[[str], Path]
    ) -> None:
        written = record("sbatch")
        program = tmp_path / "bin/sbatch"
        program.write_text(RECORDER.replace("exit", 'echo "$(wc -c < "$RECORD");cluster"; exit'))
        done = smolrecipe("launch", "slurm", recipe, "--submit", "--json", check=0)
        first, second, third = (job["job"] for job in json.loads(done.stdout))
        words = written.read_text().split("\0")[:-1]
        assert words == [
            "--parsable", "--dependency=singleton", "./01-one.sbatch",
            "--parsable", f"--dependency=singleton,afterok:{first}", "./02-left.sbatch",
            "--parsable", f"--dependency=singleton,afterok:{first}", "./03-right.sbatch",
        ]  # fmt: skip
        assert len({first, second, third}) == 3

    def test_what_sbatch_says_is_said(
        self, recipe: Path, smolrecipe: Run, record: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record("sbatch")
        monkeypatch.setenv("ENDS", "1")
        done = smolrecipe("launch", "slurm", recipe, "--submit", check=1)
        assert done.stderr == (
            "error: slurm/trial/submit.sh ended with 1: not all jobs were submitted; to take back those that were: "
            "scancel\n"
        )

    def test_there_has_to_be_a_slurm(
        self, recipe: Path, smolrecipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        done = smolrecipe("launch", "slurm", recipe, "--submit", check=2)
        assert done.stderr.startswith("error: there is no sbatch here")

    def test_nothing_to_do(self, recipe: Path, smolrecipe: Run, write_recipe: Write) -> None:
        only = write_recipe("name: trial\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 1}\n")
        smolrecipe("run", only, check=0)
        done = smolrecipe("launch", "slurm", only, "--submit", check=None)
        assert "there is nothing to launch" in done.stdout or "there is no sbatch" in done.stderr


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--gpus-per-node", "5"), "stage 'left' asks for 16 GPUs, which do not fill nodes of 5"),
            (("--partition", "a\n#SBATCH --wrap=x"), "--partition is 'a\\n#SBATCH --wrap=x': it is to be one line"),
            (("--sbatch", "constraint"), "is no option of sbatch"),
            (("--setup", "a\nb"), "is more than one line"),
            (("--out", "a%j"), "choose another with --out"),
            (("--submit", "--dry-run"), "exclude each other"),
        ],
    )
    def test_what_cannot_be_written(self, recipe: Path, smolrecipe: Run, options: tuple[str, ...], said: str) -> None:
        done = smolrecipe("launch", "slurm", recipe, *options, check=2)
        assert said in done.stderr and "Traceback" not in done.stderr

    def test_a_place_that_is_none(self, recipe: Path, smolrecipe: Run) -> None:
        done = smolrecipe("launch", "node", recipe, "right", "--nodes", "2", "--node-rank", "1", "--rendezvous", "here")
        assert done.returncode == 2 and "is no host:port" in done.stderr

    def test_processes_that_do_not_fill_the_machines(self, recipe: Path, smolrecipe: Run) -> None:
        for rank in ("0", "1"):
            done = smolrecipe(
                *("launch", "node", recipe, "one", "--nodes", "3", "--node-rank", rank, "--rendezvous", "here:29400"),
            )
            assert "1 processes cannot be shared evenly among 3 machines" in done.stderr


class TestLauncher:
    def test_it_is_offered(self) -> None:
        (launcher,) = smolrecipe_launchers()
        assert isinstance(launcher, Launcher) and launcher.name == "torchrun"

    def test_problems(self) -> None:
        assert [*problems(TorchrunOptions())] == []
        (lacking,) = problems(TorchrunOptions(nodes=2))
        assert "give 'rendezvous'" in lacking
        (odd,) = problems(TorchrunOptions(nodes=2, rendezvous="node1"))
        assert "is no host:port" in odd

    def test_a_machine_has_its_part(self) -> None:
        options = TorchrunOptions(nodes=2, rendezvous="node1:29400")
        words = command(options, Devices(processes=16), ["smolrecipe", "_stage", "task.json"])
        assert words[1:3] == ["-m", "smolrecipe_slurm.agent"] and words[4:] == ["smolrecipe", "_stage", "task.json"]
        assert json.loads(words[3])["processes"] == 16
        with pytest.raises(StageError, match="cannot be shared evenly"):
            command(options, Devices(processes=3), ["smolrecipe"])


def test_the_group_is_shared_with_other_plugins() -> None:
    cli, theirs = click.Group(), click.Group("launch")
    theirs.add_command(click.Command("kubernetes"))
    cli.add_command(theirs)
    smolrecipe_commands(cli)
    assert sorted(cli.commands["launch"].commands) == ["kubernetes", "node", "slurm"]  # type: ignore[attr-defined]
