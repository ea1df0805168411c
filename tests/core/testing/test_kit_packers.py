"""The checks of packers: each catches a packer that breaks it, and the built-in one passes."""

import random
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
from attrs import field, frozen

from smolrecipe import NoOptions, Packer, Proof, StageRef, TokenRow, option
from smolrecipe.testing import packers
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe_registry.discovery import load_registry

CATALOG = load_registry().catalog


def outcomes(checks):
    """The checks that fail and those that are skipped, each with what it says."""
    failed, skipped = {}, {}
    for check in checks:
        try:
            check.run()
        except ContractError as error:
            failed[check.name] = str(error)
        except SkipTest as reason:
            skipped[check.name] = str(reason)
    return failed, skipped


def cases(mutants):
    """Arguments of a test of (name of the check, mutant, what is said)."""
    return {
        "argvalues": [(name, mutant, says) for name, found in mutants.items() for mutant, says in found],
        "ids": [f"{name} {number}" for name, found in mutants.items() for number in range(len(found))],
    }


@frozen(kw_only=True)
class PackerOptions:
    from_: StageRef = option(default=StageRef("tokens"), needs="tokens", doc="the stage whose tokens are read")
    settings: dict = option(factory=dict, doc="something that could be changed")


@frozen
class Rows:
    """The documents of all sources one behind the other, again and again; every method may be broken by a subclass."""

    folder: Path
    length: int
    start: int = 0
    split: dict = field(factory=dict)

    @property
    def stride(self):
        return self.length + 1

    def files(self, split):
        key = (split, "files")
        if key not in self.split:
            tokens, starts = [], []
            for path in sorted(self.folder.glob(f"*/{split}/*.ds")):
                width = int(path.with_name(path.name + ".metadata").read_text().split("\n")[0].rpartition("|")[2])
                ends = np.fromfile(path.with_name(path.name + ".index"), "<u8")
                part = np.fromfile(path, f"<u{width}").astype(np.int64)
                tokens.append(part)
                starts.append(np.isin(np.arange(len(part)), [0, *ends[:-1]]))
            self.split[key] = np.concatenate(tokens), np.concatenate(starts)
        return self.split[key]

    def cut(self, split, first):
        tokens, starts = self.files(split)
        places = np.arange(first, first + self.length + 1) % len(tokens)
        begins = starts[places]
        begins[0] = True
        counted = np.arange(self.length + 1)
        positions = counted - np.maximum.accumulate(np.where(begins, counted, 0))
        return TokenRow(tokens[places], positions[:-1], last_starts_document=bool(starts[places[-1]]))

    def row(self, sample):
        return self.cut("train", self.start + sample * self.stride)

    def held_out(self, rows):
        return [self.cut("held_out", number * (self.length + 1)) for number in range(rows)]

    def position(self, samples):
        return {"all": self.start + samples * self.stride}

    def summary(self):
        return {"tokens": len(self.files("train")[0])}


def packer(rows=Rows, **changes):
    """A packer that opens rows of that class."""

    def open_rows(options, context, sequence_length, seed, start):
        return rows(context.input(options.from_, "tokens"), sequence_length, (start or {}).get("all", 0))

    return Packer(**{"name": "tried", "summary": "rows", "options": PackerOptions, "open": open_rows, **changes})


class Overlapping(Rows):
    """The last token of a row is the first of the next, as in Megatron's packing: every token is a label once."""

    @property
    def stride(self):
        return self.length


class Rounded(Rows):
    """A tail that fills no row is left out of every pass."""

    def row(self, sample):
        per_pass = (len(self.files("train")[0]) - self.start) // self.stride
        return self.cut("train", self.start + sample % per_pass * self.stride)

    def position(self, samples):
        return {"all": self.start + samples * self.stride}


def test_packers_of_several_kinds_hold_their_contract():
    proving = packer(verify=lambda *args: [Proof.same("rows are rows", 0, 1, of="rows")])
    assert len(list(packers.checks(proving, PackerOptions()))) == 13
    assert outcomes(packers.checks(proving, PackerOptions())) == ({}, {})
    assert outcomes(packers.checks(packer(Overlapping), PackerOptions())) == ({}, {})


def test_a_tail_that_fills_no_row_may_be_left_out():
    failed, _ = outcomes(packers.checks(packer(Rounded), PackerOptions()))
    assert "a pass reads every token once" not in failed


def test_the_built_in_packer_holds_it():
    component = CATALOG.get(Packer, "mixture")
    assert outcomes(packers.checks(component, example_of(component, CATALOG))) == ({}, {})
    two = component.options(
        from_=[StageRef("one"), StageRef("two")], weights={"web": 1, "code": 1, "two_web": 1, "two_code": 1}
    )
    assert outcomes(packers.checks(component, two)) == ({}, {})


def test_a_packer_without_token_files_is_skipped():
    failed, skipped = outcomes(packers.checks(packer(), NoOptions()))
    assert not failed and len(skipped) == 12


# Packers that break a check


class ListRows(Rows):
    def row(self, sample):
        row = super().row(sample)
        return TokenRow(row.tokens.tolist(), row.positions)


class ShortRows(Rows):
    def row(self, sample):
        row = super().row(sample)
        return TokenRow(row.tokens[:-1], row.positions)


class FloatRows(Rows):
    def row(self, sample):
        row = super().row(sample)
        return TokenRow(row.tokens, row.positions.astype(np.float32), last_starts_document=row.last_starts_document)


class Padded(Rows):
    def row(self, sample):
        row = super().row(sample)
        row.tokens[-1] = 0
        return row


class TrainsOnAll(Rows):
    def row(self, sample):
        return super().row(sample) if sample % 50 != 49 else self.cut("held_out", 700)


class RunsOn(Rows):
    def row(self, sample):
        row = super().row(sample)
        return TokenRow(row.tokens, np.arange(self.length), last_starts_document=row.last_starts_document)


class ForgetsTheLast(Rows):
    def row(self, sample):
        row = super().row(sample)
        return TokenRow(row.tokens, row.positions)


class Remembers(Rows):
    """Hands out the next row, whichever is asked for."""

    def row(self, sample):
        number = self.split["asked"] = self.split.get("asked", -1) + 1
        return super().row(number)


class WalksThere(Rows):
    def row(self, sample):
        first = self.start
        for _ in range(sample):
            first += self.stride
        return self.cut("train", first)


class DrawsOrder(Rows):
    """An order of all samples up to the one asked for."""

    def row(self, sample):
        np.arange(sample + 1)
        return super().row(sample)


class Draws(Rows):
    """With replacement."""

    def row(self, sample):
        return self.cut("train", random.Random(sample).randrange(10**6))


class Skips(Rows):
    """Leaves out a row of every pass, which is more than a tail."""

    def row(self, sample):
        per_pass = len(self.files("train")[0]) // self.stride
        return self.cut("train", self.start + (sample % (per_pass - 3)) * self.stride)


class StartsAnew(Rows):
    def row(self, sample):
        return self.cut("train", sample * self.stride)


class LosesPosition(Rows):
    def position(self, samples):
        return {"all": samples * self.stride}


class HoldsOutTraining(Rows):
    def held_out(self, rows):
        return [self.cut("train", number * self.stride) for number in range(rows)]


class HoldsNothingOut(Rows):
    def held_out(self, rows):
        return []


class HoldsOutAtRandom(Rows):
    def held_out(self, rows):
        return [self.cut("held_out", random.randrange(400)) for _ in range(rows)]


class NumpySummary(Rows):
    def summary(self):
        return {"tokens": np.int64(7)}


class StandsStill(Rows):
    def position(self, samples):
        return {"all": self.start}


class Writes(Rows):
    def row(self, sample):
        (self.folder / "cache.json").write_text("{}")
        return super().row(sample)


class TwoBytes(Rows):
    def files(self, split):
        tokens, starts = super().files(split)
        return tokens % 2**16, starts


class WithoutSummary:
    def __init__(self, *args):
        self.row = self.held_out = self.position = len


def takes_options_apart(options, context, sequence_length, seed, start):
    options.settings[str(len(options.settings))] = "opened"
    return Rows(context.input(options.from_, "tokens"), sequence_length)


def proofs(*found):
    return packer(verify=lambda *args: list(found))


PACKER_MUTANTS = {
    "it opens the token files of its example": [
        (packer(WithoutSummary), "'summary'"),
        (packer(open=takes_options_apart), "changes the options"),
        (packer(open=lambda options, context, *rest: context.input(options.from_, "model")), "StageError"),
    ],
    "samples have the shapes of samples": [
        (packer(ListRows), "list"),
        (packer(ShortRows), "(16,)"),
        (packer(FloatRows), "float32"),
    ],
    "samples hold nothing but training tokens": [
        (packer(Padded), "token 0, which is in no token file"),
        (packer(TrainsOnAll), "of a held-out document"),
    ],
    "positions restart where documents do": [
        (packer(RunsOn), "and should be 0"),
        (packer(ForgetsTheLast), "last_starts_document"),
    ],
    "a sample is the same whenever it is asked for": [(packer(Remembers), "may depend on its number")],
    "a far sample costs no more than a near one": [
        (packer(WalksThere), "lines of Python"),
        (packer(DrawsOrder), "MiB of memory"),
    ],
    "a pass reads every token once": [(packer(Draws), "were not given yet"), (packer(Skips), "were not given yet")],
    "a later stage goes on where an earlier one ended": [
        (packer(StartsAnew), "in a second stage"),
        (packer(LosesPosition), "before its first sample"),
    ],
    "what is held out is never trained on": [
        (packer(HoldsOutTraining), "in sample 0"),
        (packer(HoldsNothingOut), "returns 0 held-out rows"),
        (packer(HoldsOutAtRandom), "other rows"),
    ],
    "what it says about itself is JSON": [(packer(NumpySummary), "int64")],
    "it leaves its inputs as they are": [(packer(Writes), "cache.json")],
    "it reads tokens of four bytes": [(packer(TwoBytes), "four bytes")],
    "its own proofs hold": [
        (proofs(Proof.same("rows are whole", 1, 2, of="rows", note="row 1 is not")), "row 1 is not"),
        (proofs(), "proves nothing"),
    ],
}


@pytest.mark.parametrize(("name", "component", "says"), **cases(PACKER_MUTANTS))
def test_a_broken_packer_is_caught_by_its_check(name, component, says):
    failed, _ = outcomes(packers.checks(component, PackerOptions()))
    assert list(failed) == [name]
    assert says in failed[name] and "'tried'" in failed[name]
