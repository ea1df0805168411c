"""What ``verify`` proves of rows that models wrote: it holds for what a stage made, and for nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthesize_toys import STAGE, Echo, context, dropping, pairs, problems, rows

from smolrecipe import Proof
from smolrecipe_synthesize.options import SynthesizeOptions

OPTIONS = pairs(
    Echo(),
    Echo(),
    filters={"small": dropping(lambda candidate: "" if int(candidate.known_answer or 0) < 9 else "too large")},
)
CHAT = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "?"}, {"role": "user", "content": "two"}]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published") / "run", OPTIONS)


def publish(folder: Path, options: SynthesizeOptions) -> Path:
    artifact = STAGE.run(options, context(folder))
    record = {
        "recipe": "r", "stage": "made", "kind": "synthesize", "digest": "0" * 64, "parents": {},
        "options": {"use": "synthesize"}, "plugins": {}, "started": "", "seconds": 1.0, "measures": [],
        "summary": artifact.summary,
    }  # fmt: skip
    (folder / "stage.json").write_text(json.dumps(record))
    return folder


def proofs(folder: Path, options: SynthesizeOptions = OPTIONS) -> list[Proof]:
    assert STAGE.verify is not None
    return list(STAGE.verify(options, context(folder)))


def failing(folder: Path) -> list[str]:
    return [proof.claim for proof in proofs(folder) if not proof.holds]


def test_what_a_stage_made_is_proven(published: Path) -> None:
    assert [proof.holds for proof in proofs(published)] == [True] * 4
    assert [proof.measured for proof in proofs(published)][:2] == ["0 of 23 prompts differ", "0 of 16 rows differ"]


def test_so_are_conversations_of_several_turns(tmp_path: Path) -> None:
    options = SynthesizeOptions(
        prompts={"talk": rows({"messages": CHAT}, yields="chat"), "said": problems(3)},
        teacher=Echo().use(),
        turns="every",
        system="Be short.",
    )
    found = proofs(publish(tmp_path / "run", options), options)
    assert [proof.holds for proof in found] == [True] * 3


ACCOUNTED = "rows kept and rows dropped are all prompts"
ANSWERED = "each row is one of the prompts, with what the models answered"
DIFFER = "the two answers of a pair differ"
AGAIN = "the filters, asked again, keep these rows"


def change_row(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "rows" / "00000.jsonl"
        lines = file.read_text().splitlines()
        lines[2] = json.dumps({**json.loads(lines[2]), key: value})
        file.write_text("\n".join(lines) + "\n")

    return change


def lose_a_row(folder: Path) -> None:
    file = folder / "rows" / "00000.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def change_an_answer(folder: Path) -> None:
    file = folder / "answers" / "rejected-00000.jsonl"
    file.write_text(file.read_text().replace('"text": "x2"', '"text": "x3"'))


def swap_rows(folder: Path) -> None:
    file = folder / "rows" / "00000.jsonl"
    first, second, *others = file.read_text().splitlines(keepends=True)
    file.write_text("".join([second, first, *others]))


@pytest.mark.parametrize(
    ("change", "claims"),
    [
        (change_row("chosen", [{"role": "assistant", "content": "of my own"}]), [ANSWERED, AGAIN]),
        (change_row("rejected", [{"role": "assistant", "content": "of my own"}]), [ANSWERED, AGAIN]),
        (change_row("prompt", [{"role": "user", "content": "say something else"}]), [ANSWERED, AGAIN]),
        (change_row("chat_template_kwargs", {"enable_thinking": "no"}), [ANSWERED, AGAIN]),
        (change_row("origin", {"source": "elsewhere", "row": 0}), [ANSWERED, AGAIN]),
        (change_row("chosen", [{"role": "assistant", "content": "x2"}]), [ANSWERED, DIFFER, AGAIN]),
        (lose_a_row, [ACCOUNTED, AGAIN]),
        (change_an_answer, [ANSWERED, AGAIN]),
        (swap_rows, [AGAIN]),
    ],
)
def test_a_change_is_seen(tmp_path: Path, published: Path, change: Callable[[Path], None], claims: list[str]) -> None:
    shutil.copytree(published, tmp_path / "run")
    change(tmp_path / "run")
    assert failing(tmp_path / "run") == claims
