"""``trl.DPOTrainer`` with any preference loss in place of its own list of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn.utils.rnn import pad_sequence  # noqa: TID253
from transformers import PreTrainedModel  # noqa: TID253
from trl import DPOTrainer  # noqa: TID253

from smolrecipe import Loss, PreferenceBatch, PreferenceLoss, StageError, Use
from smolrecipe_trl.trainer_parts import RecipeTrainer

COLUMNS = ("chosen_ids", "chosen_mask", "rejected_ids", "rejected_mask")
"""A tokenised pair: each conversation whole, and 1 where the assistant's answer is scored."""


class PreferenceTrainer(RecipeTrainer, DPOTrainer):
    """TRL's trainer on pairs that are tokenised already, with the recipe's loss.

    The loss is computed in ``compute_loss``, which ``transformers`` offers to be overridden; the forward passes, the
    reference and all that lies around them are TRL's. Its own losses, their weights, f-divergences and length
    desensitisation are not used.

    Args:
        reference: the frozen model, ``None`` for a loss that needs none.
    """

    def __init__(
        self, *args: Any, loss: Use[Loss], model: PreTrainedModel, reference: PreTrainedModel | None, **kwargs: Any
    ) -> None:
        self._recipe_loss = loss
        # Without a model to hold on to, TRL would load one from the policy's folder.
        held = _NoReference(model) if reference is None else reference
        super().__init__(*args, model=model, ref_model=held, **kwargs)
        if reference is None:
            self.ref_model = None
        if self.aux_loss_enabled:
            raise StageError("this model has a router loss of its own, which a preference loss would drop")

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The mean of the recipe's loss over the pairs of a batch (see ``collate_pairs``)."""
        reference = (None, None) if self.ref_model is None else self.compute_ref_log_probs(self.ref_model, inputs)
        policy = answer_log_probs(model, inputs)
        batch = preference_batch(policy, reference, answer_tokens(inputs))
        answer = per_pair_loss(self._recipe_loss, batch)
        self._note(batch, answer)
        return answer.losses.mean()

    def _note(self, batch: PreferenceBatch, answer: PreferenceLoss) -> None:
        """Add to the metrics that TRL averages over a step and logs."""
        values = {"logps/chosen": batch.policy_chosen, "logps/rejected": batch.policy_rejected}
        if answer.chosen_rewards is not None and answer.rejected_rewards is not None:
            margins = answer.chosen_rewards - answer.rejected_rewards
            values |= {"rewards/margins": margins, "rewards/accuracies": wins(margins)}
        gathered = self.accelerator.gather(torch.stack([value.detach().float() for value in values.values()], dim=1))
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, mean in zip(values, gathered.mean(0).tolist(), strict=True):
            metrics[name].append(mean)


class _NoReference(nn.Module):
    """Takes the place of a reference model that is never asked."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.config = policy.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a loss that needs no reference must not compute one."""
        raise RuntimeError("a loss that needs no reference asked for one")


def collate_pairs(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Tensor]:
    """Pairs as tensors of shape (2 x pairs, length): first all chosen, then all rejected, padded on the right."""
    halves = [(row[f"{side}_ids"], row[f"{side}_mask"]) for side in ("chosen", "rejected") for row in rows]

    def padded(values: Sequence[Any], fill: int) -> Tensor:
        return pad_sequence([torch.as_tensor(value) for value in values], batch_first=True, padding_value=fill)

    ids = [ids for ids, _ in halves]
    return {
        "input_ids": padded(ids, pad_token_id).long(),
        "attention_mask": padded([torch.ones(len(one), dtype=torch.long) for one in ids], 0),
        "completion_mask": padded([mask for _, mask in halves], 0).long(),
    }


def answer_log_probs(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities in nats of the chosen and of the rejected answers, each of shape (pairs,)."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,
    )
    chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)
    return chosen, rejected


def answer_tokens(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Counts of the scored tokens of the chosen and of the rejected answers, each of shape (pairs,)."""
    chosen, rejected = inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)
    return chosen, rejected


def preference_batch(
    policy: tuple[Tensor, Tensor], reference: tuple[Tensor | None, Tensor | None], tokens: tuple[Tensor, Tensor]
) -> PreferenceBatch:
    """A batch of (chosen, rejected) pairs."""
    return PreferenceBatch(
        policy_chosen=policy[0],
        policy_rejected=policy[1],
        reference_chosen=reference[0],
        reference_rejected=reference[1],
        chosen_tokens=tokens[0],
        rejected_tokens=tokens[1],
    )


def per_pair_loss(loss: Use[Loss], batch: PreferenceBatch) -> PreferenceLoss:
    """What the loss makes of the batch.

    Raises:
        StageError: unless it is one differentiable number for each pair.
    """
    answer = loss.component.loss(batch, loss.options)
    shape = tuple(batch.policy_chosen.shape)
    for name in ("losses", "chosen_rewards", "rejected_rewards"):
        value = getattr(answer, name)
        if value is not None and tuple(value.shape) != shape:
            found = tuple(value.shape)
            raise StageError(f"loss '{loss.name}' returned {name} of shape {found} for pairs of shape {shape}")
    if batch.policy_chosen.requires_grad and not answer.losses.requires_grad:
        raise StageError(f"loss '{loss.name}' does not depend on the policy: nothing would be learned")
    return answer


def wins(margins: Tensor) -> Tensor:
    """1 where the chosen answer is rewarded more, 0 where less, and half where a policy still equals its reference."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()
