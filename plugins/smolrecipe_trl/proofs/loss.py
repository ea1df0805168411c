"""A preference loss against the one that TRL has under the same name, computed by TRL's own trainer."""

from __future__ import annotations

from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import torch  # noqa: TID253
from datasets import Dataset  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253
from trl import DPOConfig, DPOTrainer  # noqa: TID253

from smolrecipe import Loss, Proof, Use
from smolrecipe_trl.control_tokens import ControlTokens
from smolrecipe_trl.conversations import Pair

TRL_LOSSES = {"apo_zero": "apo_zero", "apo_down": "apo_down", "dpo": "sigmoid", "ipo": "ipo"}
"""Names of losses that TRL computes too, and what it calls them."""

_KNOWN_OPTIONS = {"beta", "label_smoothing"}
_BOUND = 1e-4
"""Of losses near 1: float32 rounding of log-probabilities summed over answers of hundreds of tokens."""


def trl_name(loss: Use[Loss]) -> str | None:
    """What TRL calls this loss; ``None`` if it has none, or none with these options."""
    options = {field.name for field in attrs.fields(type(loss.options))} if attrs.has(type(loss.options)) else set()
    return TRL_LOSSES.get(loss.name) if options <= _KNOWN_OPTIONS else None


def trl_can_take(pairs: Mapping[int, Pair], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The numbers of the pairs that TRL renders and scores as this plugin does.

    It scores whatever follows the prompt, so answers have to be one message; it takes tools another way; and a data set
    would fill template arguments that only some rows have with ``None``, so all have to name the same; and control
    tokens that a message spells, it takes for control tokens.
    """
    control_tokens = ControlTokens(tokenizer)
    simple = {
        number: frozenset(row.arguments)
        for number, row in pairs.items()
        if len(row.chosen) == len(row.rejected) == 1
        and "tools" not in row.arguments
        and not control_tokens.spelled_in([*row.prompt, *row.chosen, *row.rejected])
    }
    first = next(iter(simple.values()), None)
    return [number for number, keys in simple.items() if keys == first]


@torch.no_grad()
def trl_losses(
    loss: Use[Loss],
    pairs: list[Pair],
    tokenizer: PreTrainedTokenizerBase,
    policy: PreTrainedModel,
    reference: PreTrainedModel,
) -> list[float]:
    """What TRL's trainer makes of each pair: it renders, tokenises and scores them by itself.

    The models are TRL's afterwards: it changes their forward pass.
    """
    name = trl_name(loss)
    assert name is not None
    rows = [
        {
            **{side: [dict(message) for message in getattr(row, side)] for side in ("prompt", "chosen", "rejected")},
            "chat_template_kwargs": dict(row.arguments),
        }
        for row in pairs
    ]
    if not pairs[0].arguments:
        rows = [{key: value for key, value in row.items() if key != "chat_template_kwargs"} for row in rows]
    with TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            loss_type=name,
            **{key: getattr(loss.options, key) for key in _KNOWN_OPTIONS if hasattr(loss.options, key)},
            max_length=None,
            max_steps=1,
            per_device_train_batch_size=1,
            train_sampling_strategy="sequential",
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = DPOTrainer(
            model=policy,
            ref_model=reference,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.model.eval()
        return [float(trainer.compute_loss(trainer.model, batch)) for batch in trainer.get_train_dataloader()]


def compare_with_trl(loss: Use[Loss], ours: list[float], theirs: list[float]) -> Proof:
    """The largest difference between the losses of the same pairs, relative where they are larger than 1."""
    errors: list[Any] = [abs(one - other) / max(1.0, abs(other)) for one, other in zip(ours, theirs, strict=True)]
    worst = max(range(len(errors)), key=errors.__getitem__)
    proof = Proof.within(
        f"the loss is TRL's {trl_name(loss)}",
        errors[worst],
        _BOUND,
        note=f"pair {worst} of those compared: {ours[worst]:.7g}, TRL's is {theirs[worst]:.7g}",
    )
    return attrs.evolve(proof, measured=f"{proof.measured}, {len(ours)} pairs")
