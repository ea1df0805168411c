"""Problems for models that have learned no chat: their text is continued as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_lm_eval import POOR, chain, context, problems, samples

from smolrecipe import StageError
from smolrecipe_lm_eval import EvaluateOptions, run, verify

CONTINUED = problems(("hm a", "one"), ("b", "two"), ("c", "three"))


def test_plain_prompts_are_the_text_alone_and_need_no_template(tmp_path: Path) -> None:
    model = chain(tmp_path, "base", {"a": "one", "b": "four", "c": "three"}, template=None)
    options = EvaluateOptions(models=[model], problems={"continued": CONTINUED}, problem_prompts="plain")
    artifact = run(options, context(tmp_path, "base"))
    assert [sample["prompt"] for sample in samples(tmp_path, "base")] == ["hm a", "b", "c"]
    assert artifact.summary["scores"]["base"]["continued"]["score"] == pytest.approx(2 / 3)
    (tmp_path / "evaluate.partial" / "results" / "base.json").unlink()
    with pytest.raises(StageError, match="'base' has no chat template"):
        run(EvaluateOptions(models=[model], problems={"continued": CONTINUED}), context(tmp_path, "base"))


def test_an_answer_ends_before_a_text_that_stops_it(tmp_path: Path) -> None:
    model = chain(tmp_path, "base", POOR | {"a": "one", "one": "hm", "hm": "one"})
    asked = {"models": [model], "problems": {"continued": CONTINUED}, "problem_prompts": "plain", "max_new_tokens": 4}
    without, stopped = (EvaluateOptions(**asked, stop=stop) for stop in ([], ["hm"]))
    assert run(without, context(tmp_path, "base")).summary["scores"]["base"]["continued"]["score"] == pytest.approx(
        1 / 3
    )
    (tmp_path / "evaluate.partial" / "results" / "base.json").unlink()
    assert run(stopped, context(tmp_path, "base")).summary["scores"]["base"]["continued"]["score"] == pytest.approx(
        2 / 3
    )
    assert samples(tmp_path, "base")[0]["given"] == "one"
    assert all(proof.holds for proof in verify(stopped, context(tmp_path, "base")))
    assert not all(proof.holds for proof in verify(without, context(tmp_path, "base")))
