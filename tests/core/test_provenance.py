"""What a run leaves to do it again: in each artifact's record, and once for all of them in the run store."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.provenance import machine, packages
from smolrecipe.provenance.repository import git_state, without_credentials

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]
RECIPE = (
    "name: toy\nlauncher: {use: direct}\nstages:\n"
    "  one: {use: count, to: 2, label: LABEL, data: {w: {use: words, words: [a]}}}\n"
    "  two: {use: count, to: 1, from: one}\n"
)


def records(runs: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in runs.glob("*/stage.json")]
    return {record["stage"]: record for record in found}


def test_a_record_stands_on_its_own_and_names_what_the_run_has_in_common(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(RECIPE)
    smolrecipe("run", recipe, check=0)
    smolrecipe("run", recipe, "--set", "stages.two.to=4", check=0)
    runs = tmp_path / "runs" / "toy"
    record = records(runs)["one"]
    assert record["packages"]["smolrecipe-toy"] == "1.0" and "smolrecipe" in record["packages"]
    assert len(record["smolrecipe"]["source"]) == 64 and record["git"] is None and record["seeds"] == {}
    assert record["host"]["python"].startswith("3.") and record["host"]["cores"] >= 1
    assert record["attempts"] == [{"started": record["started"], "provenance": record["provenance"]}]
    made_with = json.loads((runs / record["provenance"]).read_text())
    assert made_with["stages"]["one"]["digest"] == record["digest"]
    assert made_with["plugins"]["toy"]["source"] == record["plugins"]["toy"]["source"]
    assert made_with["packages"] == record["packages"]
    assert len(list((runs / "provenance").iterdir())) == 2, "a run with the same in it adds no file"
    smolrecipe("run", recipe, check=0)
    assert len(list((runs / "provenance").iterdir())) == 2


def test_an_interrupted_stage_names_all_its_attempts(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(RECIPE.replace("LABEL", "x, behave: crash"))
    smolrecipe("run", recipe, check=1)
    smolrecipe("run", recipe, check=1)
    (partial,) = (tmp_path / "runs" / "toy").glob("one-*.partial")
    attempts = json.loads((partial / "attempts.json").read_text())
    assert len(attempts) == 2 and {"started", "provenance"} == set(attempts[0])


def test_no_secret_of_the_environment_is_written_down(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the recipe itself has it in an option."""
    secret = "hf_abcdefghijklmnop"
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    recipe = write_recipe(RECIPE.replace("LABEL", f"'with {secret} in it'"))
    smolrecipe("run", recipe, check=0)
    smolrecipe("lock", recipe, "-o", "lock.json", check=0)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != recipe]
    assert any(path.name == "lock.json" for path in written)
    for path in written:
        assert secret.encode() not in path.read_bytes(), path
        assert b"0123456789abcdef" not in path.read_bytes(), path
    assert "***HF_TOKEN***" in (tmp_path / "lock.json").read_text()
    smolrecipe("run", recipe, "--locked", "--lock", "lock.json", check=0)


def test_the_state_of_the_repository_is_told_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "sub" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text("a")
    assert git_state(recipe) is None
    for name, value in (("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")):
        monkeypatch.setenv(name, value)

    def git(*arguments: str) -> str:
        settings = ("user.name=a", "user.email=a@b.c", "core.fsmonitor=false")
        command = ["git", "-C", str(tmp_path), *(part for each in settings for part in ("-c", each)), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert git_state(recipe) is None, "a repository without a commit"
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    git("remote", "add", "origin", "https://user:ghp_secret@example.org/a/b.git?token=1")
    marker = tmp_path / "ran"
    git("config", "core.fsmonitor", f"touch {marker} #")
    clean = {"commit": git("rev-parse", "HEAD"), "dirty": False, "remote": "https://example.org/a/b.git"}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "artifact").write_text("untracked")
    assert git_state(recipe) == clean
    lock = recipe.with_name("recipe.lock.json")
    lock.write_text("{}")
    git("add", "--force", str(lock))
    assert git_state(recipe) == clean, "the lock file itself makes no difference"
    recipe.write_text("b")
    assert git_state(recipe) == {**clean, "dirty": True}
    assert not marker.exists(), "no program that the repository names is run"
    monkeypatch.setenv("PATH", "")
    assert git_state(recipe) is None, "git is not installed"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("ssh://git:pw@host:22/a", "ssh://host:22/a"),
        ("https://token@host/a#b", "https://host/a"),
        ("http://[", ""),
        ("", ""),
    ],
)
def test_an_address_holds_no_credentials(url: str, told: str) -> None:
    assert without_credentials(url) == told


def test_gpus_are_told_by_the_drivers_tool_or_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "GPU_FOLDER", tmp_path / "gpus")
    monkeypatch.setattr(machine, "DRIVER_FILE", tmp_path / "version")
    assert machine.hardware()["gpus"] == []
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t NVIDIA H100 80GB HBM3\nIRQ: 5\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.12.1  Sun\n")
    found = machine.hardware()
    assert (found["gpus"], found["driver"]) == (["NVIDIA H100 80GB HBM3"], "570.12.1")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 571.0'\n")
    tool.chmod(0o755)
    found = machine.hardware()
    assert (found["gpus"], found["driver"]) == (["NVIDIA H100 80GB HBM3, 81559 MiB"], "571.0")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine.hardware()["gpus"] == ["NVIDIA H100 80GB HBM3"], "a driver that does not answer"


def test_packages_are_those_that_are_required_and_no_other(plant: Callable[..., Path]) -> None:
    plant(
        "needing", {"__init__.py": ""}, requires=["needed", "extra-one; extra == 'more'", "not-there"], extras=["more"]
    )
    plant("needed", {"__init__.py": ""}, requires=["needing"])  # a circle
    plant("extra_one", {"__init__.py": ""}, requires=["broken requirement of old !!"])
    plant("unrelated", {"__init__.py": ""})
    assert packages.versions(["needing"]) == {"needed": "1.0", "needing": "1.0"}
    with_extra = {"extra-one": "1.0", "needed": "1.0", "needing": "1.0"}
    assert packages.versions(["needing[more]"]) == with_extra
