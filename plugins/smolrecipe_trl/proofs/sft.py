"""What is proven of a fine-tuned model: the rate of every step, what was learned of which rows, tokens conserved, and
the held-out loss once more by plain ``transformers``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from smolrecipe import Proof, Source, StageContext, Use
from smolrecipe.lengths import end_of_bin, in_bins
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_trl.conversations import conversation
from smolrecipe_trl.held_out import ACCURACY, LOSS
from smolrecipe_trl.options import SftOptions
from smolrecipe_trl.proofs.rows import (
    Expected,
    Half,
    NotTurnsError,
    Published,
    Turn,
    TurnReader,
    learned_turns,
    verify_rows,
)
from smolrecipe_trl.proofs.training import (
    Budget,
    load_plain,
    load_published_tokenizer,
    measures_match,
    read_held_out,
    token_log_probs,
    verify_rate,
    verify_tokenizer,
)
from smolrecipe_trl.sample_order import plan_steps

_NOT_LEARNED = -100
_COUNTED_TOKENS = 5_000_000
"""A source of at most so many tokens is read and counted once more, whole."""


def verify_sft(options: SftOptions, context: StageContext) -> Iterator[Proof]:
    """Check a published fine-tuned model against its options. Works on a CPU; takes one copy of the model."""
    record = context.record()
    summary = record["summary"]
    yield from verify_rate(options, context, plan_steps(summary["training_rows"], options))
    tokenizer = load_published_tokenizer(context.folder)
    yield from verify_tokenizer(options, context, tokenizer)
    reader = TurnReader(tokenizer)
    held_out = {f"held_out.{name}": use for name, use in options.held_out.items()}
    yield from verify_rows(
        context,
        {**options.data, **held_out},
        expect=lambda label, row: expected_row(reader, row, options, "none" if label in held_out else options.packing),
        published=published_row,
        end=tokenizer.convert_tokens_to_ids(options.eos_token),
        claim="only assistant turns are learned" if options.loss_on == "assistant" else "every token is learned",
        built_in=isinstance(options.chat_template, str),
    )
    yield _sums(options, summary)
    yield from _counted_again(reader, options, summary)
    yield from _held_out_again(reader, options, context, record)


def _expect(reader: TurnReader, row: Any, options: SftOptions, packing: str) -> tuple[Half | None, int]:
    """What a row becomes (``None`` if nothing of it is learned), and how many tokens it was before it was cut."""
    told = conversation(row)
    ids = reader.render(told.messages, told.arguments)
    turns: list[Turn] = []
    try:
        turns = reader.turns(ids, told.messages)
    except NotTurnsError:
        if options.loss_on == "assistant":
            raise
    learned = [True] * len(ids) if options.loss_on == "all" else learned_turns(turns)
    if packing != "wrapped":
        learned[:1] = [False]  # it follows nothing
    half = Half(ids, turns, learned)
    if packing in ("bfd", "none"):
        half = half.cut(options.max_length)
    return (half if any(half.learned) else None), len(ids)


def expected_row(reader: TurnReader, row: Any, options: SftOptions, packing: str) -> Expected | None:
    """What a row of a source should have become."""
    half, _ = _expect(reader, row, options, packing)
    return None if half is None else {"conversation": half}


def published_row(row: Mapping[str, Any]) -> Published:
    """A row of the sample: its tokens and what its labels say."""
    learned = [
        False if label == _NOT_LEARNED else True if label == token else None
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
    ]
    return {"conversation": (row["input_ids"], learned)}


def _sums(options: SftOptions, summary: Mapping[str, Any]) -> Proof:
    """Whether the counts of the summary agree with each other."""
    sources = [summary["sources"][name] for name in options.data]
    total = {name: sum(source[name] for source in sources) for name in sources[0] if name != "lengths"}
    kept = total["rows"] - total["rows_without_loss"]
    learned, per_pass = total["learned_tokens"], summary["learned_tokens_per_pass"]
    steps = plan_steps(summary["training_rows"], options)
    sums = {
        f"sources keep {total['tokens']:,} tokens, a pass has {summary['tokens_per_pass']:,}": (
            total["tokens"] == summary["tokens_per_pass"]
        ),
        f"steps are {summary['steps']}, not {steps.run}": summary["steps"] == steps.run,
    }
    if options.packing in ("bfd", "none"):
        words = f"sources keep {kept:,} rows, a pass has {summary['documents']:,}"
        sums[words] = kept == summary["documents"]
        sums[f"sources learn {learned:,} tokens, a pass learns {per_pass:,}"] = learned == per_pass
    else:  # a first token of a training row or piece follows nothing and is not learned
        words = f"sources learn {learned:,} tokens, a pass of {summary['documents']:,} pieces learns {per_pass:,}"
        sums[words] = learned - summary["documents"] <= per_pass <= learned
    wrong = [words for words, holds in sums.items() if not holds]
    return Proof.same("rows and tokens add up", len(wrong), len(sums), of="sums", note="; ".join(wrong))


def _counted_again(reader: TurnReader, options: SftOptions, summary: Mapping[str, Any]) -> Iterator[Proof]:
    """Read small sources whole: rows in are rows kept and left out, tokens in are tokens kept, cut and left out."""
    counted = differing = sources_counted = 0
    notes = []
    sources: dict[str, tuple[Use[Source], str]] = {name: (use, options.packing) for name, use in options.data.items()}
    sources |= {f"held_out.{name}": (use, "none") for name, use in options.held_out.items()}
    for label, (use, packing) in sources.items():
        found = summary["sources"][label]
        told = {
            "rows": found["rows"],
            "tokens": found["tokens"] + found["truncated_tokens"] + found.get("dropped_tokens", 0),
            "learned tokens": found["learned_tokens"],
            **{_rows_of(shortest): rows for shortest, rows in found.get("lengths", {}).items()},
        }
        if told["tokens"] > _COUNTED_TOKENS:
            continue
        try:
            again = _count(reader, use, options, packing)
        except Exception:  # the sample has said it already: a source that is gone
            continue
        sources_counted += 1
        counted += again["tokens"]
        names = [name for name in {**again, **told} if name != "learned tokens" or name in again]
        wrong = {name: (again.get(name, 0), told.get(name, 0)) for name in names if again.get(name) != told.get(name)}
        differing += sum(abs(number - said) for number, said in wrong.values())
        notes += [
            f"source '{label}' has {number:,} {name}, the summary says {said:,}"
            for name, (number, said) in wrong.items()
        ]
    if counted:
        of = f"tokens of {sources_counted} of {len(sources)} sources"
        yield Proof.same("no row and no token is lost", differing, counted, of=of, note="; ".join(notes))


def _count(reader: TurnReader, use: Use[Source], options: SftOptions, packing: str) -> dict[str, int]:
    """Rows and tokens of a source, its learned tokens unless a row does not tell its turns apart, and its rows of each
    length before they are cut."""
    again = {"rows": 0, "tokens": 0, "learned tokens": 0}
    lengths: Counter[int] = Counter()
    unclear = False
    for row in use.component.read(use.options):
        again["rows"] += 1
        try:
            half, tokens = _expect(reader, row, options, packing)
            again["learned tokens"] += sum(half.learned) if half is not None else 0
        except NotTurnsError:
            unclear, told = True, conversation(row)
            tokens = len(reader.render(told.messages, told.arguments))
        again["tokens"] += tokens
        lengths[tokens] += 1
    if unclear:
        del again["learned tokens"]
    return again | {_rows_of(shortest): rows for shortest, rows in in_bins(lengths).items()}


def _rows_of(shortest: str) -> str:
    return f"rows of {shortest} to {end_of_bin(int(shortest)) - 1} tokens"


def _held_out_again(
    reader: TurnReader, options: SftOptions, context: StageContext, record: Mapping[str, Any]
) -> Iterator[Proof]:
    """The held-out loss and accuracy of the published model, one row at a time."""
    tables = read_held_out(context.folder)
    if tables is None:
        if options.held_out:
            yield Proof(claim="held-out loss can be compared", holds=False, note="the artifact has no held_out.json")
        return
    means = {when: {source: _means(rows) for source, rows in tables[when].items()} for when in ("before", "after")}
    error, place = measures_match(record, means)
    yield Proof.within("measures are those of their rows", error, 1e-6, unit="relative", note=place)
    exact = options.precision == options.save_precision == "float32"
    # In bfloat16, weights are rounded when they are published, or activations while the loss is measured: 2**-9 each.
    bound = 1e-4 if exact else 2e-2
    model = load_plain(context.folder / MODEL_FOLDER)
    for source, use in options.held_out.items():
        budget = Budget(model, len(options.held_out))
        published = tables["after"][source]
        ours: dict[int, tuple[float, float, float]] = {}
        place = 0
        for row in use.component.read(use.options):
            try:
                half, _ = _expect(reader, row, options, "none")
            except NotTurnsError:  # counted where the sample is compared
                place += 1
                continue
            if half is None:
                continue
            if not budget.take(len(half.ids)):
                break
            log_probs, right = token_log_probs(model, half.ids)
            learned = log_probs.new_tensor(half.learned[1:])
            ours[place] = (-float(log_probs @ learned), float(right.double() @ learned), float(learned.sum()))
            place += 1
        yield from _compare_tables(source, ours, published, bound, len(options.held_out) > 1)


def _means(rows: list[list[float]]) -> dict[str, float]:
    tokens = sum(row[2] for row in rows)
    return {LOSS: sum(row[0] for row in rows) / tokens, ACCURACY: sum(row[1] for row in rows) / tokens}


def _compare_tables(
    source: str, ours: dict[int, tuple[float, float, float]], published: list[list[float]], bound: float, several: bool
) -> Iterator[Proof]:
    where = f" ({source})" if several else ""
    pairs = {place: (mine, published[place]) for place, mine in ours.items() if place < len(published)}
    uneven = [place for place, (mine, theirs) in pairs.items() if mine[2] != theirs[2]]
    yield Proof.same(
        f"held-out rows learn as many tokens{where}",
        len(uneven) + len(ours) - len(pairs),
        len(ours),
        of=f"rows (of {len(published):,})",
        note=f"row {uneven[0]} of those kept" if uneven else "there are more rows than were measured",
    )
    if not pairs:
        return
    loss, told = (sum(pair[side][0] for pair in pairs.values()) for side in (0, 1))
    worst = max(pairs, key=lambda place: abs(pairs[place][0][0] - pairs[place][1][0]))
    tokens = sum(mine[2] for mine, _ in pairs.values())
    proof = Proof.within(
        f"held-out loss by transformers{where}",
        abs(loss - told) / max(abs(loss), 1e-3),
        bound,
        unit="relative",
        note=f"{loss / tokens:.6g} nats/token, not {told / tokens:.6g}; the most in row {worst} of those kept",
    )
    yield evolve(proof, measured=f"{proof.measured}, {len(pairs)} of {len(published)} rows")
    accuracy = abs(sum(mine[1] - theirs[1] for mine, theirs in pairs.values())) / tokens
    yield Proof.within(
        f"held-out accuracy by transformers{where}",
        accuracy,
        10 * bound,
        unit="of learned tokens",
        note="the most likely token is another one at more places than rounding explains",
    )
