"""What torchtitan measures in a step, told to smolrecipe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torchtitan.components.metrics import MetricsProcessor  # noqa: TID253
from torchtitan.distributed.utils import dist_max  # noqa: TID253
from torchtitan.tools.utils import device_type  # noqa: TID253

from smolrecipe import StageError

ADVICE = "Lower the learning rate, lengthen the warm-up or look at the data"


class NotFiniteError(StageError):
    """Training has diverged."""


class StageMetrics(MetricsProcessor):
    """Hands every step's loss, gradient norm, rate and speed to ``report`` instead of printing them."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        """torchtitan's, with where to report to, how many tokens a step has over all processes, and how many steps of
        the trajectory came before this stage."""

        log_freq: int = 1
        disable_color_printing: bool = True
        report: Callable[..., None] | None = None
        tokens_per_step: int = 0
        before: int = 0

    def start_clock(self) -> None:
        """Count time from now on: what came before was no training."""
        self.time_last_log = time.perf_counter()

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Report a step. torchtitan calls this on every process, after the optimizer's step and before saving.

        Raises:
            StageError: when the gradients are not finite, so that the weights now are not either.
        """
        if not math.isfinite(grad_norm):
            raise not_finite("gradient norm", grad_norm, step - self.config.before)
        if self.parallel_dims.pp_enabled:
            # Only the pipeline's last stage knows the loss; the others say -1.
            loss = torch.tensor(global_avg_loss, device=device_type)
            global_avg_loss = dist_max(loss, self.parallel_dims.get_mesh("pp"))
        now = time.perf_counter()
        speed = self.config.tokens_per_step / (now - self.time_last_log)
        measured = {
            "loss": global_avg_loss,
            "grad_norm": grad_norm,
            "lr": max(value for name, value in (extra_metrics or {}).items() if name.startswith("lr/")),
            "tokens_per_second": speed,
        }
        if device_type == "cuda":
            achieved = self.num_flops_per_token * speed / self.parallel_dims.world_size
            measured["mfu"] = achieved / self.gpu_peak_flops
        self.time_last_log = now
        self.ntokens_since_last_log = 0
        self.data_loading_times.clear()
        if self.config.report is not None:
            self.config.report(step - self.config.before, **measured)


def not_finite(what: str, value: float, step: int) -> NotFiniteError:
    """The error for a step of the stage that broke the model."""
    return NotFiniteError(
        f"the {what} is {value} in step {step}; no checkpoint was kept from there on. {ADVICE} of this step"
    )
