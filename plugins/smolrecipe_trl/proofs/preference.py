"""What is proven of an aligned model: the rate of every step, what was scored of which pairs, rewards once more by
plain ``transformers``, and the loss against TRL's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch  # noqa: TID253
from attrs import evolve, frozen
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Loss, PreferenceBatch, PreferenceLoss, Proof, Source, StageContext, Use
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_trl.conversations import Pair, pair
from smolrecipe_trl.options import PreferenceOptions
from smolrecipe_trl.preference import ACCURACY, LOSS, MARGIN
from smolrecipe_trl.proofs.kept import verify_kept
from smolrecipe_trl.proofs.loss import compare_with_trl, trl_can_take, trl_losses, trl_name
from smolrecipe_trl.proofs.rows import (
    Expected,
    Half,
    NotTurnsError,
    Published,
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

_SIDES = ("chosen", "rejected")
_ROUNDING = 1e-5
"""Of float32 log-probabilities, relative to their sum over all answers."""
_BFLOAT16_ROUNDING = 2e-2
"""The same where weights were rounded when they were published, or activations while they were measured: 2**-9 each."""
_TRL_PAIRS = 8


@frozen
class AskedPair:
    """A pair that both models are asked about: the row, its place among those measured, and what it becomes."""

    place: int
    row: Pair
    halves: Expected

    @property
    def whole(self) -> bool:
        """Whether neither answer was cut short."""
        return all(half.turns[-1].stop == len(half.ids) for half in self.halves.values())


def verify_preference(options: PreferenceOptions, context: StageContext) -> Iterator[Proof]:
    """Check a published aligned model against its options. Works on a CPU; takes two copies of the model."""
    record = context.record()
    yield from verify_rate(options, context, plan_steps(record["summary"]["pairs"], options))
    tokenizer = load_published_tokenizer(context.folder)
    yield from verify_tokenizer(options, context, tokenizer)
    reader = TurnReader(tokenizer)
    yield from verify_rows(
        context,
        {**options.data, **{f"held_out.{name}": use for name, use in options.held_out.items()}},
        expect=lambda label, row: _expect(reader, pair(row), options.max_length),
        published=_published,
        end=tokenizer.convert_tokens_to_ids(options.eos_token),
        claim="only answers are scored",
        built_in=isinstance(options.chat_template, str),
    )
    yield from _first_step(options, context)
    yield from verify_kept(options, context)
    tables = read_held_out(context.folder)
    if tables is not None:
        yield _measures(options, record, tables)
    elif options.held_out:
        yield Proof(claim="rewards can be compared", holds=False, note="the artifact has no held_out.json")
    policy = load_plain(context.folder / MODEL_FOLDER)
    reference = load_plain(context.input(options.from_))
    # Where nothing was held out, the loss is still compared, on a few of the pairs that were trained.
    sources, most = (options.held_out, None) if options.held_out else (options.data, _TRL_PAIRS)
    for number, (source, use) in enumerate(sources.items()):
        budget = Budget(policy, 2 * len(sources))
        pairs = list(islice(_affordable_pairs(use, reader, options.max_length, budget), most))
        after, before = scored(policy, pairs), scored(reference, pairs)
        where = f" ({source})" if len(sources) > 1 else ""
        if options.held_out and tables is not None:
            for whose, ours, when in (("policy", after, "after"), ("reference", before, "before")):
                claim, bound = f"{whose} log-probs by transformers{where}", _rounding(options, when == "after")
                yield _compare_scores(claim, ours, [one.place for one in pairs], tables[when][source], bound)
            if len(pairs) == len(tables["after"][source]):
                yield from _compare_means(options, means(after.judged(options.loss, before)), record, where, len(pairs))
        yield from _unmoved(options.loss, before, where)
        if number == len(sources) - 1:  # TRL changes the models' forward pass: nothing asks them after it
            yield from _like_trl(options.loss, pairs, after.judged(options.loss, before), tokenizer, policy, reference)


def _like_trl(
    loss: Use[Loss],
    pairs: Sequence[AskedPair],
    judged: PreferenceLoss,
    tokenizer: PreTrainedTokenizerBase,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
) -> Iterator[Proof]:
    """The loss against TRL's own of that name, where there is one."""
    if trl_name(loss) is not None:
        places = trl_can_take({place: one.row for place, one in enumerate(pairs) if one.whole}, tokenizer)[:_TRL_PAIRS]
        if places:
            theirs = trl_losses(loss, [pairs[place].row for place in places], tokenizer, policy, reference)
            yield compare_with_trl(loss, judged.losses[places].tolist(), theirs)


def _expect(reader: TurnReader, row: Pair, length: int) -> Expected | None:
    """Both conversations of a pair; scored are turns of the assistant after the prompt."""
    prompt = reader.render(row.prompt, row.arguments, add_generation_prompt=True)
    found = {}
    for side in _SIDES:
        messages = (*row.prompt, *getattr(row, side))
        ids = reader.render(messages, row.arguments)
        turns = reader.turns(ids, messages)
        half = Half(ids, turns, learned_turns(turns, reader.tokens_within(ids, prompt))).cut(length)
        if not any(half.learned):
            return None
        found[side] = half
    one, other = found.values()
    # Answers that are the same, or that are cut to the same, prefer nothing.
    return None if (one.ids, one.learned) == (other.ids, other.learned) else found


def _published(row: Mapping[str, Any]) -> Published:
    return {side: (row[f"{side}_ids"], [bool(scored) for scored in row[f"{side}_mask"]]) for side in _SIDES}


@frozen
class Scores:
    """Log-probabilities and token counts of pairs, each of the shape (pairs,), in float64."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    @classmethod
    def of(cls, table: Sequence[Sequence[float]]) -> Scores:
        """From rows of (chosen, rejected, chosen tokens, rejected tokens)."""
        return cls(*torch.tensor(table, dtype=torch.float64).unbind(1))

    def judged(self, loss: Use[Loss], reference: Scores) -> PreferenceLoss:
        """What the loss makes of them as the policy's."""
        compared = loss.component.needs_reference
        return loss.component.loss(
            PreferenceBatch(
                policy_chosen=self.chosen,
                policy_rejected=self.rejected,
                reference_chosen=reference.chosen if compared else None,
                reference_rejected=reference.rejected if compared else None,
                chosen_tokens=self.chosen_tokens,
                rejected_tokens=self.rejected_tokens,
            ),
            loss.options,
        )


def means(answer: PreferenceLoss) -> dict[str, float]:
    """The measures of judged pairs; where both answers are rewarded alike, half of the pair counts as right."""
    found = {LOSS: float(answer.losses.mean())}
    if answer.chosen_rewards is not None and answer.rejected_rewards is not None:
        margins = answer.chosen_rewards - answer.rejected_rewards
        found |= {MARGIN: float(margins.mean()), ACCURACY: float((margins.sign() + 1).mean() / 2)}
    return found


def unmoved_loss(loss: Use[Loss]) -> float:
    """The loss of a pair where the policy is the reference."""
    same = Scores.of([[0.0, 0.0, 1.0, 1.0]])
    return float(same.judged(loss, same).losses)


def _first_step(options: PreferenceOptions, context: StageContext) -> Iterator[Proof]:
    """Before its first update, the policy is its reference."""
    if not options.loss.component.needs_reference:
        return
    first = next((event for event in context.events() if event.get("step") == 1), {})
    found, expected = float(first.get("loss", math.nan)), unmoved_loss(options.loss)
    bound = 1e-2  # kernels with and without a gradient may round otherwise, and bfloat16 rounds a lot
    if options.precision == "float32" and options.parallelism.device == "cpu":
        # Not at all where float32 holds the value, as APO's 1; a logarithm is rounded.
        bound = 0.0 if float(torch.tensor(expected, dtype=torch.float32)) == expected else 1e-6
    yield Proof.within(
        f"the first step's loss is {expected:.6g}, of no change",
        abs(found - expected),
        bound,
        note=f"{found!r} in step 1, not {expected!r}: the reference was not the starting model",
    )


def _measures(options: PreferenceOptions, record: Mapping[str, Any], tables: Mapping[str, Any]) -> Proof:
    """The measures made once more of the log-probabilities that were published with them."""
    found: dict[str, dict[str, Mapping[str, float]]] = {"before": {}, "after": {}}
    for when, sources in found.items():
        for source, table in tables[when].items():
            sources[source] = means(Scores.of(table).judged(options.loss, Scores.of(tables["before"][source])))
    error, place = measures_match(record, found)
    return Proof.within("measures are those of their pairs", error, 1e-6, unit="relative", note=place)


def _affordable_pairs(use: Use[Source], reader: TurnReader, length: int, budget: Budget) -> Iterator[AskedPair]:
    """The pairs of a source that are not left out and are told apart by turns, as many as a check can afford."""
    place = 0
    for row in use.component.read(use.options):
        read = pair(row)
        try:
            halves = _expect(reader, read, length)
        except NotTurnsError:  # counted where the sample is compared
            place += 1
            continue
        if halves is not None:
            if not budget.take(sum(len(half.ids) for half in halves.values())):
                return
            yield AskedPair(place, read, halves)
            place += 1


def scored(model: PreTrainedModel, held: Sequence[AskedPair]) -> Scores:
    """Summed log-probabilities of the scored tokens of each answer, one at a time."""
    table = []
    for one in held:
        sums, counts = [], []
        for side in _SIDES:
            half = one.halves[side]
            log_probs, _ = token_log_probs(model, half.ids)
            mask = log_probs.new_tensor(half.learned[1:])
            sums.append(float(log_probs @ mask))
            counts.append(float(mask.sum()))
        table.append([*sums, *counts])
    return Scores.of(table)


def _unmoved(loss: Use[Loss], reference: Scores, where: str) -> Iterator[Proof]:
    """The loss of real pairs where the policy is the reference: that of no change, to the bit."""
    if loss.component.needs_reference:
        expected, losses = unmoved_loss(loss), reference.judged(loss, reference).losses
        moved = losses != expected
        yield Proof.same(
            f"without a change the loss is {expected:.6g}{where}",
            int(moved.sum()),
            len(losses),
            of="pairs",
            note=f"pair {int(moved.int().argmax())}: {losses[moved].tolist()[:1]}",
        )


def _compare_means(
    options: PreferenceOptions, found: Mapping[str, float], record: Mapping[str, Any], where: str, pairs: int
) -> Iterator[Proof]:
    """The measures of all pairs, where nothing was rounded to bfloat16 on the way."""
    if _rounding(options, True) != _ROUNDING:
        return
    told = {measure["name"]: measure["after"] for measure in record["measures"]}
    for name, value in found.items():
        published = float(told.get(f"{name}{where}", math.nan))
        yield Proof.within(
            f"{name} by transformers{where}",
            abs(published - value),
            0.5 / pairs if name == ACCURACY else 1e-4 * max(1.0, abs(value)),
            note=f"{published:.6g} was published, {value:.6g} was found",
        )


def _rounding(options: PreferenceOptions, trained: bool) -> float:
    rounded = options.precision == "bfloat16" or (trained and options.save_precision == "bfloat16")
    return _BFLOAT16_ROUNDING if rounded else _ROUNDING


def _compare_scores(
    claim: str, ours: Scores, places: Sequence[int], table: Sequence[Sequence[float]], bound: float
) -> Proof:
    if not places or places[-1] >= len(table):
        return Proof(claim=claim, holds=False, measured=f"{len(places)} pairs now, {len(table)} were measured")
    theirs = Scores.of([table[place] for place in places])
    mine, told = (torch.stack([one.chosen, one.rejected], dim=1) for one in (ours, theirs))
    counts = (ours.chosen_tokens != theirs.chosen_tokens) | (ours.rejected_tokens != theirs.rejected_tokens)
    distances = (mine - told).abs()
    at, side = divmod(int(distances.argmax()), 2)
    note = (
        f"the most in pair {places[at]} of those kept, {_SIDES[side]}: {told[at, side]:.6g}, now {mine[at, side]:.6g}"
    )
    if counts.any():
        note = f"pair {places[int(counts.int().argmax())]} of those kept has another number of scored tokens"
    proof = Proof.within(
        claim,
        math.inf if counts.any() else float(distances.sum() / mine.abs().sum()),
        bound,
        unit="relative",
        note=note,
    )
    return evolve(proof, measured=f"{proof.measured}, {len(places)} of {len(table)} pairs")
