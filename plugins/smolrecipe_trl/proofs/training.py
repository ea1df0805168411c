"""What can be proven of both stages: the learning rate of every step, the tokenizer that was published, and how much
of a check a model of its size allows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Proof, StageContext
from smolrecipe.stage import METRICS_FILE, MODEL_FOLDER
from smolrecipe_trl.chat_templates import template_name, template_text
from smolrecipe_trl.held_out import HELD_OUT_FILE
from smolrecipe_trl.options import TrainingOptions
from smolrecipe_trl.sample_order import Steps

_RATE_BOUND = 1e-6
_OPERATIONS = 5e13
"""Floating point operations of one check: some minutes on a CPU, all held-out rows of a small model."""


def verify_rate(options: TrainingOptions, context: StageContext, steps: Steps) -> Iterator[Proof]:
    """The learning rate of every step against the schedule, and that there is one line for each step."""
    logged = [event for event in context.events() if "step" in event]
    numbers = [int(event["step"]) for event in logged]
    wanted = list(range(1, steps.run + 1))
    broken = next((place for place, pair in enumerate(zip(numbers, wanted, strict=False)) if pair[0] != pair[1]), None)
    if broken is None and len(numbers) != len(wanted):
        broken = min(len(numbers), len(wanted))
    yield Proof(
        claim="every step was logged once",
        holds=broken is None,
        measured=f"{len(set(numbers) & set(wanted)):,} of {steps.run:,} steps, {len(numbers):,} lines",
        bound=f"{steps.run:,}",
        note="" if broken is None else f"line {broken + 1} of the steps in {METRICS_FILE} is not step {broken + 1}",
    )
    peak = _peak_rate(options, context.folder / MODEL_FOLDER)
    factor, use = options.schedule.component.factor, options.schedule.options
    worst, place = 0.0, ""
    for event in logged:
        step = int(event["step"])
        expected = peak * factor(use, min(step, steps.scheduled), steps.scheduled)
        rate = float(event.get("lr", math.nan))
        error = abs(rate - expected) / abs(expected) if expected else (0.0 if rate == 0 else math.inf)
        error = math.inf if math.isnan(error) else error
        if error > worst:
            worst, place = error, f"step {step}: {rate:.6g}, not {expected:.6g}"
    if logged:
        yield Proof.within("the learning rate is the schedule's", worst, _RATE_BOUND, unit="relative", note=place)


def _peak_rate(options: TrainingOptions, folder: Path) -> float:
    """The rate of the first group that takes a parameter of the model, which is the one that is logged."""
    names = [name for path in folder.glob("*.safetensors") for name in safe_open(path, "pt").keys()]  # noqa: SIM118
    groups = options.optimizer.component.groups(options.optimizer.options)
    taken = [next((place for place, group in enumerate(groups) if re.search(group.pattern, name)), 0) for name in names]
    return float(groups[min(taken, default=0)].settings["lr"])


def load_published_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an artifact, as anybody loads it."""
    return AutoTokenizer.from_pretrained(folder / MODEL_FOLDER, local_files_only=True, trust_remote_code=False)


def verify_tokenizer(
    options: TrainingOptions, context: StageContext, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Proof]:
    """The chat template and the end of a turn that were asked for, and the starting model's vocabulary."""
    asked, found = template_text(options.chat_template), tokenizer.chat_template or ""
    differing = sum(one != other for one, other in zip(asked, found, strict=False)) + abs(len(asked) - len(found))
    yield Proof.same(
        "the chat template is the one asked for",
        differing,
        len(asked),
        of="characters",
        note=f"{template_name(options.chat_template)} is not what lies in {MODEL_FOLDER}/chat_template.jinja",
    )
    end = tokenizer.convert_tokens_to_ids(options.eos_token)
    said = {"tokenizer": tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        path = context.folder / MODEL_FOLDER / name
        said[name] = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    wrong = {name: value for name, value in said.items() if value != end}
    yield Proof.same(
        "the end of a turn ends generation",
        len(wrong),
        len(said),
        of="files",
        note=f"{options.eos_token} is {end}, but the eos of {', '.join(f'{n} is {v}' for n, v in wrong.items())}",
    )
    start = context.input(options.from_)
    before = AutoTokenizer.from_pretrained(start, local_files_only=True, trust_remote_code=False).get_vocab()
    after = tokenizer.get_vocab()
    moved = sorted(token for token in before.keys() | after.keys() if before.get(token) != after.get(token))
    yield Proof.same(
        "the vocabulary is the starting model's", len(moved), len(before), of="tokens", note=f"the first is {moved[:1]}"
    )


def load_plain(folder: Path) -> PreTrainedModel:
    """A published model as anybody loads it, in float32, ready to be asked."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()


class Budget:
    """How much of a check a model of this size allows: always a first row, and as many more as fit."""

    def __init__(self, model: PreTrainedModel, shares: int) -> None:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        self._tokens = _OPERATIONS / shares / (2 * parameters)

    def take(self, tokens: int) -> bool:
        """Whether so many tokens may be sent through the model, as there was something left."""
        left, self._tokens = self._tokens > 0, self._tokens - tokens
        return left


@torch.no_grad()
def token_log_probs(model: PreTrainedModel, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every token but the first, and whether it is the most likely one; one row, no padding."""
    row = torch.tensor([list(ids)])
    log_probs = torch.log_softmax(model(input_ids=row).logits[0, :-1].double(), dim=-1)
    chosen = log_probs.gather(1, row[0, 1:, None])[:, 0]
    return chosen, log_probs.argmax(dim=1) == row[0, 1:]


def read_held_out(folder: Path) -> Mapping[str, Any] | None:
    """The numbers that measures are made of, row by row; ``None`` where the artifact has none."""
    path = folder / HELD_OUT_FILE
    return json.loads(path.read_text()) if path.is_file() else None


def measures_match(
    record: Mapping[str, Any], means: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> tuple[float, str]:
    """The largest relative difference between published measures and those made of rows once more, and its place.

    Args:
        means: ``"before"`` and ``"after"`` -> source -> name of a measure -> value.
    """
    published = {measure["name"]: measure for measure in record["measures"]}
    several = len(means["after"]) > 1
    worst, place = 0.0, ""
    for when, sources in means.items():
        for source, values in sources.items():
            for name, value in values.items():
                full = f"{name} ({source})" if several else name
                found = published.get(full, {}).get(when)
                error = math.inf if found is None else abs(found - value) / max(abs(value), 1e-3)
                error = math.inf if math.isnan(error) else error
                if error > worst:
                    worst, place = error, f"{full} {when}: {found} was published, its rows say {value:.6g}"
    return worst, place
