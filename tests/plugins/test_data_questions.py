"""What is asked about mixtures: weights, passes over sources, rows longer than any document; where rows are from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from data_tokens import write_tokens
from plans import kind, plan_of

import smolrecipe_data
from smolrecipe import NoOptions, Packer, StageKind, StageRef, Use, Workload, option
from smolrecipe.planning.workloads import workloads_of
from smolrecipe_data.options import MixtureOptions, TokenizeOptions
from smolrecipe_data.source_options import ArithmeticOptions, FilesOptions, HfDatasetOptions

(MIXTURE,) = smolrecipe_data.smolrecipe_packers()
SOURCES = {source.name: source for source in smolrecipe_data.smolrecipe_sources()}
TOKENIZE = {stage.name: stage for stage in smolrecipe_data.smolrecipe_stages()}["tokenize"]


@frozen(kw_only=True)
class TrainOptions:
    data: Use[Packer] = option(doc="mixture")
    steps: int = option(doc="steps")
    length: int = option(default=10, doc="row")
    from_: StageRef | None = option(default=None, doc="before")


def workload(options: TrainOptions, parents: Any) -> Workload:
    return Workload(steps=options.steps, tokens_per_step=2 * options.length, row_length=options.length)


TRAIN = StageKind(
    name="train",
    summary="",
    options=TrainOptions,
    run=lambda options, context: None,
    produces=lambda options: {},
    workload=workload,
)


def train(steps: int, weights: dict[str, float], **more: Any) -> tuple[StageKind, TrainOptions]:
    mixture = MixtureOptions(from_=[StageRef("tokens")], weights=weights)
    return TRAIN, TrainOptions(data=Use(MIXTURE, mixture), steps=steps, **more)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with 100 tokens of 'web', in documents of up to 30, and 40 of 'code', in documents of 8."""
    artifact = tmp_path_factory.mktemp("tokens")
    for name, lengths in (("web", [30, 25, 30, 15]), ("code", [8] * 5)):
        write_tokens(artifact / "tokens" / name / "train", lengths, files=2)
        (artifact / "tokens" / name / "source.json").write_text(json.dumps({"tokens": sum(lengths)}))
    return artifact


def asked(published: dict[str, Path], most: float = 4, **stages: Any) -> list[str]:
    plan = plan_of({"tokens": (kind("tokens"), NoOptions()), **stages})
    hook = smolrecipe_data.smolrecipe_warn_of_plan
    found = hook(plan=plan, workloads=workloads_of(plan), published=published, most_epochs=most)
    return [problem.message for problem in found]


@pytest.mark.parametrize(("weights", "total"), [((0.5, 0.6), "1.1"), ((0.5, 0.48), "0.98"), ((50, 50), "100")])
def test_weights_that_do_not_sum_to_one(weights: tuple[float, float], total: str) -> None:
    assert asked({}, a=train(1, dict(zip(("web", "code"), weights, strict=True)))) == [
        f"stage 'a': the weights of its mixture sum to {total}, not to 1: each is divided by that"
    ]


@pytest.mark.parametrize("second", [0.5, 0.50005, 0.4995])
def test_weights_that_are_rounded(second: float) -> None:
    assert asked({}, a=train(1, {"web": 0.5, "code": second})) == []


def test_a_source_that_is_read_too_often(tokens: Path) -> None:
    """20 tokens a step: 25 steps read 375 of web's 100 tokens and 125 of code's 40."""
    stages = {"a": train(25, {"web": 0.75, "code": 0.25})}
    assert asked({"tokens": tokens}, **stages) == []
    assert asked({"tokens": tokens}, most=3.5, **stages) == [
        "stage 'a': source 'web' has 100 tokens and is read 3.75 times: more than 3.5 times, repeated data teaches "
        "less and less"
    ]
    assert asked({}, most=1, **stages) == []  # nobody has counted yet


def test_what_the_stages_before_have_read_counts(tokens: Path) -> None:
    found = asked(
        {"tokens": tokens},
        a=train(15, {"web": 1.0}),
        b=train(10, {"web": 1.0}, from_=StageRef("a")),
        c=train(10, {"web": 1.0}),
    )
    assert found == [
        "stage 'b': source 'web' has 100 tokens and is read 5 times, 3 times of it in the stages before: more than 4 "
        "times, repeated data teaches less and less"
    ]


def test_rows_longer_than_any_document(tokens: Path) -> None:
    both = {"web": 0.5, "code": 0.5}
    assert asked({"tokens": tokens}, a=train(1, both, length=30)) == []
    assert asked({"tokens": tokens}, a=train(1, both, length=31)) == [
        "stage 'a': rows of 31 tokens, and no source has a document of more than 30: every row is several documents, "
        "and nothing in it reaches further than that"
    ]
    assert len(asked({"tokens": tokens}, a=train(1, {"code": 1.0}, length=9))) == 1
    assert asked({}, a=train(1, both, length=31)) == []


@pytest.mark.parametrize(
    "content", ["", "[]", '{"tokens": -3}', '{"tokens": "many"}', '{"tokens": true}', "[" * 50_000]
)
def test_counts_that_cannot_be_read_are_not_counted(tokens: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "tokens" / "web"
    folder.mkdir(parents=True)
    (folder / "source.json").write_text(content)
    assert asked({"tokens": tmp_path}, a=train(10_000, {"web": 1.0})) == []


def test_an_index_too_large_to_read_here_tells_nothing(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smolrecipe_data import workload

    monkeypatch.setattr(workload, "_INDEX_BYTES", 8)
    assert asked({"tokens": tokens}, a=train(1, {"web": 1.0}, length=31)) == []


def origins(source: str, options: Any) -> set[str]:
    return set(SOURCES[source].origins(options))


def test_slices_and_shapes_of_one_split_are_of_one_origin() -> None:
    whole = origins("hf_dataset", HfDatasetOptions(id="a/b", split="test"))
    assert origins("hf_dataset", HfDatasetOptions(id="a/b", split="test[:10]", yields="problem", rows=3)) == whole
    assert origins("hf_dataset", HfDatasetOptions(id="a/b", split="train+test")) > whole
    for other in ({"split": "train"}, {"config": "c"}, {"data_dir": "d"}, {"id": "a/c"}, {"data_files": ["x"]}):
        assert not origins("hf_dataset", HfDatasetOptions(**{"id": "a/b", "split": "test", **other})) & whole


def test_sums_are_of_their_split_in_any_style_and_files_of_their_paths() -> None:
    text = origins("arithmetic", ArithmeticOptions(style="text", split="train"))
    assert origins("arithmetic", ArithmeticOptions(style="problems", split="train", rows=3)) == text
    assert origins("arithmetic", ArithmeticOptions(style="problems", split="held_out")) != text
    both = origins("files", FilesOptions(paths=[Path("a.jsonl"), Path("b.jsonl")]))
    assert origins("files", FilesOptions(paths=[Path("b.jsonl")], rows=1)) < both


def test_tokenising_is_training_on_its_sources() -> None:
    use = Use(SOURCES["arithmetic"], ArithmeticOptions(style="text", split="train"))
    found = TOKENIZE.workload(TokenizeOptions(tokenizer=StageRef("t"), sources={"sums": use}), {})
    assert dict(found.trains_on) == {"sources.sums": use} and found.steps is None
