"""What ``verify`` says of the samples that a stage trained on: that true ones hold, and where planted bugs show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smolrecipe_data
from smolrecipe import Proof, StageContext, StageRef, TokenRow
from smolrecipe_data import interleave, mixture, passes, token_files, verify_mixture

(MIXTURE,) = smolrecipe_data.smolrecipe_packers()
WEIGHTS = {"web": 0.9, "code": 0.1}
LENGTH, SEED, SAMPLES = 16, 6, 500
CLAIMS = {
    "rows are what lies in the token files",
    "positions restart where documents do",
    "each source has its weight's share",
    "sources are read on without a gap",
    "no token is read twice in a pass",
}


def write_source(folder: Path, documents: int, seed: int) -> None:
    """Token files as datatrove writes them, in two files: documents of 1 to 40 random tokens."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    for number in range(2):
        lengths = numbers.integers(1, 40, documents // 2)
        path = folder / f"{number:05d}_00000_doc_shuffled.ds"
        numbers.integers(0, 1000, int(lengths.sum())).astype("<u2").tofile(path)
        np.cumsum(lengths).astype("<u8").tofile(f"{path}.index")
        Path(f"{path}.metadata").write_text(f"some|2\n{lengths.sum()}\n")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifact")
    for seed, (name, documents) in enumerate({"web": 300, "code": 80, "unused": 10}.items()):
        write_source(root / "tokens" / name / "train", documents, seed)
        (root / "tokens" / name / "source.json").write_text("{}")
    (root / "tokens" / "tokens.json").write_text(json.dumps({"sha256": "x", "vocab_size": 1000}))
    return root


def options(**changes: Any) -> Any:
    return MIXTURE.options(**{"from_": [StageRef("tokens")], "weights": WEIGHTS, "allow_unused": True, **changes})


def verify(tokens: Path, samples: int = SAMPLES, start: dict[str, int] | None = None, **changes: Any) -> list[Proof]:
    context = StageContext(recipe="r", stage="train", folder=tokens, inputs={"tokens": tokens})
    return list(MIXTURE.verify(options(**changes), context, LENGTH, SEED, start, samples))


def failing(proofs: list[Proof]) -> dict[str, str]:
    return {proof.claim: proof.note for proof in proofs if not proof.holds}


@pytest.mark.parametrize("samples", [1, 128, SAMPLES, 3000])
@pytest.mark.parametrize("start", [None, {"web": 12_345, "gone": 7}])
def test_true_samples_hold(tokens: Path, samples: int, start: dict[str, int] | None) -> None:
    """3000 samples are eight passes over 'web' and three over 'code'."""
    proofs = verify(tokens, samples, start)
    assert not failing(proofs)
    assert {proof.claim for proof in proofs} == CLAIMS


def test_of_many_samples_some_are_looked_at_and_it_is_said(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_MOST_TOKENS_READ": 4000, "_MOST_PLACES": 300, "_MOST_COUNTED": 2000}.items():
        monkeypatch.setattr(verify_mixture, name, value)
    proofs = {proof.claim: proof for proof in verify(tokens, 10**12)}
    assert not failing(list(proofs.values()))
    told = "0 of 300 samples (the stage has 1,000,000,000,000) differ"
    assert proofs["no token is read twice in a pass"].measured == told
    assert proofs["rows are what lies in the token files"].measured.startswith("0 of 235 samples (")
    shares = proofs["each source has its weight's share"].measured
    assert " off in " in shares and shares.endswith(" of 1,000,000,000,000 samples")


def read_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    true = token_files.TokenStream.read_into
    monkeypatch.setattr(
        token_files.TokenStream,
        "read_into",
        lambda self, target, start: true(self, target, min(start + 1, self.tokens - len(target))),
    )


def forget_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "document_positions", lambda starts, length: np.arange(length))


def forget_a_last_start(monkeypatch: pytest.MonkeyPatch) -> None:
    true = mixture.Mixture.row

    def row(self: mixture.Mixture, sample: int) -> TokenRow:
        found = true(self, sample)
        return TokenRow(found.tokens, found.positions, last_starts_document=False)

    monkeypatch.setattr(mixture.Mixture, "row", row)


def swap_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verify_mixture,
        "open_mixture",
        lambda given, *rest: mixture.open_mixture(options(weights={"web": 0.1, "code": 0.9}), *rest),
    )


def forget_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verify_mixture,
        "open_mixture",
        lambda given, context, length, seed, start: mixture.open_mixture(given, context, length, seed, None),
    )


def repeat_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    true = interleave.Interleave.locate

    def locate(self: interleave.Interleave, sample: int) -> tuple[int, int]:
        source, rank = true(self, sample)
        return source, rank // 2

    monkeypatch.setattr(interleave.Interleave, "locate", locate)


def one_order_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that reads its first segment twice and its second never."""
    true = passes.permutation

    def permutation(size: int, *key: Any) -> np.ndarray:
        order = true(size, *key)
        if key[0] == "pass":
            order[1] = order[0]
        return order

    monkeypatch.setattr(passes, "permutation", permutation)


BUGS: dict[str, list[tuple[Callable[[pytest.MonkeyPatch], None], str]]] = {
    "rows are what lies in the token files": [(read_next_token, "sample 0 ('web') from token 0 on")],
    "positions restart where documents do": [
        (forget_documents, "sample 1 ('web') at token 9"),
        (forget_a_last_start, "') at token 16"),
    ],
    "each source has its weight's share": [(swap_weights, "'web'")],
    "sources are read on without a gap": [
        (forget_the_start, "sample 0 is 'web' from token 0 on, not from 34"),
        (repeat_samples, "from token 34 on, not from 51"),
    ],
    "no token is read twice in a pass": [
        (repeat_samples, "both have token "),
        (one_order_twice, "both have token "),
    ],
}


@pytest.mark.parametrize(("claim", "plant", "place"), [(claim, *bug) for claim, bugs in BUGS.items() for bug in bugs])
def test_a_planted_bug_is_found_and_its_place_named(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, claim: str, plant: Callable[[pytest.MonkeyPatch], None], place: str
) -> None:
    plant(monkeypatch)
    wrong = failing(verify(tokens, start={"web": 34, "code": 34}))
    assert claim in wrong, wrong
    assert place in wrong[claim], wrong[claim]


def test_weights_a_few_points_off_are_found(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In four whole blocks a source is off by less than a sample, so that half a percentage point shows."""
    monkeypatch.setattr(
        verify_mixture,
        "open_mixture",
        lambda given, *rest: mixture.open_mixture(options(weights={"web": 0.905, "code": 0.095}), *rest),
    )
    assert list(failing(verify(tokens, samples=512))) == ["each source has its weight's share"]


def test_token_files_that_are_not_whole_are_told(tokens: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "tokens" / "web" / "train", 10, 0)
    write_source(tmp_path / "tokens" / "code" / "train", 10, 1)
    for name in WEIGHTS:
        (tmp_path / "tokens" / name / "source.json").write_text("{}")
    (tmp_path / "tokens" / "tokens.json").write_text(json.dumps({"sha256": "x", "vocab_size": 1000}))
    file = next((tmp_path / "tokens" / "code" / "train").glob("*.ds"))
    file.write_bytes(file.read_bytes()[:-2])
    (proof,) = verify(tmp_path)
    assert not proof.holds and "code/train" in proof.note and "is not whole" in proof.note
