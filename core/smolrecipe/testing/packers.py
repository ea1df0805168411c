"""What a packer must hold: samples by their number, of documents that are read once in a pass and known by position.

The kit writes token files (``token_files``) for every stage that the packer's example names, opens them, and knows of
each token where it was.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from smolrecipe.components import Packer
from smolrecipe.data import TokenRow, TokenRows
from smolrecipe.options import StageRef, walk
from smolrecipe.stage import StageContext
from smolrecipe.testing.attempts import building_on, not_json, only_where, options_kept, reporting
from smolrecipe.testing.contract import Check, ContractError, broken
from smolrecipe.testing.cost import cost
from smolrecipe.testing.token_files import KnownTokens, write_tokens

LENGTH = 16
"""The sequence length of the samples that are looked at, in tokens."""

SEED = 5
LOOKED_AT = 200
MOST_ROWS = 4000
"""How many samples are read to see a pass end."""

OPENS, SHAPED, STATELESS, TRAINED, PASSES = (
    "it opens the token files of its example",
    "samples have the shapes of samples",
    "a sample is the same whenever it is asked for",
    "samples hold nothing but training tokens",
    "a pass reads every token once",
)
"""Checks that others build on, and each on the one before it."""


@frozen(kw_only=True)
class _Bench:
    """Token files, and a way to open them."""

    component: Packer
    options: Any
    known: KnownTokens
    folder: Path
    files: Mapping[str, str]
    """What the kit has written into the inputs, by its hash."""

    def open(self, length: int = LENGTH, start: Mapping[str, int] | None = None) -> TokenRows:
        what = f"open of packer '{self.component.name}'"
        return options_kept(  # type: ignore[no-any-return]
            what, self.options, lambda: self.component.open(self.options, self.context, length, SEED, start)
        )

    @property
    def context(self) -> StageContext:
        return StageContext(
            recipe="conformance",
            stage="train",
            folder=self.folder / "train",
            inputs={path.name: path for path in (self.folder / "inputs").iterdir()},
        )


@contextmanager
def _bench(component: Packer, options: Any, first: int = 10) -> Iterator[_Bench]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train").mkdir()
        stages = {
            value.stage: folder / "inputs" / value.stage
            for _, value, metadata in walk(options)
            if isinstance(value, StageRef) and "tokens" in (metadata.get("needs") or ())
        }
        only_where(bool(stages), f"the example of packer '{component.name}' names no stage that makes tokens")
        known = write_tokens(stages, first)
        yield _Bench(component=component, options=options, known=known, folder=folder, files=_files(folder / "inputs"))


def checks(component: Packer, options: Any) -> Iterator[Check]:
    """The checks of a packer with the options of its example."""
    grounds = (
        (OPENS, _check_opens),
        (SHAPED, _check_shapes),
        (STATELESS, _check_stateless),
        (TRAINED, _check_tokens),
        (PASSES, _check_pass),
    )
    for number, (name, check) in enumerate(grounds):
        yield Check(name=name, run=partial(_run, check, grounds[:number], component, options))
    for name, check, builds_on in (
        ("positions restart where documents do", _check_positions, 4),
        ("a far sample costs no more than a near one", _check_cost, 2),
        ("a later stage goes on where an earlier one ended", _check_continues, 5),
        ("what is held out is never trained on", _check_held_out, 2),
        ("what it says about itself is JSON", _check_summary, 1),
        ("it leaves its inputs as they are", _check_inputs, 2),
        ("it reads tokens of four bytes", _check_wide, 4),
        ("its own proofs hold", _check_proofs, 1),
    ):
        if check is not _check_proofs or component.verify is not None:
            yield Check(name=name, run=partial(_run, check, grounds[:builds_on], component, options))


def _run(
    check: Callable[[_Bench], None],
    grounds: Sequence[tuple[str, Callable[[_Bench], None]]],
    component: Packer,
    options: Any,
) -> None:
    with _bench(component, options) as bench, reporting(f"packer '{component.name}'"):
        for name, ground in grounds:
            with building_on(name), reporting(f"packer '{component.name}'"):
                ground(bench)
        check(bench)


def _check_opens(bench: _Bench) -> None:
    rows = bench.open()
    for method in ("row", "held_out", "position", "summary"):
        if not callable(getattr(rows, method, None)):
            broken(f"what packer '{bench.component.name}' opens has no method '{method}': see smolrecipe.TokenRows")


def _check_shapes(bench: _Bench) -> None:
    rows = bench.open()
    for sample in (0, 1, LOOKED_AT):
        _require_shape(bench, f"sample {sample}", rows.row(sample))


def _require_shape(bench: _Bench, which: str, row: TokenRow, length: int = LENGTH) -> None:
    what = f"{which} of packer '{bench.component.name}'"
    if not isinstance(row, TokenRow):
        broken(f"{what} is {type(row).__name__}: return a smolrecipe.TokenRow")
    for name, array, expected in (("tokens", row.tokens, length + 1), ("positions", row.positions, length)):
        found = f"{type(array).__name__} of shape {getattr(array, 'shape', None)}, {getattr(array, 'dtype', None)}"
        if not isinstance(array, np.ndarray) or array.shape != (expected,) or array.dtype.kind not in "iu":
            broken(f"{name} of {what} are {found}: they are a numpy array of whole numbers, shape ({expected},)")
    if not isinstance(row.last_starts_document, (bool, np.bool_)):
        broken(f"last_starts_document of {what} is {row.last_starts_document!r}: it is true or false")


def _check_tokens(bench: _Bench) -> None:
    rows = bench.open()
    for sample in range(LOOKED_AT):
        for token in rows.row(sample).tokens.tolist():
            place = bench.known.places.get(token)
            if place is None or place.held_out:
                broken(
                    f"sample {sample} of packer '{bench.component.name}' has the token {token}, which is "
                    f"{'in no token file' if place is None else 'of a held-out document'}: samples are made of the "
                    "tokens in tokens/<source>/train, and nothing fills up a row"
                )


def _check_positions(bench: _Bench) -> None:
    rows = bench.open()
    for sample in range(LOOKED_AT):
        _require_positions(bench, f"sample {sample}", rows.row(sample))


def _require_positions(bench: _Bench, which: str, row: TokenRow) -> None:
    what = f"{which} of packer '{bench.component.name}'"
    places = [bench.known.places[token] for token in row.tokens.tolist()]
    expected = [0]
    for before, place in pairwise(places[:-1]):
        goes_on = place.place and (place.source, place.document, place.place - 1) == (
            before.source,
            before.document,
            before.place,
        )
        expected.append(expected[-1] + 1 if goes_on else 0)
    found = row.positions.tolist()
    if found != expected:
        index = next(index for index, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
        token = places[index]
        broken(
            f"position {index} of {what} is {found[index]}, and should be {expected[index]}: there lies token "
            f"{token.place} of document {token.document} of '{token.source}'. Positions count from 0 at the start of a "
            "row and wherever a document starts, so that attention can stay inside it"
        )
    if bool(row.last_starts_document) != (places[-1].place == 0):
        broken(
            f"last_starts_document of {what} is {row.last_starts_document}, and its last token is number "
            f"{places[-1].place} of its document"
        )


def _check_stateless(bench: _Bench) -> None:
    """In order, in another order by another instance, and one far in by a fresh one."""
    samples = list(range(LOOKED_AT))
    rows, others = bench.open(), bench.open()
    first = {sample: _content(rows.row(sample)) for sample in samples}
    for sample in [*reversed(samples), *samples[::7]]:
        if _content(others.row(sample)) != first[sample]:
            broken(
                f"sample {sample} of packer '{bench.component.name}' is another one where others were asked for before "
                "it: it may depend on its number, the options and the seed alone, so that a run can go on after an "
                "interruption and on another number of devices"
            )
    if _content(bench.open().row(samples[-1])) != first[samples[-1]]:
        broken(
            f"sample {samples[-1]} of packer '{bench.component.name}' is another one where it is the first asked for"
        )


def _content(row: TokenRow) -> tuple[bytes, bytes, bool]:
    return (
        row.tokens.astype(np.int64).tobytes(),
        row.positions.astype(np.int64).tobytes(),
        bool(row.last_starts_document),
    )


def _check_cost(bench: _Bench) -> None:
    """Lines of Python executed and bytes allocated for one sample of a fresh instance: no clock is asked."""
    near = [cost(partial(bench.open().row, sample)) for sample in (0, 1, LOOKED_AT)]
    most_lines = 20 * max(lines for lines, _ in near) + 2000
    most_bytes = 20 * max(size for _, size in near) + 2**22
    for sample in (10**7, 10**9):
        lines, size = cost(partial(bench.open().row, sample), most_lines)
        if lines > most_lines or size > most_bytes:
            more = f"{lines:,} lines of Python" if lines > most_lines else f"{size / 2**20:,.0f} MiB of memory"
            broken(
                f"sample {sample:,} of packer '{bench.component.name}' takes more than {more}, sample 0 "
                f"{near[0][0]:,} and {near[0][1] / 2**20:,.1f}: find it by its number, without going through those "
                "before it, so that a run goes on at once after an interruption"
            )


def _check_pass(bench: _Bench) -> None:
    rows = bench.open()
    _require_passes(bench, (rows.row(sample) for sample in range(MOST_ROWS)), LENGTH)


def _require_passes(bench: _Bench, rows: Iterable[TokenRow], tail: int) -> None:
    """When a source gives a token again, less than ``tail`` + 1 of its tokens were never given.

    Given again is what is an input again: the last token of a row, only a label, may be the first of the next one.
    """
    inputs: Counter[int] = Counter()
    seen: dict[str, set[int]] = {}
    over: set[str] = set()
    for row in rows:
        tokens = row.tokens.tolist()
        inputs.update(tokens[:-1])
        for token in tokens:
            seen.setdefault(bench.known.places[token].source, set()).add(token)
        for token in tokens[:-1]:
            source = bench.known.places[token].source
            if inputs[token] == 1 or source in over:
                continue
            unseen = bench.known.trained(source) - len(seen[source])
            if unseen > tail:
                broken(
                    f"packer '{bench.component.name}' gives token {token} of '{source}' again, and {unseen} of its "
                    f"{bench.known.trained(source)} tokens were not given yet: read all of a source before any of it "
                    "is read again; only a tail that fills no row may be left out"
                )
            over.add(source)
        if over == set(seen):
            return
    if not over:
        broken(f"packer '{bench.component.name}' does not come to the end of a source in {MOST_ROWS} samples")


def _check_continues(bench: _Bench) -> None:
    """Also where the later stage's rows are longer."""
    rows, done = bench.open(), 20
    position = rows.position(done)
    for length in (LENGTH, 2 * LENGTH):
        later = bench.open(length, position)
        both = chain(map(rows.row, range(done)), map(later.row, range(MOST_ROWS)))
        with reporting(f"a second stage that starts where {done} samples of another one ended"):
            try:
                _require_passes(bench, both, length)
            except AssertionError as error:
                broken(f"in a second stage that starts where {done} samples of another one ended: {error}")
        if dict(later.position(0)) != dict(position):
            broken(
                f"packer '{bench.component.name}' started at {dict(position)} says that it is at "
                f"{dict(later.position(0))} before its first sample: positions count over all stages"
            )


def _check_held_out(bench: _Bench) -> None:
    rows, others = bench.open(), bench.open()
    asked = 8
    held_out = rows.held_out(asked)
    if not isinstance(held_out, list) or not 0 < len(held_out) <= asked or rows.held_out(0) != []:
        broken(
            f"packer '{bench.component.name}' returns {len(held_out)} held-out rows where up to {asked} are asked for "
            "and there are held-out documents enough, or some where none is: return a list of that many"
        )
    for number, row in enumerate(held_out):
        _require_shape(bench, f"held-out row {number}", row)
    if list(map(_content, held_out)) != list(map(_content, others.held_out(asked))):
        broken(
            f"packer '{bench.component.name}' holds out other rows when it is asked again: two losses do not compare"
        )
    kept = {token for row in held_out for token in row.tokens.tolist()}
    if strange := kept - set(bench.known.places):
        broken(f"a held-out row of packer '{bench.component.name}' has the token {min(strange)}, in no token file")
    for number, row in enumerate(held_out):
        _require_positions(bench, f"held-out row {number}", row)
    for sample, row in enumerate(map(rows.row, range(MOST_ROWS // 10))):
        if both := kept & set(row.tokens.tolist()):
            broken(
                f"token {min(both)} is in a held-out row of packer '{bench.component.name}' and in sample {sample}: "
                "what is held out is never trained on"
            )


def _check_summary(bench: _Bench) -> None:
    rows = bench.open()
    for name, value in (("summary()", rows.summary()), ("position(7)", rows.position(7))):
        if reason := not_json(value):
            broken(f"{name} of packer '{bench.component.name}' cannot be written as JSON: {reason}")
        if not value:
            broken(
                f"{name} of packer '{bench.component.name}' says nothing: give at least the sources with a count each"
            )
    positions = [rows.position(samples) for samples in (0, 7, 70)]
    for position in positions:
        if strange := [count for count in position.values() if type(count) is not int or count < 0]:
            broken(f"a position of packer '{bench.component.name}' is {strange[0]!r}: it is a whole number from 0 on")
    if sum(positions[0].values()) >= sum(positions[1].values()) or sum(positions[1].values()) >= sum(
        positions[2].values()
    ):
        broken(f"positions of packer '{bench.component.name}' do not grow with the samples: {positions}")


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def _check_inputs(bench: _Bench) -> None:
    rows = bench.open()
    list(map(rows.row, range(10)))
    rows.held_out(4)
    rows.summary()
    changed = dict(sorted(bench.files.items() ^ _files(bench.folder / "inputs").items()))
    if changed:
        broken(
            f"packer '{bench.component.name}' writes '{next(iter(changed))}' into an artifact that is published: write "
            "below context.folder, or nothing"
        )


def _check_wide(bench: _Bench) -> None:
    with _bench(bench.component, bench.options, first=70_000) as wide:
        try:
            _check_shapes(wide)
            _check_tokens(wide)
        except ContractError as error:
            broken(f"with a vocabulary of {wide.known.vocab_size:,}, whose tokens take four bytes: {error}")


def _check_proofs(bench: _Bench) -> None:
    assert bench.component.verify is not None
    proofs = list(islice(bench.component.verify(bench.options, bench.context, LENGTH, SEED, None, LOOKED_AT), 1000))
    if not proofs:
        broken(f"verify of packer '{bench.component.name}' proves nothing")
    for proof in proofs:
        if not proof.holds:
            broken(
                f"verify of packer '{bench.component.name}' finds that '{proof.claim}' does not hold of what it opens "
                f"itself: {proof.note or proof.measured}"
            )
