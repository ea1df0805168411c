"""Hours and cost: held against the published figures of SmolLM3 and the playbook, and counted by hand."""

from __future__ import annotations

import pytest
from attrs import evolve

from smolrecipe import Devices, Workload
from smolrecipe.planning.backtest import LLAMA_1B, SMOLLM3, backtest
from smolrecipe.planning.decoder_size import flops_per_token, parameters_of, rope_theta
from smolrecipe.planning.estimate import estimate
from smolrecipe.planning.hardware import GPUS, MFU, Assumptions
from smolrecipe.planning.workloads import flops_of, tokens_of

STEPS, TOKENS_PER_STEP = 4_720_000, 2_359_296
PRETRAINING = Workload(steps=STEPS, tokens_per_step=TOKENS_PER_STEP, row_length=4096, model=SMOLLM3)
ALL = Devices(processes=384, device="cuda", memory_gib=80)


def hours(workload: Workload, devices: Devices = ALL, **assumed: object) -> float:
    found = estimate(workload, devices, Assumptions(**assumed))
    assert found is not None
    return found.hours


def test_operations_of_a_token_are_the_published_ones() -> None:
    """Facts: 3,075,098,624 parameters; 18,451 million for them alone, 20,262 with causal attention at 4096."""
    assert parameters_of(SMOLLM3) == 3_075_098_624
    assert flops_per_token(SMOLLM3, 0) == pytest.approx(18_451e6, rel=5e-5)
    assert flops_per_token(SMOLLM3, 4096) == pytest.approx(20_262e6, rel=5e-5)
    # 36 layers, 16 heads, 2 * 128 products of queries with keys and of weights with values, half of the row.
    assert flops_per_token(SMOLLM3, 65536) == 6 * (3_075_098_624 + 36 * 16 * 256 * 65536 / 2)
    # Llama 3.2 1B has 1,235,814,400 parameters by its card's config.json.
    assert parameters_of(LLAMA_1B) == 1_235_814_400
    untied = {**SMOLLM3, "tie_word_embeddings": False}
    assert flops_per_token(untied, 4096) == flops_per_token(SMOLLM3, 4096)  # a table that is looked up multiplies none


def test_an_unknown_family_has_no_number() -> None:
    assert flops_per_token({**SMOLLM3, "model_type": "mixtral"}, 4096) is None
    assert flops_per_token({**SMOLLM3, "hidden_size": "wide"}, 4096) is None
    assert flops_per_token({**SMOLLM3, "num_attention_heads": 0}, 4096) is None
    assert estimate(evolve(PRETRAINING, model={}), ALL, Assumptions()) is None


def test_the_estimate_is_that_of_the_published_run() -> None:
    """Facts: 384 H100, 24 days (blog), 13,985 tokens a second and GPU, 221,184 GPU hours, 28.6 % of 989.5 TFLOP/s."""
    assert tokens_of(PRETRAINING) == 11_135_877_120_000
    found = hours(PRETRAINING)
    assert found / 24 == pytest.approx(24, rel=0.01)
    assert found * 384 == pytest.approx(221_184, rel=0.01)
    assert STEPS * TOKENS_PER_STEP / (found * 3600 * 384) == pytest.approx(13_985, rel=0.01)
    assert (MFU, GPUS["h100"].tflops) == (0.286, 989.5)


def test_the_error_bar_is_what_published_runs_are_off_by() -> None:
    """Facts: 276,480 GPU hours with downtime, 13,500 to 14,000 tokens/s. Playbook: a 1B model at 42,000 tokens/s."""
    bar = backtest(Assumptions())
    errors = {item.anchor.name: item.error for item in bar.tried}
    assert errors["SmolLM3, 384 H100, 24 days: the default MFU"] == pytest.approx(0.0013, abs=5e-4)
    assert errors["the same with its downtime, 30 days"] == pytest.approx(-0.199, abs=1e-3)
    assert errors["the same at 13,500 tokens/s a GPU"] == pytest.approx(-0.033, abs=1e-3)
    assert errors["1B ablation, 45B tokens, 42,000 tokens/s a GPU"] == pytest.approx(0.22, abs=5e-3)
    assert bar.low == pytest.approx(1 / 1.22, rel=5e-3) and bar.high == pytest.approx(276_480 / 221_480, rel=1e-3)
    # 45B tokens at 42,000 a second on 8 GPUs are the day and a half that the playbook tells.
    (ablation,) = [item.anchor for item in bar.tried if item.anchor.tokens == 45e9]
    assert ablation.gpu_hours / 8 / 24 == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize(("mfu", "low", "high"), [(0.1, 0.2865, 1), (0.5, 1, 2.1824)])
def test_who_assumes_what_no_run_has_reached_is_told_by_the_bar(mfu: float, low: float, high: float) -> None:
    bar = backtest(Assumptions(mfu=mfu))
    assert (bar.low, bar.high) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))


def test_hours_and_cost_by_hand() -> None:
    """1e18 operations on two GPUs that reach half of 1 PFLOP/s: 1000 seconds each."""
    workload = Workload(steps=10, tokens_per_step=10**6, flops_per_token=1e11, row_length=8)
    two = Devices(processes=2, device="cuda")
    found = estimate(workload, two, Assumptions(mfu=0.5, peak_tflops=1000, price=3.6))
    assert found is not None
    assert (found.hours, found.gpu_hours) == (pytest.approx(1000 / 3600), pytest.approx(2000 / 3600))
    assert found.cost == pytest.approx(2.0) and not found.at_most
    again = evolve(workload, more_work=1 / 3)
    assert flops_of(again) == pytest.approx(4 / 3 * 1e18)
    assert found.share(0.25).cost == pytest.approx(0.5)


def test_what_is_not_known_has_no_hours() -> None:
    assert estimate(evolve(PRETRAINING, steps=None), ALL, Assumptions()) is None
    assert estimate(PRETRAINING, Devices(), Assumptions()) is None
    single = evolve(PRETRAINING, precision="float32")
    assert estimate(single, ALL, Assumptions()) is None
    given = Assumptions(peak_tflops=66.9, peak_is_given=True)
    assert estimate(single, ALL, given) is not None
    assert tokens_of(Workload(tokens=7, steps=3, tokens_per_step=5)) == 7


def test_theta_wherever_a_config_keeps_it() -> None:
    assert rope_theta({"rope_parameters": {"rope_theta": 5e6}, "rope_theta": 1}) == 5e6
    assert rope_theta({"rope_theta": 50000}) == 50000
    assert rope_theta({"rope_parameters": None, "rope_theta": True}) is None
