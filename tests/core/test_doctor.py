"""What ``smolrecipe doctor`` finds: on this machine, and on machines that lack one thing each."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe import Artifact, Devices, Launcher, NoOptions, Place, StageKind, Use
from smolrecipe.cli import doctor_engines, doctor_machine
from smolrecipe.cli.doctor_findings import Finding, print_findings
from smolrecipe.cli.doctor_recipe import look_at_stages
from smolrecipe.cli.doctor_store import look_at_store
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.provenance import machine
from smolrecipe.recipe.recipe import Recipe
from smolrecipe.running.store import RunStore

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]
HEAD = "name: toy\nlauncher: {use: direct}\n"
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.2, "capability": [9, 0]}


def by_subject(findings: Any) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A torch that answers at once: importing the real one takes seconds."""
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "torch.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "quick"), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("toy_plugin", "without_torch")
class TestTheCommand:
    def test_a_machine_that_can_run_it(self, smolrecipe: Run, tmp_path: Path) -> None:
        told = json.loads(smolrecipe("doctor", "--json", check=0).stdout)
        assert told["can_run"] and "libcuda.so.1" in told["torch"]["error"]
        parts = {
            part: {found["subject"] for found in listed} for part, listed in told.items() if isinstance(listed, list)
        }
        assert parts["machine"] >= {"Python", "processor", "memory", "clock"}
        assert parts["run store"] == {"room", "file system", "locks", "renaming", "clock"}
        assert parts["extras"] >= {"titan", "trl", "hub", "flash"} and not parts["extras"] & {"dev", "all"}
        assert list(tmp_path.glob("**/*doctor*")) == [], "what was tried is gone"

    def test_each_stage_of_a_recipe(self, smolrecipe: Run, write_recipe: Write) -> None:
        recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 1}\n  two: {use: count, to: 2, from: one}\n")
        shown = smolrecipe("doctor", recipe, check=0).stdout
        assert "  ok     one  can run, 1 CPU process" in shown and "recipe 'toy' can run here" in shown
        smolrecipe("run", recipe, "--set", "stages.two=null", check=0)
        shown = smolrecipe("doctor", recipe, check=0).stdout
        assert "  ok     one  published" in shown and "  ok     two  can run" in shown

    def test_what_a_stage_lacks(self, smolrecipe: Run, write_recipe: Write) -> None:
        data = "data: {w: {use: words, file: nowhere.txt}}"
        recipe = write_recipe(HEAD + f"stages:\n  one: {{use: count, to: 1}}\n  two: {{use: count, to: 2, {data}}}\n")
        told = json.loads(smolrecipe("doctor", recipe, "--json", check=1).stdout)
        one, two = told["recipe toy"]
        assert not told["can_run"] and one["status"] == "ok" and two["status"] == "lacks"
        assert "nowhere.txt" in two["told"]
        assert "1 lacking: recipe 'toy' cannot run here" in smolrecipe("doctor", recipe, check=1).stdout
        assert "unknown key" in smolrecipe("doctor", recipe, "--set", "stages.one.too=1", check=2).stderr

    def test_a_store_that_cannot_be(self, smolrecipe: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        shown = smolrecipe("doctor", "--runs", tmp_path / "file" / "runs", check=1).stdout
        assert "lacks  room" in shown and "is no folder" in shown

    def test_a_token_is_told_and_never_shown(
        self, smolrecipe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

        def hub() -> tuple[dict[str, Any], str]:
            done = smolrecipe("doctor", "--json", check=0)
            listed = json.loads(done.stdout)["Hugging Face Hub"]
            return {found["subject"]: found for found in listed}, done.stdout + done.stderr

        found, _ = hub()
        assert found["token"]["facts"] == {"present": False} and "hf auth login" in found["token"]["remedy"]
        assert found["network"]["facts"] == {"offline": []}
        monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        found, printed = hub()
        assert found["token"]["told"] == "there is one in HF_TOKEN" and "secretsecret" not in printed
        assert found["network"]["facts"] == {"offline": ["HF_HUB_OFFLINE"]}
        monkeypatch.delenv("HF_TOKEN")
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "token").write_text("hf_secretsecret")
        found, printed = hub()
        assert found["token"]["facts"] == {"present": True} and "secretsecret" not in printed


def test_it_imports_no_engine_and_no_command_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys, contextlib, io; from smolrecipe.cli import main\n"
        "parts = {'smolrecipe.cli.doctor_engines', 'packaging.requirements'} & set(sys.modules)\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['doctor'])\n"
        "print(parts, {'torch', 'transformers'} & set(sys.modules), 'smolrecipe.cli.doctor_engines' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set() set() True", result.stdout + result.stderr


def test_a_store_without_locks_or_renaming_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {found.status for found in look_at_store(tmp_path)} == {"ok"}

    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    locks = by_subject(look_at_store(tmp_path))["locks"]
    assert locks.status == "lacks" and "No locks available" in locks.told and "--runs" in locks.remedy
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)
    assert "keeps nobody out" in by_subject(look_at_store(tmp_path))["locks"].told
    monkeypatch.undo()
    real = Path.rename

    def no_rename(path: Path, target: Path) -> Path:
        if path.name == "stage.partial":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", no_rename)
    assert by_subject(look_at_store(tmp_path))["renaming"].status == "lacks"
    assert list(tmp_path.iterdir()) == []


def test_a_network_file_system_and_its_clock_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    share = tmp_path / "a share"
    (share / "runs").mkdir(parents=True)
    escaped = str(share).replace(" ", r"\040")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:9 / {escaped} rw,relatime shared:3 - nfs4 host:/x rw\nbroken\n"
    )
    monkeypatch.setattr(machine, "MOUNTS_FILE", mounts)
    assert machine.file_system(tmp_path) == "ext4" and machine.file_system(share / "runs") == "nfs4"
    found = by_subject(look_at_store(share / "runs" / "not there yet"))
    assert found["file system"].status == "note" and "over a network" in found["file system"].told
    monkeypatch.setattr(machine, "MOUNTS_FILE", tmp_path / "nothing")
    assert machine.file_system(share) == ""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert "3600 s apart" in by_subject(look_at_store(share))["clock"].told


def test_what_a_container_may_use_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n")
    monkeypatch.setattr(machine, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "MEMORY_LIMIT_FILES", (tmp_path / "max", tmp_path / "old"))
    assert machine.free_memory() == (32.0, None)
    (tmp_path / "old").write_text("9223372036854771712\n")
    (tmp_path / "max").write_text("max\n")
    assert machine.free_memory() == (32.0, None), "no limit is written in two ways"
    (tmp_path / "max").write_text(f"{2**31}\n")
    memory = by_subject(doctor_machine.look_at_machine())["memory"]
    assert memory.told == "64.0 GiB, 32.0 free, of which this container may use 2.0" and memory.status == "note"


def test_gpus_are_told_as_torch_sees_them_or_why_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(told: dict[str, Any], present: list[str]) -> list[Finding]:
        monkeypatch.setattr(doctor_engines, "hardware", lambda: {"gpus": present, "driver": "570.1"})
        return list(doctor_engines.look_at_gpus(told))

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one, two = look({"gpus": [H100, H100]}, ["H100", "H100"])
    assert (
        one.told == "NVIDIA H100 80GB HBM3, 79.2 GiB, compute capability 9.0, driver 570.1" and two.subject == "GPU 1"
    )
    assert "none" in look({"gpus": []}, [])[0].told
    assert "built for CPUs" in look({"gpus": [], "built_for": ""}, ["H100"])[0].told
    assert "update the driver" in look({"gpus": [], "built_for": "13.0"}, ["H100"])[0].remedy
    assert "not installed" in look({"error": "torch is not installed"}, ["H100"])[0].told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in look({"gpus": [], "built_for": "13.0"}, ["H100"])[0].told


def test_attention_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    versions: dict[str, str | None] = {"flash-attn": "2.8.1", "triton": "3.8.0"}
    monkeypatch.setattr(doctor_engines, "_version", lambda requirement: versions.get(requirement.name))

    def look(*gpus: dict[str, Any]) -> dict[str, Finding]:
        return by_subject(doctor_engines.look_at_kernels({"gpus": list(gpus), "attention": ["FA3"]}))

    assert look(H100)["flash-attn"].status == "ok" and "torch can call it" in look(H100)["FlashAttention 3"].told
    assert "older" in look({**H100, "capability": [7, 5]})["flash-attn"].told and "no GPU" in look()["flash-attn"].told
    versions["flash-attn"] = None
    assert "smolrecipe[flash]" in look(H100)["flash-attn"].remedy
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    versions["triton"] = None
    assert "C++ compiler" in look()["torch.compile"].told and "triton" not in look()["torch.compile"].told
    assert "triton" in look(H100)["torch.compile"].told


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [
        ("import os; os.abort()", "torch cannot be used here (exit code -6)"),
        ("raise ImportError('libcuda.so.1 is missing')", "ImportError: libcuda.so.1 is missing"),
        ("print('a banner')", "torch cannot be used here"),
        ("import time; time.sleep(60)", "did not answer within 1 s"),
        ("print('noise'); print('PROBED{\"gpus\": []}')", ""),
    ],
)
def test_a_torch_that_breaks_takes_only_its_child(monkeypatch: pytest.MonkeyPatch, probe: str, sentence: str) -> None:
    monkeypatch.setattr(doctor_engines, "PROBE", probe)
    monkeypatch.setattr(doctor_engines, "_SECONDS", 1 if "sleep" in probe else 30)
    told = doctor_engines.ask_torch()
    assert sentence in told["error"] if sentence else told == {"gpus": []}


def test_extras_are_held_against_what_is_installed(plant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = [
        "needed", "needed>=2; extra == 'newer'", "not-there>=1; extra == 'more'", "attrs; extra == 'there'",
        "attrs; extra == 'dev'",
    ]  # fmt: skip
    plant("needing", {"__init__.py": ""}, requires=conditions, extras=["newer", "more", "there", "dev"])
    plant("needed", {"__init__.py": ""})
    monkeypatch.setattr(doctor_engines, "CORE", "needing")
    found = by_subject(doctor_engines.look_at_extras())
    assert found.keys() == {"newer", "more", "there"} and found["there"].told.startswith("attrs 2")
    assert (found["more"].told, found["more"].remedy) == ("without not-there", "pip install 'needing[more]'")
    assert found["newer"].told == "needed 1.0 is not >=2" and found["newer"].status == "note"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_findings_fit_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "x" * 30
    print_findings("title", [Finding(subject=long, status="lacks", told="word " * 60, remedy="do it")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= max(columns, 60) and any(long in line for line in lines)
    assert lines[-2].endswith("do it")


def test_a_stage_sized_for_larger_gpus_is_told(tmp_path: Path) -> None:
    place, use = (
        Place("recipe.yaml"),
        Use(StageKind(name="big", summary="", run=lambda *_: Artifact(), produces=dict), NoOptions()),
    )
    stages = []
    for memory in (80.0, 141.0):
        devices = Devices(processes=2, device="cuda", memory_gib=memory)
        stages.append(
            PlannedStage(
                name=f"for-{memory:g}",
                use=use,
                references=(),
                devices=devices,
                produces={},
                digest="0" * 64,
                place=place,
            )
        )
    launcher = Use(Launcher(name="any", summary="", capacity=lambda options: None, command=lambda *_: []), NoOptions())
    recipe = Recipe(name="toy", file=tmp_path / "x.yaml", launcher=launcher, stages={}, places={})
    plan = Plan(recipe=recipe, stages=tuple(stages))
    fits, small = look_at_stages(plan, RunStore(tmp_path), {"gpus": [H100]})
    assert fits.told == "can run, 2 GPU processes" and fits.status == "ok"
    assert small.status == "note" and "sized for 141 GiB a GPU where there are 79.2" in small.told
