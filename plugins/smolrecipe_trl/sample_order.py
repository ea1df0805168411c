"""Which row comes when.

Every pass is a permutation, passes follow each other without a break and steps are cut from that one stream: so no step
is short, and the steps are the same for every number of processes.
"""

from __future__ import annotations

import math

import numpy
from attrs import frozen

from smolrecipe import StageError
from smolrecipe_trl.options import SftOptions, TrainingOptions


@frozen
class Steps:
    """How long training is: ``run`` steps of a schedule that is laid out for ``scheduled``."""

    run: int
    scheduled: int


def plan_steps(rows: int, options: TrainingOptions) -> Steps:
    """The steps that ``epochs`` or ``max_steps`` mean for ``rows`` rows. The last is filled from the next pass."""

    def steps(epochs: float) -> int:
        return math.ceil(round(epochs * rows / options.global_batch, 9))

    if options.epochs is None:
        assert options.max_steps is not None
        return Steps(options.max_steps, options.max_steps)
    scheduled = steps(options.epochs)
    stop_after = options.stop_after if isinstance(options, SftOptions) else None
    return Steps(scheduled if stop_after is None else steps(stop_after), scheduled)


def row_order(rows: int, count: int, seed: int) -> numpy.ndarray:
    """The first ``count`` rows, of shape (count,), of an endless stream of permutations of ``rows`` rows.

    Raises:
        StageError: when there is no row.
    """
    if not rows:
        raise StageError("there is no row to train on")
    passes = [numpy.random.default_rng([seed, number]).permutation(rows) for number in range(math.ceil(count / rows))]
    return numpy.concatenate(passes)[:count]


def accumulation(options: TrainingOptions, world_size: int) -> int:
    """Batches that each process computes before a step.

    Raises:
        StageError: when the processes that run cannot share a step evenly.
    """
    rows = options.micro_batch * world_size
    if options.global_batch % rows:
        raise StageError(
            f"a step of {options.global_batch} rows (global_batch) cannot be shared evenly by {world_size} process(es) "
            f"that compute {options.micro_batch} at once (micro_batch)"
        )
    return options.global_batch // rows
