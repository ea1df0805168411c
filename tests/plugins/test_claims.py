"""Claims judged on records whose numbers are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_1samp

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_claims import KV_CACHE, ClaimOptions, ClaimsOptions, check, run, verify
from smolrecipe_claims.intervals import Difference, paired_difference, verdict

BEFORE, AFTER = (0.95, 0.90, 0.99), (0.60, 0.71, 0.55)


def publish(root: Path, stage: str, summary: Mapping[str, Any], loss: float = 1.0, kv_heads: int = 4) -> None:
    (root / stage / "model").mkdir(parents=True)
    record = {
        "recipe": "claims",
        "stage": stage,
        "kind": "pretrain",
        "digest": "0" * 64,
        "parents": {},
        "options": {"use": "pretrain"},
        "plugins": {},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "measures": [
            {"name": "held-out loss", "before": 7.0, "after": loss, "better": "lower", "unit": "", "samples": 8}
        ],
        "summary": dict(summary),
    }
    (root / stage / "stage.json").write_text(json.dumps(record))
    config = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 16}
    (root / stage / "model" / "config.json").write_text(json.dumps(config))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scores: dict[str, Any] = {}
    for number, (before, after) in enumerate(zip(BEFORE, AFTER, strict=True), start=1):
        publish(tmp_path, f"full-{number}", {}, loss=1.0 + number / 100)
        publish(tmp_path, f"grouped-{number}", {}, loss=1.001 + number / 100, kv_heads=1)
        for stage, score in ((f"full-{number}", before), (f"grouped-{number}", after)):
            scores[stage] = {"needles": {"metric": "exact_match", "score": score, "stderr": 0.01, "samples": 64}}
    publish(tmp_path, "evaluate", {"scores": scores})
    return tmp_path


def refs(arm: str, count: int = 3) -> list[StageRef]:
    return [StageRef(f"{arm}-{number}") for number in range(1, count + 1)]


def claim(expect: str, measure: str = "needles", **more: Any) -> ClaimOptions:
    arms = more.pop("arms", {"full": refs("full"), "grouped": refs("grouped")})
    return ClaimOptions(says="it does.", measure=measure, arms=arms, expect=expect, **more)


def options(**claims: ClaimOptions) -> ClaimsOptions:
    chosen = ClaimsOptions(claims=claims, scores=[StageRef("evaluate")])
    assert not list(check(chosen))
    return chosen


def context(root: Path, said: list[str] | None = None) -> StageContext:
    (root / "claims").mkdir(exist_ok=True)
    stages = [path.name for path in root.iterdir() if path.name != "claims"]
    return StageContext(
        recipe="claims",
        stage="claims",
        folder=root / "claims",
        inputs={stage: root / stage for stage in stages},
        report=lambda event: said.append(str(event["message"])) if said is not None and "message" in event else None,
    )


def judge(root: Path, **claims: ClaimOptions) -> dict[str, Any]:
    artifact = run(options(**claims), context(root))
    return {name: result["verdict"] for name, result in artifact.summary["claims"].items()}


def test_each_expectation_meets_what_is_seen_what_is_not_and_the_opposite(root: Path) -> None:
    assert judge(
        root,
        fall=claim("falls"),
        rise=claim("rises"),
        wide=claim("stays", within=1.0),
        narrow=claim("stays", within=0.2),
        never=claim("stays", within=0.01),
        same_loss=claim("stays", "held-out loss", within=0.002),
        cache=claim("falls", KV_CACHE),
    ) == {
        "fall": "seen",
        "rise": "the opposite is seen",
        "wide": "seen",
        "narrow": "not seen at this size",  # the interval of three seeds reaches from -0.55 to -0.11
        "never": "the opposite is seen",
        "same_loss": "seen",
        "cache": "seen",
    }


def test_numbers_go_into_the_record_and_one_sentence_each(root: Path) -> None:
    said: list[str] = []
    artifact = run(options(fall=claim("falls"), cache=claim("falls", KV_CACHE)), context(root, said))
    result = artifact.summary["claims"]["fall"]
    low, high = ttest_1samp([b - a for a, b in zip(BEFORE, AFTER, strict=True)], 0).confidence_interval(0.95)
    assert result["interval"] == [pytest.approx(low), pytest.approx(high)]
    assert result["arms"]["full"]["models"] == {"full-1": 0.95, "full-2": 0.90, "full-3": 0.99}
    assert said[0] == (
        "fall: seen. it does. needles: 0.9467 ± 0.026 (full) -> 0.62 ± 0.047 (grouped); difference -0.3267, 95 % "
        f"interval {low:+.4g} to {high:+.4g}, 3 seeds"
    )
    # 2 x 3 layers x heads x 16 x 2 bytes
    assert [artifact.summary["claims"]["cache"]["arms"][arm]["mean"] for arm in ("full", "grouped")] == [768, 192]
    (fall, _) = artifact.measures
    assert (fall.name, fall.before, fall.after) == (
        "fall, seen: needles, difference",
        None,
        pytest.approx(-0.32667, 1e-4),
    )


def test_verify_reads_the_models_records_again_and_judges_by_other_means(root: Path) -> None:
    chosen = options(
        fall=claim("falls"), loss=claim("stays", "held-out loss", within=0.002), kv=claim("falls", KV_CACHE)
    )
    run(chosen, context(root))
    assert all(proof.holds for proof in verify(chosen, context(root)))
    file = root / "claims" / "claims.json"
    whole = file.read_text()
    for change in (
        lambda judged: judged["fall"]["arms"]["full"]["models"].update({"full-2": 0.5}),
        lambda judged: judged["loss"].update(verdict="not seen at this size"),
        lambda judged: judged["kv"].update(verdict="the opposite is seen"),
        lambda judged: judged["fall"].update(interval=[-0.5, -0.1]),
    ):
        judged = json.loads(whole)
        change(judged)
        file.write_text(json.dumps(judged))
        assert not all(proof.holds for proof in verify(chosen, context(root)))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_is_that_of_a_paired_t_test(confidence: float) -> None:
    found = paired_difference(BEFORE, AFTER, confidence)
    differences: Sequence[float] = [b - a for a, b in zip(BEFORE, AFTER, strict=True)]
    low, high = ttest_1samp(differences, 0.0).confidence_interval(confidence)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_no_difference_at_all_is_no_rise_but_stays() -> None:
    none = Difference(mean=0.0, low=0.0, high=0.0)
    assert verdict("rises", None, none) == verdict("falls", None, none) == "not seen at this size"
    assert verdict("stays", 0.01, none) == "seen"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"measure": "needle"}, "'needle' was not measured of 'full-1'; did you mean 'needles'?"),
        ({"measure": "gsm8k"}, f"'gsm8k' was not measured of 'full-1'; there are {KV_CACHE}, held-out loss, needles"),
    ],
)
def test_what_was_not_measured_is_told_with_what_was(root: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(StageError) as caught:
        run(options(it=claim("falls", **change)), context(root))
    assert str(caught.value) == told


def test_a_measure_of_two_origins_is_refused(root: Path) -> None:
    scores = {"full-1": {"held-out loss": {"score": 0.5}}}
    publish(root, "other", {"scores": scores})
    chosen = ClaimsOptions(claims={"it": claim("falls", "held-out loss")}, scores=[StageRef("other")])
    with pytest.raises(
        StageError, match="'held-out loss' of 'full-1' was measured by its own stage 'full-1' and by 'oth"
    ):
        run(chosen, context(root))


def test_a_number_that_is_none_is_refused(root: Path) -> None:
    record = json.loads((root / "evaluate" / "stage.json").read_text())
    record["summary"]["scores"]["full-2"]["needles"]["score"] = 1e999
    (root / "evaluate" / "stage.json").write_text(json.dumps(record).replace("Infinity", "1e999"))
    with pytest.raises(
        StageError, match="'needles' of 'full-2', measured by 'evaluate', is inf: that is nothing to comp"
    ):
        run(options(it=claim("falls")), context(root))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (claim("falls", arms={"one": refs("full")}), "claim 'it' compares two arms, and has 1"),
        (
            claim("falls", arms={"full": refs("full"), "grouped": refs("grouped", 2)}),
            "the arms of claim 'it' have different numbers of models ('full' 3, 'grouped' 2): they are compared in "
            "pairs",
        ),
        (
            claim("falls", arms={"full": refs("full", 1), "grouped": refs("grouped", 1)}),
            "claim 'it' has one pair of models: an error bar takes two seeds at least",
        ),
        (claim("stays"), "claim 'it' expects that its measure stays, which needs 'within'"),
        (claim("falls", within=0.1), "claim 'it' expects that its measure falls, which is not judged by 'within'"),
    ],
)
def test_arms_that_cannot_be_compared_are_told(wrong: ClaimOptions, told: str) -> None:
    assert list(check(ClaimsOptions(claims={"it": wrong}))) == [told]
    assert list(check(ClaimsOptions(claims={}))) == ["'claims' is empty: there is nothing to judge"]
