"""Schedules against the published rules, transformers, torch and torchtitan, step by step."""

import math
import subprocess
import sys

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import (
    TrainingArguments,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

import smolrecipe_schedules
from smolrecipe_schedules.options import DecayOptions, WsdOptions

SCHEDULES = {schedule.name: schedule for schedule in smolrecipe_schedules.smolrecipe_schedules()}
PRETRAINING = WsdOptions(warmup_steps=2000, decay_start=4198001, decay_steps=522000)
LONG_CONTEXT = WsdOptions(warmup_steps=1000, decay_start=1000, decay_steps=19000, decay_style="cosine")


def factor(name, options, step, steps):
    return SCHEDULES[name].factor(options, step, steps)


def published_rule(step, warmup, decay_start, decay_steps, style, lr, min_lr):
    """nanotron's rule as published with the SmolLM3 recipes, in learning rates."""
    if step <= warmup:
        return lr * step / warmup
    if step < decay_start:
        return lr
    if step < decay_start + decay_steps:
        if style == "linear":
            return min_lr + (lr - min_lr) * (decay_steps - (step - decay_start)) / decay_steps
        return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * (step - decay_start) / decay_steps)) / 2
    return min_lr


def rates(schedule_from, steps):
    """The rate of each update of a loop around a real optimizer whose peak rate is 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = schedule_from(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    "step", [1, 2, 1999, 2000, 2001, 3450000, 3450001, 4198000, 4198001, 4198002, 4459001, 4719999, 4720000]
)
def test_pretraining_follows_the_published_rule(step):
    expected = published_rule(step, 2000, 4198001, 522000, "linear", 2e-4, 0.0)
    assert 2e-4 * factor("wsd", PRETRAINING, step, 4720000) == pytest.approx(expected, rel=1e-9)


def test_pretraining_landmarks():
    at = {step: factor("wsd", PRETRAINING, step, 4720000) for step in (1, 2000, 4198001, 4459001, 4720000, 4720001)}
    assert at[1] == 1 / 2000
    assert at[2000] == at[4198001] == 1.0
    assert at[4459001] == pytest.approx(0.5)
    assert at[4720000] == pytest.approx(1 / 522000)
    assert at[4720001] == 0.0


@pytest.mark.parametrize("step", [1, 999, 1000, 1001, 1002, 10500, 19999, 20000, 22000])
def test_long_context_follows_the_published_rule(step):
    expected = published_rule(step, 1000, 1000, 19000, "cosine", 2e-5, 0.0)
    assert 2e-5 * factor("wsd", LONG_CONTEXT, step, 20000) == pytest.approx(expected, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("style", ["linear", "cosine"])
def test_every_step_of_a_short_run_follows_the_published_rule(style):
    options = WsdOptions(warmup_steps=7, decay_start=20, decay_steps=11, decay_style=style, min_factor=0.2)
    for step in range(1, 41):
        expected = published_rule(step, 7, 20, 11, style, 5e-4, 1e-4)
        assert 5e-4 * factor("wsd", options, step, 40) == pytest.approx(expected, rel=1e-12)


def test_wsd_without_warmup_starts_at_the_peak():
    options = WsdOptions(warmup_steps=0, decay_start=3, decay_steps=2)
    assert [factor("wsd", options, step, 5) for step in range(1, 6)] == [1.0, 1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("style", ["linear", "cosine", "sqrt"])
def test_wsd_equals_torchtitan_where_the_decay_ends_with_the_run(style):
    from torchtitan.components.optimizer.lr_scheduler import LRSchedulersContainer

    steps, decay = 40, 10
    config = LRSchedulersContainer.Config(warmup_steps=5, decay_ratio=0.25, decay_type=style, min_lr_factor=0.1)
    theirs = rates(lambda optimizer: config.build(optimizers=[optimizer], training_steps=steps), steps)
    options = WsdOptions(
        warmup_steps=5, decay_start=steps + 1 - decay, decay_steps=decay, decay_style=style, min_factor=0.1
    )
    ours = [factor("wsd", options, step, steps) for step in range(1, steps + 1)]
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("ratio", "steps"), [(0.03, 100), (0.1, 57), (0.0, 10), (0.5, 9)])
def test_cosine_gives_the_rates_of_transformers_trainer(ratio, steps, tmp_path):
    """Step counts from 1; transformers' ``LambdaLR`` has index step - 1 in that update."""
    arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=ratio, use_cpu=True, report_to=[])
    warmup = arguments.get_warmup_steps(steps)
    theirs = rates(lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, warmup, steps, min_lr_rate=0.1), steps)
    for options in (
        DecayOptions(warmup_ratio=ratio, min_factor=0.1),
        DecayOptions(warmup_steps=warmup, min_factor=0.1),
    ):
        ours = [factor("cosine", options, step, steps) for step in range(1, steps + 1)]
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-15)


def test_cosine_without_warmup_equals_torch():
    theirs = rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=30, eta_min=0.25), 30)
    ours = [factor("cosine", DecayOptions(min_factor=0.25), step, 30) for step in range(1, 31)]
    # torch multiplies its way from step to step; 30 roundings of float64.
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 12), (5, 30), (29, 30)])
def test_linear_gives_the_rates_of_transformers_trainer(warmup, steps):
    theirs = rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, warmup, steps), steps)
    ours = [factor("linear", DecayOptions(warmup_steps=warmup), step, steps) for step in range(1, steps + 1)]
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-15)


def test_linear_ends_at_its_minimum():
    options = DecayOptions(min_factor=0.4)
    assert [factor("linear", options, step, 3) for step in (1, 2, 3, 4, 9)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.4])


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_run_that_is_all_warmup_does_not_divide_by_zero(name):
    options = DecayOptions(warmup_steps=4)
    assert [factor(name, options, step, 4) for step in range(1, 6)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_contradictions_are_reported_before_anything_runs():
    assert not list(SCHEDULES["wsd"].check(PRETRAINING))
    (problem,) = SCHEDULES["wsd"].check(WsdOptions(warmup_steps=10, decay_start=5, decay_steps=1))
    assert "within the warmup" in problem
    assert not list(SCHEDULES["cosine"].check(DecayOptions(warmup_steps=3)))
    (problem,) = SCHEDULES["cosine"].check(DecayOptions(warmup_steps=3, warmup_ratio=0.1))
    assert "leave one out" in problem


def test_schedules_need_no_engine():
    code = "import sys, smolrecipe_schedules; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
