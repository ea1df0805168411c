"""Mutants of recipes: valid, or refused in sentences with their places; nothing is written, started, or left hanging.

``tests/chaos`` has the mutants and the judge, and the long form of this.
"""

from __future__ import annotations

import pytest
from recipe_judge import Watch, complaints
from recipe_verdicts import table, verdicts

from smolrecipe.errors import Place, Problem

MUTANTS = 330
"""Fifteen of each kind."""


def test_no_mutant_is_taken_for_what_it_is_not() -> None:
    found = list(verdicts(seed=0, count=MUTANTS))
    assert [verdict for verdict in found if verdict["wrong"]] == [], table(found)
    assert len(found) == MUTANTS
    assert {verdict["outcome"] for verdict in found} == {"valid", "refused"}


@pytest.mark.parametrize(
    ("problem", "complaint"),
    [
        (Problem("unknown key 'x'"), "has no place"),
        (Problem("unknown key 'x'", Place("r.yaml")), "has no place"),
        (Problem("x" * 501, Place("r.yaml", 1, 1)), "is 501 characters long"),
        (Problem("a\x1b[2J", Place("r.yaml", 1, 1)), "is not printable"),
        (Problem("KeyError: 'x'", Place("r.yaml", 1, 1)), "speaks of 'KeyError'"),
        (Problem("<class 'int'>", Place("r.yaml", 1, 1)), "speaks of '<class '"),
    ],
)
def test_the_judge_sees_a_bad_sentence(problem: Problem, complaint: str) -> None:
    (said,) = complaints(problem)
    assert said.startswith(complaint)
    assert [*complaints(Problem("unknown key 'x'", Place("r.yaml", 1, 1)))] == []


def test_the_judge_sees_what_a_recipe_has_no_business_to_do(tmp_path) -> None:
    watch = Watch()
    with watch.watching() as seen:
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir()
    assert [what.partition("(")[0].partition(" ")[0] for what in seen] == ["opens", "os.mkdir"]
    (tmp_path / "other").write_text("x")
    assert len(seen) == 2
