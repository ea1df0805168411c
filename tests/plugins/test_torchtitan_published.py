"""Models that a stage publishes on its way: which, that they are those of their steps, and that no kill loses one."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from titan_chaos import Happening, Seen, files_of, flip_bit
from titan_toys import PRETRAIN, PRIVATE, make_model, make_options

from smolrecipe import Devices, Place, StageError, StageRef, Use
from smolrecipe.planning.plan import Plan, PlannedStage, Reference
from smolrecipe.recipe.recipe import Recipe
from smolrecipe_torchtitan import PretrainOptions
from smolrecipe_torchtitan.checks import check_plan, check_pretrain, produces, published_steps
from smolrecipe_torchtitan.on_the_way import ModelsOnTheWay
from smolrecipe_torchtitan.proofs.stage import _published

if TYPE_CHECKING:
    from titan_trainings import Trainings

pytest_plugins = ["titan_trainings"]
"""Where the fixtures come from; one server for all modules."""

OPTIONS = {"steps": 8, "checkpoint_every": 2, "keep_checkpoints": 2, "publish_every": 2}
ALONE: dict[str, Any] = {"options": OPTIONS}
PAIR: dict[str, Any] = {"options": {**OPTIONS, "micro_batch": 2}, "layout": {"data_parallel": 2}}
MODEL = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def published(trainings: Trainings) -> Seen:
    """A stage that publishes three models on its way, and to which nothing happens."""
    (seen,) = trainings.train("published", **ALONE)
    assert seen.outcome == "done", seen.output
    return seen


def test_models_lie_where_recipes_find_them_and_nothing_else_is_left(trainings: Trainings, published: Seen) -> None:
    sealed = [
        f"checkpoints/step-{step}/{file}" for step in (6, 8) for file in ("checkpoint.json", "process-0.safetensors")
    ]
    models = [f"checkpoints/step-{step}/model/{file}" for step in (2, 4, 6) for file in MODEL]
    last = [f"model/{file}" for file in MODEL]
    assert sorted(files_of(trainings.folder / "published")) == sorted(
        [*sealed, *models, *last, "held_out.json", "row_sample.parquet"]
    )


@pytest.mark.parametrize("step", [2, 6])
def test_each_is_the_model_of_its_step(trainings: Trainings, published: Seen, step: int) -> None:
    """What a stage ends with that stops there, on the same trajectory."""
    (seen,) = trainings.train(f"until-{step}", options={"steps": step, "checkpoint_every": 2})
    assert seen.outcome == "done", seen.output
    there = files_of(trainings.folder / "published" / "checkpoints" / f"step-{step}" / "model")
    assert there == files_of(trainings.folder / f"until-{step}" / "model")


def test_killed_at_any_write_of_a_model_and_resumed_it_is_bitwise_the_same(
    trainings: Trainings, published: Seen
) -> None:
    mine = [(event, path) for event, path in published.events if path.startswith("models") or "/model" in path]
    moments = list({(event, re.sub(r"step-\d+", "step", path)): (event, path) for event, path in mine}.values())
    assert {event for event, _ in moments} >= {"open", "os.mkdir", "os.rename", "os.rmdir"}
    for number, (event, path) in enumerate(moments):
        name = f"on-the-way-{number}"
        (killed,) = trainings.train(name, Happening(what="SIGKILL", event=event, path=path), **ALONE)
        assert killed.code == -signal.SIGKILL, (event, path)
        (resumed,) = trainings.train(name, **ALONE)
        assert resumed.outcome == "done", (event, path, resumed.output)
        assert files_of(trainings.folder / name) == files_of(trainings.folder / "published"), (event, path)


@pytest.mark.parametrize("step", [3, 5, 8])
def test_stopped_and_gone_on_with_it_is_bitwise_the_same(trainings: Trainings, published: Seen, step: int) -> None:
    name = f"stopped-on-the-way-{step}"
    (stopped,) = trainings.train(name, Happening(what="SIGTERM", step=step), **ALONE)
    assert stopped.outcome == f"stopped after step {step}"
    (resumed,) = trainings.train(name, **ALONE)
    assert resumed.outcome == "done", resumed.output
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "published")


def test_a_finished_stage_run_again_publishes_the_same(trainings: Trainings, published: Seen) -> None:
    trainings.copy("published", "published-again")
    (again,) = trainings.train("published-again", **ALONE)
    assert again.outcome == "done" and again.steps == []
    assert files_of(trainings.folder / "published-again") == files_of(trainings.folder / "published")


def test_two_processes_publish_as_one(trainings: Trainings, published: Seen) -> None:
    death = Happening(what="SIGKILL", rank=1, step=5)
    assert trainings.train("published-by-two", death, **PAIR)[1].code == -signal.SIGKILL
    seen = trainings.train("published-by-two", **PAIR)
    assert [one.outcome for one in seen] == ["done", "done"], seen[0].output
    names = [name for name in files_of(trainings.folder / "published-by-two") if "process" not in name]
    assert names == [name for name in files_of(trainings.folder / "published") if "process" not in name]


def test_a_stage_starts_from_a_model_on_the_way(trainings: Trainings, published: Seen) -> None:
    start: dict[str, Any] = {"inputs": ["published"]}
    only_model = {"steps": 2, "from_": ["published", "step-2"]}
    (seen,) = trainings.train("from-model", **start, options=only_model)
    assert seen.outcome == "done", seen.output
    (refused,) = trainings.train("carrying", **start, options={**only_model, "carry": "everything"})
    assert "'published@step-2' is a model alone: use carry: weights, or from: published" in refused.outcome
    (whole,) = trainings.train("from-checkpoint", **start, options={**only_model, "from_": ["published", "step-6"]})
    assert whole.outcome == "done", "a model beside it does not make a checkpoint a damaged one"
    (last,) = trainings.train(
        "from-last", **start, options={**only_model, "from_": ["published"], "carry": "everything"}
    )
    assert last.outcome == "done", last.output


def test_a_stage_that_passes_no_such_step_says_so(trainings: Trainings) -> None:
    (seen,) = trainings.train("passing-none", options={"steps": 2, "checkpoint_every": 2, "publish_every": 4})
    assert "no step between 1 and 2, its last, is a multiple of publish_every (4)" in " ".join(seen.said)
    assert not (trainings.folder / "passing-none" / "models").exists()


def test_no_model_is_made_of_a_damaged_checkpoint(trainings: Trainings, published: Seen) -> None:
    trainings.copy("published", "damaged-on-the-way")
    folder = trainings.folder / "damaged-on-the-way"
    made: list[Path] = []
    models = ModelsOnTheWay(folder, [6], 4, lambda checkpoint, target: made.append(target))
    models.take_back()
    models.go_on(4)  # from where step 6 is made again
    flip_bit(folder / "checkpoints" / "step-6" / "process-0.safetensors")
    with pytest.raises(StageError, match="the checkpoint of step 2, whose model is to be published, is damaged"):
        models.saved(6)
    assert not made and not (folder / "checkpoints" / "step-6").exists()


def test_a_model_that_is_gone_is_not_left_out(trainings: Trainings, published: Seen) -> None:
    trainings.copy("published", "gone-on-the-way")
    folder = trainings.folder / "gone-on-the-way"
    models = ModelsOnTheWay(folder, [2, 4, 6], 0, lambda checkpoint, target: None)
    models.take_back()
    (folder / "models" / "step-4").rename(folder / "models" / "elsewhere")
    with pytest.raises(StageError, match="the model of step 4, which was to be published, is gone"):
        models.hand_over()
    with pytest.raises(StageError, match="the model of step 4, which was to be published, is gone from"):
        models.go_on(8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"publish_every": 6}, "publish_every (6) is not a multiple of checkpoint_every (4)"),
        ({"publish_every": 4, "steps": 10**6}, "publish_every (4) would publish more than 10,000 models"),
        (
            {"publish_every": 4, "model": make_model(PRIVATE)},
            "publish_every: there is no model to publish, model component 'private' has no Hugging Face counterpart",
        ),
        (
            {"publish_every": 4, "carry": "everything", "from_": StageRef("x"), "trajectory_steps": None},
            "publish_every with carry: everything needs trajectory_steps",
        ),
        ({"publish_every": 40}, ""),
    ],
)
def test_what_cannot_be_published_is_said_before(changes: dict[str, Any], words: str) -> None:
    told = [message for message in check_pretrain(make_options(**changes)) if "publish_every" in message]
    assert (len(told) == 1 and words in told[0]) if words else told == []


def test_what_a_stage_may_publish() -> None:
    def offered(**changes: Any) -> list[str]:
        return [what for what in produces(make_options(publish_every=4, **changes)) if "@" in what]

    assert offered() == ["hf-model@step-4", "hf-model@step-8"], "step 12 is the last, the stage's own model"
    carried = offered(carry="everything", from_=StageRef("x"), trajectory_steps=20)
    assert carried == [f"hf-model@step-{step}" for step in (4, 8, 12, 16)]
    assert list(published_steps(make_options(publish_every=4), 12)) == [16, 20]
    assert list(published_steps(make_options(publish_every=4, steps=3), 9)) == []


def plan_of(**stages: tuple[PretrainOptions, str]) -> Plan:
    """A plan of pretraining stages, each with the reference that its ``from`` is."""
    planned = []
    for name, (options, ref) in stages.items():
        reference = (
            [Reference(ref=StageRef.parse(ref), path=("stages", name, "from"), needs=("hf-model",))] if ref else []
        )
        planned.append(
            PlannedStage(
                name=name, use=Use(PRETRAIN, options), references=tuple(reference), devices=Devices(), produces={},
                digest="0" * 64, place=Place(name),
            )
        )  # fmt: skip
    recipe = Recipe(name="x", file=Path("x.yaml"), launcher=Use(PRETRAIN, None), stages={}, places={})  # type: ignore[arg-type]
    return Plan(recipe=recipe, stages=tuple(planned))


def test_a_step_that_a_stage_does_not_come_by_is_refused_before_anything_runs() -> None:
    first = make_options(publish_every=4)
    second = make_options(publish_every=4, carry="everything", from_=StageRef("first"), steps=6)

    def told(ref: str, **changes: Any) -> list[str]:
        last = make_options(from_=StageRef.parse(ref), **changes)
        plan = plan_of(first=(first, ""), second=(second, "first"), third=(last, ref))
        return [problem.message for problem in check_plan(plan)]

    assert told("first@step-8") == told("second@step-16") == told("second") == []
    assert told("second@step-8") == [
        "'second' publishes no checkpoint 'step-8': its steps are 13 to 18 of the trajectory, and it publishes: step-16"
    ]
    assert "publishes: step-4, step-8" in told("first@step-12")[0]
    assert "is a model alone: use carry: weights" in told("first@step-8", carry="everything")[0]


def test_verify_counts_them_and_compares_their_weights(trainings: Trainings, published: Seen) -> None:
    trainings.copy("published", "verified")
    folder, options = trainings.folder / "verified" / "checkpoints", make_options(**OPTIONS)
    assert _published(options, folder, 0).holds
    assert "step-8 is missing" in _published(evolve(options, steps=10), folder, 0).note
    (folder / "step-4" / "model" / "model.safetensors").write_bytes(
        (folder / "step-2" / "model" / "model.safetensors").read_bytes()
    )
    assert _published(options, folder, 0).note == "step-4 has the weights of step-2"
