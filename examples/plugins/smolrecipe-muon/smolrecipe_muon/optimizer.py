"""Two of torch's optimizers behind one: what a training engine keeps, saves and schedules is a single optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from smolrecipe import StageError

ALGORITHMS: dict[str, Callable[..., Optimizer]] = {"muon": Muon, "adamw": AdamW}


class MuonWithAdamW(Optimizer):
    """Steps each parameter group with the algorithm that its key ``algorithm`` names: ``muon`` or ``adamw``.

    The groups and the state are this optimizer's own, and the two algorithms work on these very objects. So learning
    rates that a schedule writes, and state that is loaded, are what they see.
    """

    def __init__(self, params: Iterable[dict[str, Any]]) -> None:
        """Take the groups.

        Raises:
            StageError: for a group that Muon is to train and that holds something else than matrices.
        """
        super().__init__(params, {})
        _refuse_no_matrices(self.param_groups)
        self._algorithms: dict[str, Optimizer] = {}
        for name, algorithm in ALGORITHMS.items():
            if mine := self._groups(name):
                # Enters its defaults into the groups, which stay the same objects.
                self._algorithms[name] = algorithm(mine)

    def _groups(self, algorithm: str) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["algorithm"] == algorithm]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step with both algorithms."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, algorithm in self._algorithms.items():
            # Loading a state replaces groups and state, so the algorithms get them anew.
            algorithm.param_groups, algorithm.state = self._groups(name), self.state
            algorithm.step()
        return loss


def _refuse_no_matrices(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        if group["algorithm"] not in ALGORITHMS:
            raise ValueError(f"unknown algorithm '{group['algorithm']}'; known: {', '.join(ALGORITHMS)}")
        for index, parameter in enumerate(group["params"]):
            if group["algorithm"] == "muon" and parameter.ndim != 2:
                name = group["param_names"][index] if "param_names" in group else "a parameter"
                raise StageError(
                    f"optimizer 'muon' trains matrices and {name} has the shape {list(parameter.shape)}: "
                    "add a pattern that finds its name to 'adamw_for'"
                )
