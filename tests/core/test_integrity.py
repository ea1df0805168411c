"""Damage to what was published: found by ``verify``, and by the stage that would use it, whatever it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from damages import judge, planned_from, random_damages
from safetensors.numpy import save_file

from smolrecipe.errors import StageError
from smolrecipe.running.inputs import Inputs
from smolrecipe.running.publishing import publish
from smolrecipe.running.store import RunStore

TOY = Path(__file__).parents[1] / "toy_plugin"
Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """\
name: toy
launcher: {use: direct}
stages:
  one: {use: count, to: 3}
  two: {use: count, to: 2, from: one}
  three: {use: count, to: 1, from: two}
"""


def quiet(text: str) -> None:
    """Nobody listens."""


def artifact(run: Path, stage: str) -> Path:
    (folder,) = run.glob(f"{stage}-*/")
    return folder


def publish_model(run: Path, stage: str, parents: dict[str, str]) -> None:
    """Publish, as a stage would be, what models consist of: safetensors, JSON, tokens, text, an empty file."""
    plan = planned_from(run)
    digest = f"{len(plan.stages):064x}"
    planned = next(iter(plan.stages)).__class__(
        name=stage, use=None, references=(), devices=plan.stages[0].devices, produces={}, digest=digest,
        place=plan.stages[0].place,
    )  # fmt: skip
    folder = RunStore(run).partial(planned)
    (folder / "model").mkdir(parents=True)
    (folder / "tokens" / "web" / "train").mkdir(parents=True)
    random = numpy.random.default_rng(len(parents))
    tensors = {f"layer.{index}.weight": random.normal(size=(7, 5)).astype("float32") for index in range(4)}
    for shard in (1, 2):
        save_file(tensors, folder / "model" / f"model-0000{shard}-of-00002.safetensors")
    (folder / "model" / "config.json").write_text(json.dumps({"hidden_size": 5}))
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}\n")
    random.integers(0, 255, size=4000).astype("uint16").tofile(folder / "tokens" / "web" / "train" / "00000.ds")
    (folder / "tokens" / "web" / "train" / "00000.ds.index").write_bytes(b"")
    (folder / "log.txt").write_text("one line\n")
    record = {
        "recipe": "toy", "stage": stage, "kind": "made", "digest": digest, "parents": parents,
        "options": {"use": "made"}, "plugins": {}, "started": "", "seconds": 0.0, "measures": [], "summary": {},
    }  # fmt: skip
    publish(RunStore(run), planned, record)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run store of a finished run, for all tests of this file to copy."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.yaml").write_text(RECIPE)
    environment = {**os.environ, "PYTHONPATH": str(TOY), "SMOLRECIPE_PLUGINS": "toy"}
    command = [sys.executable, "-m", "smolrecipe", "run", "recipe.yaml"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=True)
    return folder / "runs"


@pytest.fixture
def ran(toy_plugin: None, whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs" / "toy"


def test_200_random_damages_are_all_found_and_named(ran: Path) -> None:
    """Bytes changed, files cut short, removed and added, over all files of five artifacts; nobody else is blamed."""
    publish_model(ran, "made", {})
    publish_model(ran, "made-again", {"made": artifact(ran, "made").name})
    shutil.rmtree(artifact(ran, "made-again"))
    publish_model(ran, "second", {})
    plan = planned_from(ran)
    found: Counter[str] = Counter()
    for damage in random_damages(ran, seed=5, count=200):
        verdict = judge(ran, plan, damage, all_artifacts=True)
        assert verdict.by_verify and verdict.by_consumer and verdict.named, f"{damage}: {verdict}"
        assert len(verdict.blamed) == 1, f"{damage}: {verdict}"
        found[damage.kind] += 1
    assert found == {"flip": 50, "truncate": 50, "remove": 50, "add": 50}


def test_every_byte_of_a_manifest_counts(ran: Path) -> None:
    """Spaces and line ends among them; each is changed in two ways."""
    plan = planned_from(ran)
    manifest = artifact(ran, "one") / "manifest.json"
    content = manifest.read_bytes()
    inputs = Inputs(store=RunStore(ran))
    for place in range(len(content)):
        for change in (1, 0x20):
            manifest.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            with pytest.raises(StageError):
                inputs.require(plan.by_name["uses-one"], plan, quiet)
    manifest.write_bytes(content)
    inputs.require(plan.by_name["uses-one"], plan, quiet)


def test_a_stage_does_not_start_on_damaged_input_and_says_what_to_do(
    ran: Path, write_recipe: Write, smolrecipe: Run
) -> None:
    """The sentence's advice is followed then: exactly the stage that it names runs again, and the one that waited."""
    folder = artifact(ran, "one")
    number = folder / "number.json"
    number.write_text("4")
    recipe = write_recipe(RECIPE)
    changed = ("--set", "stages.two.to=5")
    refused = smolrecipe("run", recipe, *changed, check=1)
    assert (
        "error: stage 'two' was not started: what it uses is not as it was published: of stage 'one', number.json was "
        f"changed (runs/toy/{folder.name}). Restore that from a copy, or delete runs/toy/{folder.name} and run the "
        "same command again, which repeats stage 'one' and no other: what was made from them before stays published"
    ) in refused.stderr
    assert "to go on: smolrecipe run" in refused.stderr
    assert not [*ran.glob("two-*/state.json")] and len([*ran.glob("two-*/")]) == 1, "the stage has started"
    shutil.rmtree(folder)
    again = json.loads(smolrecipe("run", recipe, *changed, "--json", check=0).stdout)
    assert {stage["stage"]: stage["ran"] for stage in again["stages"]} == {"one": True, "two": True, "three": True}
    before = json.loads(smolrecipe("run", recipe, "--json", check=0).stdout)
    assert not any(stage["ran"] for stage in before["stages"]), "what was made from it before has stayed published"


def test_what_nothing_uses_is_not_read_and_stays_published(ran: Path, write_recipe: Write, smolrecipe: Run) -> None:
    (artifact(ran, "one") / "number.json").write_text("4")
    outcome = json.loads(smolrecipe("run", write_recipe(RECIPE), "--json", check=0).stdout)
    assert not any(stage["ran"] for stage in outcome["stages"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("stage.json", b"{", "stage.json is no JSON (line 1, column 2"),
        ("stage.json", None, "stage.json cannot be read (No such file or directory)"),
    ],
)
def test_a_damaged_record_of_a_published_stage_is_a_sentence(
    ran: Path, write_recipe: Write, smolrecipe: Run, name: str, content: bytes | None, said: str
) -> None:
    """``run``, ``ls`` and ``verify`` meet it; the fixture ``smolrecipe`` refuses tracebacks."""
    folder = artifact(ran, "three")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    refused = smolrecipe("run", write_recipe(RECIPE), check=1).stderr
    assert "stage 'three' is published, but runs/toy/three-" in refused and said in refused
    assert f"delete runs/toy/{folder.name} and run the same command again, which repeats stage 'three'" in refused
    listed = smolrecipe("ls", "--json", check=0)
    status = {row["folder"]: row["status"] for row in json.loads(listed.stdout)}
    assert status.pop(folder.name) == "damaged" and set(status.values()) == {"published"} and said in listed.stderr
    notes = [row["note"] for row in json.loads(smolrecipe("verify", folder, "--json", check=1).stdout)]
    assert any(said in note for note in notes)
    assert said in smolrecipe("diff", ran, write_recipe(RECIPE), check=2).stderr


def test_half_done_stages_with_damaged_metrics_are_run_all_the_same(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(RECIPE)
    folder = smolrecipe("plan", recipe, "--json", check=0)
    name = json.loads(folder.stdout)["stages"][0]["folder"]
    partial = tmp_path / f"{name}.partial"
    partial.mkdir(parents=True)
    lines = [
        b'{"step": "x", "steps": 3}',
        b'{"step": 1',
        b"[" * 50_000,
        b"\xff",
        b"[1]",
        b'{"checkpoint": {}}',
        b"9" * 9000,
    ]
    (partial / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    smolrecipe("run", recipe, check=0)


def test_an_artifact_without_its_manifest_is_neither_forgotten_nor_made_again(
    ran: Path, write_recipe: Write, smolrecipe: Run
) -> None:
    folder = artifact(ran, "one")
    (folder / "manifest.json").unlink()
    rows = json.loads(smolrecipe("verify", ran, "--json", check=1).stdout)
    assert [row["target"] for row in rows if not row["holds"]] == ["one"]
    refused = smolrecipe("run", write_recipe(RECIPE), "--set", "stages.two.to=5", check=1).stderr
    assert "of stage 'one', manifest.json cannot be read (No such file or directory)" in refused
    (folder / "stage.json").unlink()
    rows = json.loads(smolrecipe("verify", ran, "--json", check=1).stdout)
    assert "one" in [row["target"] for row in rows if not row["holds"]], "known by the folder's name alone"


def test_a_renamed_artifact_is_not_taken_for_another(ran: Path) -> None:
    plan = planned_from(ran)
    one, two = artifact(ran, "one"), artifact(ran, "two")
    shutil.rmtree(one)
    two.rename(one)
    with pytest.raises(StageError, match=r"stage\.json is that of another artifact: the folder was renamed"):
        Inputs(store=RunStore(ran)).require(plan.by_name["uses-one"], plan, quiet)


def test_sizes_alone_are_checked_where_that_is_asked_for(ran: Path, write_recipe: Write, smolrecipe: Run) -> None:
    number = artifact(ran, "one") / "number.json"
    number.write_text("4")
    sizes = ("--set", "stages.two.to=5", "--inputs", "sizes")
    number.write_text("44")
    refused = smolrecipe("run", write_recipe(RECIPE), *sizes, check=1).stderr
    assert "of stage 'one', number.json was changed (it has 2 bytes, not 1)" in refused
    number.write_text("4")
    smolrecipe("run", write_recipe(RECIPE), *sizes, check=0)


class TestWithinOneRun:
    def test_an_artifact_is_read_once_and_again_only_where_it_was_written_to(
        self, ran: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned_from(ran)
        read: list[str] = []
        opened = os.open
        monkeypatch.setattr(
            os, "open", lambda path, *more, **named: read.append(str(path)) or opened(path, *more, **named)
        )
        inputs = Inputs(store=RunStore(ran))
        files = {path for path in artifact(ran, "one").rglob("*") if path.is_file()}
        inputs.require(plan.by_name["uses-one"], plan, quiet)
        assert {*map(Path, read)} == files
        read.clear()
        inputs.require(plan.by_name["uses-one"], plan, quiet)
        assert read == []
        number = artifact(ran, "one") / "number.json"
        status = number.stat()
        number.write_text("4")
        os.utime(number, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size, and dated back
        with pytest.raises(StageError, match=r"number\.json was changed"):
            inputs.require(plan.by_name["uses-one"], plan, quiet)
        assert {Path(path).name for path in read} == {"number.json", "manifest.json"}
        number.write_text("3")
        inputs.require(plan.by_name["uses-one"], plan, quiet)

    def test_what_it_has_published_itself_is_not_read_again_and_damage_to_it_is_found(
        self, ran: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned_from(ran)
        inputs = Inputs(store=RunStore(ran))
        inputs.trust(plan.by_name["one"])
        monkeypatch.setattr("smolrecipe.running.inputs.damages", lambda *more, **named: pytest.fail("it was read"))
        inputs.require(plan.by_name["uses-one"], plan, quiet)
        monkeypatch.undo()
        (artifact(ran, "one") / "added").touch()
        with pytest.raises(StageError, match="added was added"):
            inputs.require(plan.by_name["uses-one"], plan, quiet)

    def test_every_damaged_parent_is_told_of_at_once(self, ran: Path) -> None:
        plan = planned_from(ran)
        both = plan.by_name["uses-one"].__class__(
            **{
                **{name: getattr(plan.by_name["uses-one"], name) for name in ("use", "devices", "produces", "place")},
                "name": "both",
                "digest": "1" * 64,
                "references": (*plan.by_name["uses-one"].references, *plan.by_name["uses-two"].references),
            }
        )
        for stage in ("one", "two"):
            (artifact(ran, stage) / "number.json").unlink()
        with pytest.raises(StageError, match=r"repeats stages 'one' and 'two' and no other"):
            Inputs(store=RunStore(ran)).require(both, plan, quiet)


def test_a_thousand_published_stages_are_passed_within_a_second(
    toy_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of which all is published reads their records and nothing else, however much they hold."""
    from smolrecipe.running.runner import Runner

    monkeypatch.setattr("smolrecipe.running.manifest.hashlib.file_digest", lambda *more: pytest.fail("a file was read"))
    run = tmp_path / "runs" / "toy"
    run.mkdir(parents=True)
    stages: list[Any] = []
    for number in range(1000):
        digest = f"{number:064x}"[::-1]
        folder = run / f"stage{number}-{digest[:12]}"
        folder.mkdir()
        parents = {f"stage{number - 1}": f"{number - 1:064x}"[::-1]} if number else {}
        record = {
            "recipe": "toy", "stage": f"stage{number}", "kind": "count", "digest": digest, "parents": parents,
            "options": {"use": "count"}, "plugins": {"toy": {"source": "x" * 64}}, "started": "", "seconds": 1.0,
            "measures": [{"name": "n", "after": 1, "before": 0, "better": "higher", "unit": "", "samples": None}] * 5,
            "summary": {str(key): key for key in range(100)},
        }  # fmt: skip
        (folder / "stage.json").write_text(json.dumps(record))
        (folder / "manifest.json").write_text("{}")
    plan = planned_from(run)
    stages = [stage for stage in plan.stages if not stage.name.startswith("uses-")]
    skipped: list[str] = []

    class View:
        def skipped(self, stage: Any) -> None:
            skipped.append(stage.name)

    catalog: Any = None
    view: Any = View()
    runner = Runner(plan=plan, store=RunStore(run), catalog=catalog, view=view)
    begin = time.process_time()
    outcomes = [runner.complete(stage) for stage in stages]
    assert time.process_time() - begin < 1
    assert len(skipped) == len(outcomes) == 1000
