"""What ``smolrecipe verify`` proves of pretraining stages, and that each claim falls with what it is about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from pyarrow import Table, parquet
from safetensors.torch import load_file, save_file
from titan_toys import (
    ADAM,
    BATCH,
    DOCUMENTS,
    FASTER,
    LENGTH,
    STEPS,
    AdamOptions,
    Rows,
    make_model,
    make_options,
    publish,
)

from smolrecipe import ModelComponent, ModelDraft, Proof, StageContext, StageRef, Use
from smolrecipe_torchtitan import PretrainOptions
from smolrecipe_torchtitan.decoder import CausalAttention
from smolrecipe_torchtitan.proofs import rows as rows_module
from smolrecipe_torchtitan.proofs.stage import verify
from smolrecipe_torchtitan.sealed import SEAL, read_contents, to_seal

pytest_plugins = ["titan_jobs"]
"""Where the fixtures come from; one training for all modules."""

FIRST = make_options()
SECOND = make_options(from_=StageRef("first"), carry="everything")
MASKED = make_options(model=make_model(DOCUMENTS), steps=2, held_out_rows=4)
LONGER = make_options(
    model=make_model(FASTER), steps=2, sequence_length=2 * LENGTH, from_=StageRef("first"), export_dtype="bfloat16"
)

ALWAYS = [
    "it begins where the stage before it ended",
    "every step was made",
    "learning rates are the schedule's",
    "checkpoints are whole, up to the last step",
    "the checkpoint holds the model's parameters",
    "optimizer settings are the recipe's",
    "weight decay is on exactly its parameters",
    "model/ is the last checkpoint, bit for bit",
    "config.json is the recipe's model",
    "published rows are those trained on",
    "labels: no first token of a document, no padding",
    "the end of a document is learned",
    "inputs are the rows' tokens",
]
POSITION = "a next stage would go on behind the last sample"
READ = "what was read of each source is between two checkpoints"
APART = ["documents do not see each other", "though a document sees itself"]


@pytest.fixture(scope="module")
def published(alone: dict[str, Any], folder: Path) -> Path:
    for name in ("first", "second", "masked", "longer"):
        publish(folder, name, alone[name])
    return folder


def proofs_of(published: Path, name: str, options: PretrainOptions, artifact: Path | None = None) -> dict[str, Proof]:
    inputs = {"tokenizer": published / "tokenizer", "first": published / "first"}
    context = StageContext(recipe="test", stage=name, folder=artifact or published / name, inputs=inputs)
    return {proof.claim: proof for proof in verify(options, context)}


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [("first", FIRST, []), ("second", SECOND, []), ("masked", MASKED, APART), ("longer", LONGER, [])],
)
def test_all_holds_of_what_was_trained(published: Path, name: str, options: PretrainOptions, more: list[str]) -> None:
    proofs = proofs_of(published, name, options)
    assert list(proofs) == [*ALWAYS, *more, POSITION, READ]
    assert [(claim, proof.note) for claim, proof in proofs.items() if not proof.holds] == []
    assert proofs["weight decay is on exactly its parameters"].measured == "19 with, 1 without"


def broken(published: Path, tmp_path: Path, options: PretrainOptions, damage: Callable[[Path], None]) -> dict[str, str]:
    """The notes of the claims that do not hold of a damaged copy of ``first``."""
    copy = tmp_path / "copy"
    shutil.copytree(published / "first", copy)
    damage(copy)
    return {
        claim: proof.note for claim, proof in proofs_of(published, "first", options, copy).items() if not proof.holds
    }


def edit_metrics(edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Path], None]:
    def damage(artifact: Path) -> None:
        path = artifact / "metrics.jsonl"
        events = edit([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(event) + "\n" for event in events))

    return damage


def wrong_rate(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[4]["lr"] *= 1 + 1e-5
    return events


def edit_summary(**changes: Any) -> Callable[[Path], None]:
    def damage(artifact: Path) -> None:
        path = artifact / "stage.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "summary": {**record["summary"], **changes}}))

    return damage


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(artifact: Path) -> None:
        path = artifact / "model" / "model.safetensors"
        weights = load_file(path)
        edit(weights)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, path)

    return damage


def last_bit(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"].view(torch.int32)[0, 0] ^= 1


def interleave(weights: dict[str, torch.Tensor]) -> None:
    """The order of rows that checkpoints for interleaved rotation have: the shapes are the same."""
    for name in ("q_proj", "k_proj"):
        key = f"model.layers.0.self_attn.{name}.weight"
        weights[key] = weights[key].view(4, 2, 4, 32).transpose(1, 2).reshape(32, 32)


def drop(weights: dict[str, torch.Tensor]) -> None:
    weights["extra"] = weights.pop("model.norm.weight")


def edit_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def damage(artifact: Path) -> None:
        path = artifact / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def move_data(artifact: Path) -> None:
    checkpoint = artifact / "checkpoints" / f"step-{STEPS}"
    contents = read_contents(checkpoint)
    (checkpoint / SEAL).write_bytes(
        to_seal(evolve(contents, values={**contents.values, "dataloader.position": [["made-up", 7]]}))
    )


def edit_sample(column: str, value: Any, place: int | None = None) -> Callable[[Path], None]:
    def damage(artifact: Path) -> None:
        path = artifact / "row_sample.parquet"
        table = parquet.read_table(path)
        lines = table.to_pylist()
        if place is None:
            lines[0][column] = value
        else:
            lines[0][column][place] = value
        parquet.write_table(Table.from_pylist(lines, table.schema), path)

    return damage


def flip_bit(artifact: Path) -> None:
    path = artifact / "checkpoints" / f"step-{STEPS}" / "process-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


RATES, STEP, WHOLE = (
    "learning rates are the schedule's",
    "every step was made",
    "checkpoints are whole, up to the last step",
)
SHOWN = "published rows are those trained on"
EXPORT = "model/ is the last checkpoint, bit for bit"


@pytest.mark.parametrize(
    ("damage", "claim", "words"),
    [
        (edit_metrics(wrong_rate), RATES, "step 5 (of the trajectory: 5)"),
        (edit_metrics(lambda events: events[:6] + events[7:]), STEP, "missing: 7"),
        (edit_metrics(lambda events: [*events, {**events[-1], "step": 13}]), STEP, "beyond the last: 13"),
        (edit_summary(first_step=13), "it begins where the stage before it ended", "another step"),
        (edit_summary(parameters=1), "the checkpoint holds the model's parameters", ""),
        (flip_bit, WHOLE, f"step-{STEPS}"),
        (edit_weights(last_bit), EXPORT, "model.layers.1.mlp.up_proj.weight is not layers.1.feed_forward.w3.weight"),
        (edit_weights(interleave), EXPORT, "model.layers.0.self_attn.q_proj.weight"),
        (
            edit_json("model/config.json", no_rope_layers=[1, 0], rope_parameters={}),
            "config.json is the recipe's model",
            "no_rope_layers is [1, 0], in the recipe [1, 1]",
        ),
        (move_data, POSITION, "'made-up' is 7 and should be"),
        (edit_summary(read={"made-up": STEPS}), READ, f"'made-up' {STEPS}, not {STEPS * BATCH}"),
        (edit_sample("input_ids", 3, place=5), SHOWN, "input_ids of row 0"),
        (edit_sample("labels", -100, place=2), SHOWN, "labels of row 0"),
        (edit_sample("document_starts", [0]), SHOWN, "document_starts of row 0"),
        (edit_sample("row", 1), SHOWN, "input_ids of row 1"),
        (edit_sample("row", STEPS * BATCH), SHOWN, f"row {STEPS * BATCH} is none of the"),
        (edit_sample("source", "web"), SHOWN, "source of row 0"),
        (lambda artifact: (artifact / "row_sample.parquet").unlink(), SHOWN, "has no row_sample.parquet"),
        (edit_weights(drop), EXPORT, "extra is one too many, model.norm.weight is missing"),
    ],
)
def test_damage_is_named(
    published: Path, tmp_path: Path, damage: Callable[[Path], None], claim: str, words: str
) -> None:
    notes = broken(published, tmp_path, FIRST, damage)
    assert set(notes) == {claim, READ} if damage is move_data else {claim}
    assert words in notes[claim]


def test_without_the_last_checkpoint_nothing_is_claimed_of_it(published: Path, tmp_path: Path) -> None:
    notes = broken(
        published, tmp_path, FIRST, lambda artifact: shutil.rmtree(artifact / "checkpoints" / f"step-{STEPS}")
    )
    assert notes == {WHOLE: f"step-{STEPS}, which is not there"}


def test_steps_made_again_after_an_interruption_count_once(published: Path, tmp_path: Path) -> None:
    again = edit_metrics(lambda events: [*events[:8], *events[5:]])
    assert broken(published, tmp_path, FIRST, again) == {}


def other_optimizer(**changes: Any) -> PretrainOptions:
    return make_options(optimizer=Use(ADAM, AdamOptions(**changes)))


DECAY, SETTINGS = "weight decay is on exactly its parameters", "optimizer settings are the recipe's"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # What another recipe would have asked for.
        (other_optimizer(weight_decay=0.2), {SETTINGS: "is 0.1 and not 0.2"}),
        (
            make_options(optimizer=Use(evolve(ADAM, groups=lambda o: ADAM.groups(o)[1:]), AdamOptions())),
            {DECAY: "tok_embeddings.weight", SETTINGS: "weight_decay of tok_embeddings.weight is 0.0 and not 0.1"},
        ),
        (other_optimizer(lr=2e-2), {RATES: "step 1 (of the trajectory: 1): 0.002, not 0.004", SETTINGS: "lr of"}),
        (make_options(trajectory_steps=30), {RATES: "step 12", SETTINGS: "lr of"}),
    ],
)
def test_what_the_recipe_does_not_ask_for_is_named(
    published: Path, options: PretrainOptions, expected: dict[str, str]
) -> None:
    proofs = proofs_of(published, "first", options)
    notes = {claim: proof.note for claim, proof in proofs.items() if not proof.holds}
    assert set(notes) == set(expected)
    for claim, words in expected.items():
        assert words in notes[claim], notes


def test_a_stage_that_went_on_elsewhere_is_found(published: Path) -> None:
    proofs = proofs_of(published, "second", evolve(SECOND, carry="weights"))
    assert not proofs["it begins where the stage before it ended"].holds
    assert not proofs[RATES].holds


# --- labels and masks -------------------------------------------------------------------------------------------------


def labels_with(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[torch.Tensor, torch.Tensor], None]
) -> dict[str, Proof]:
    honest = rows_module.collate

    def careless(rows: Any, *, restart_positions: bool) -> Any:
        inputs, labels = honest(rows, restart_positions=restart_positions)
        spoil(inputs["input"], labels)
        return inputs, labels

    monkeypatch.setattr(rows_module, "collate", careless)
    rows = Rows(LENGTH, 3, 0)
    sample = [rows.row(number) for number in range(8)]
    return {proof.claim: proof for proof in rows_module.labels_of_rows(sample, restart_positions=True, eos=1, pad=0)}


LABELS, END = "labels: no first token of a document, no padding", "the end of a document is learned"


def test_labels_of_honest_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(proof.holds for proof in labels_with(monkeypatch, lambda tokens, labels: None).values())


def test_a_label_across_a_boundary_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(tokens: torch.Tensor, labels: torch.Tensor) -> None:
        labels[:, :-1] = torch.where(labels[:, :-1] < 0, tokens[:, 1:], labels[:, :-1])

    proofs = labels_with(monkeypatch, spoil)
    assert not proofs[LABELS].holds
    assert "of row 0 is" in proofs[LABELS].note
    assert proofs[END].holds


def test_a_masked_end_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = labels_with(monkeypatch, lambda tokens, labels: labels.masked_fill_(labels == 1, -100))
    assert not proofs[END].holds
    assert "masked: label" in proofs[END].note


def test_padding_that_is_learned_is_found() -> None:
    rows = Rows(LENGTH, 3, 0)
    row = rows.row(0)
    row.tokens[5] = 0
    proofs = {proof.claim: proof for proof in rows_module.labels_of_rows([row], restart_positions=True, eos=1, pad=0)}
    assert "label 4 of row 0 is 0" in proofs[LABELS].note


def test_shifted_inputs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = labels_with(monkeypatch, lambda tokens, labels: tokens.copy_(tokens.roll(1, dims=1)))
    assert not proofs["inputs are the rows' tokens"].holds


def skip_the_mask(draft: ModelDraft, options: Any) -> None:
    """Attention that says that it keeps documents apart, and attends to all that came before."""

    class Careless(CausalAttention):
        sees_documents = True

    class Config(CausalAttention.Config):
        _owner = Careless

    for layer in draft.decoder.layers:
        layer.attention.inner_attention = Config()


CARELESS = ModelComponent(name="documents", summary="", apply=skip_the_mask, to_hf=lambda config, options: None)


def test_documents_that_see_each_other_are_found(published: Path) -> None:
    proofs = proofs_of(published, "masked", evolve(MASKED, model=make_model(CARELESS)))
    assert [claim for claim, proof in proofs.items() if not proof.holds] == APART[:1]
    assert "piece 0: from token" in proofs[APART[0]].note


def test_a_model_that_does_not_listen_proves_nothing() -> None:
    class Deaf(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 8)

    pieces = rows_module.pieces_of([Rows(LENGTH, 3, 0).row(number) for number in range(4)])
    proofs = list(rows_module.documents_apart(Deaf(), pieces, 8))
    assert [proof.holds for proof in proofs] == [True, False]


def test_rows_of_one_document_each_are_joined() -> None:
    """Where no row has a boundary, one is made, so that masks are looked at all the same."""
    rows = [Rows(8, seed, 0).row(0) for seed in range(30)]
    whole = [row for row in rows if not (row.positions[1:] == 0).any()]
    assert len(whole) > 1
    ((tokens, positions),) = rows_module.pieces_of(whole)
    assert positions.tolist() == [0, 1, 2, 3] * 2
    assert tokens[:4].tolist() == whole[0].tokens[:4].tolist()
