"""``smolrecipe verify``: what it finds to check, what it finds wrong, and that it says where."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe import Proof

pytestmark = pytest.mark.usefixtures("toy_plugin")
Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """\
name: toy
launcher: {use: direct}
model: {layers: {use: layers}}
stages:
  two: {use: count, to: 2, from: one}
  one: {use: count, to: 3, label: LABEL}
  model: {use: build}
"""


@pytest.fixture
def ran(write_recipe: Write, smolrecipe: Run, tmp_path: Path) -> Callable[..., Path]:
    """Run the recipe; returns the run's folder."""

    def run(label: str = "fine") -> Path:
        smolrecipe("run", write_recipe(RECIPE.replace("LABEL", label)), check=0)
        return tmp_path / "runs" / "toy"

    return run


def artifact(run: Path, stage: str) -> Path:
    (folder,) = run.glob(f"{stage}-*/")
    return folder


def test_a_good_run_is_proven_claim_by_claim_parents_first(ran: Callable[..., Path], smolrecipe: Run) -> None:
    result = smolrecipe("verify", ran(), "--json", check=0)
    found = [(row["target"], row["claim"], row["holds"]) for row in json.loads(result.stdout)]
    files = "files are those that were published"
    assert found == [
        ("model", files, True),
        ("model", "config.json is what the model components write", True),
        ("model", "weights are not there yet", True),
        ("one", files, True),
        ("one", "the number is what counting gives", True),
        ("two", files, True),
        ("two", "the number is what counting gives", True),
    ]
    assert "two: 2 claims checked" in result.stderr


def test_the_table_and_its_last_line(ran: Callable[..., Path], smolrecipe: Run) -> None:
    run = ran()
    good = smolrecipe("verify", artifact(run, "one"), check=0).stdout.splitlines()
    assert good[0] == "one" and good[1].split() == ["claim", "measured", "bound"]
    assert [line.split()[0] for line in good[2:4]] == ["holds", "holds"]
    assert good[-1] == "2 of 2 claims hold"
    (artifact(run, "one") / "number.json").write_text("4")
    bad = smolrecipe("verify", artifact(run, "one"), check=1)
    assert "one: the number is what counting gives: does not hold. it is 4" in bad.stdout
    assert "2 of 2 claims do not hold" in bad.stderr


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda folder: (folder / "number.json").write_text("9"), "number.json was changed"),
        (lambda folder: (folder / "log.txt").unlink(), "log.txt is missing"),
        (lambda folder: (folder / "extra.bin").touch(), "extra.bin was added"),
        (lambda folder: (folder / "metrics.jsonl").write_bytes(b""), "metrics.jsonl was changed (it has 0 bytes, not "),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest.json holds no mapping"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is no JSON (line 1, column 2: "),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "manifest.json cannot be read (No such file or directory)",
        ),
    ],
)
def test_damage_to_any_file_is_found_and_named(
    damage: Callable[[Path], object], note: str, ran: Callable[..., Path], smolrecipe: Run
) -> None:
    folder = artifact(ran(), "one")
    damage(folder)
    (files,) = [
        row for row in json.loads(smolrecipe("verify", folder, "--json", check=1).stdout) if "files" in row["claim"]
    ]
    assert not files["holds"] and note in files["note"]


def test_records_that_do_not_fit_are_claims_that_fail(ran: Callable[..., Path], smolrecipe: Run) -> None:
    run = ran()
    record = artifact(run, "one") / "stage.json"
    content = json.loads(record.read_text())
    content["options"]["too"] = content["options"].pop("to")
    record.write_text(json.dumps(content))
    notes = [row["note"] for row in json.loads(smolrecipe("verify", run, "--json", check=1).stdout)]
    assert any("unknown key 'too'" in note and "did you mean 'to'?" in note for note in notes)
    record.write_text("{}")
    notes = [row["note"] for row in json.loads(smolrecipe("verify", run, "--json", check=1).stdout)]
    assert f"{record} is not the record of a stage: it has no 'recipe'" in notes


def test_an_artifact_whose_parent_is_gone_says_so(ran: Callable[..., Path], smolrecipe: Run) -> None:
    run = ran()
    shutil.rmtree(artifact(run, "one"))
    rows = json.loads(smolrecipe("verify", artifact(run, "two"), "--json", check=1).stdout)
    assert [row["note"] for row in rows if not row["holds"]] == [
        "without one only the artifact's own files were checked"
    ]


def test_a_check_that_crashes_or_dies_is_a_claim_that_fails(ran: Callable[..., Path], smolrecipe: Run) -> None:
    crashed = smolrecipe("verify", ran("check crashes"), "--json", check=1)
    (row,) = [row for row in json.loads(crashed.stdout) if not row["holds"]]
    assert row["target"] == "one" and "ZeroDivisionError: a bug in the check" in row["note"]
    log = Path(crashed.stderr.strip().rpartition(" ")[2])
    assert "ZeroDivisionError" in log.read_text()
    shutil.rmtree(log.parent)


def test_a_process_that_is_killed_is_a_claim_that_fails(ran: Callable[..., Path], smolrecipe: Run) -> None:
    result = smolrecipe("verify", ran("check dies"), "--json", check=1)
    (row,) = [row for row in json.loads(result.stdout) if not row["holds"]]
    assert row["target"] == "one" and "signal 9 (out of memory?)" in row["note"]
    shutil.rmtree(Path(result.stderr.strip().rpartition(" ")[2]).parent)


def test_a_checkpoint_made_elsewhere(tmp_path: Path, smolrecipe: Run) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    config = folder / "config.json"
    config.write_text(json.dumps({"layers": 3, "kind": "wide", "more": 1}))
    rows = json.loads(smolrecipe("verify", folder, "--json", check=0).stdout)
    assert [row["target"] for row in rows] == ["elsewhere", "elsewhere"]
    for content, note in (
        ({"layers": 3, "kind": "deep"}, "kind is 'deep', not 'wide'"),
        ({"layers": 3, "kind": "round"}, "kind 'round' is none that layers have"),
        ({"model_type": "other"}, "no installed model component knows a config.json of model_type 'other'"),
        ([], f"{config} holds no mapping"),
    ):
        config.write_text(json.dumps(content))
        (row,) = [row for row in json.loads(smolrecipe("verify", folder, "--json", check=1).stdout) if not row["holds"]]
        assert row["note"] == note


def test_where_there_is_nothing_to_verify(tmp_path: Path, smolrecipe: Run) -> None:
    for path, word in ((tmp_path / "nowhere", "is no folder"), (tmp_path, "has neither manifest.json nor config.json")):
        result = smolrecipe("verify", path, check=2)
        assert word in result.stderr and "name a run (runs/<recipe>)" in result.stderr


def test_a_proof_of_a_number_fails_where_it_is_not_finite() -> None:
    assert Proof.within("small", 1e-6, 1e-5).holds
    assert not Proof.within("small", 2e-5, 1e-5).holds
    assert not Proof.within("small", float("nan"), 1e-5).holds
    assert not Proof.within("small", float("-inf"), 1e-5).holds


def test_nothing_compared_proves_nothing() -> None:
    assert Proof.same("equal", 0, 3, of="tensors").holds
    assert not Proof.same("equal", 1, 3, of="tensors").holds
    nothing = Proof.same("equal", 0, 0, of="tensors")
    assert not nothing.holds and nothing.note == "there were no tensors to compare"
