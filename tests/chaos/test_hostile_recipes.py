"""The long form of ``tests/core/test_hostile_recipes.py``."""

from __future__ import annotations

import pytest
from recipe_verdicts import table, verdicts

MUTANTS = 10_000


@pytest.mark.chaos
def test_no_mutant_of_many_is_taken_for_what_it_is_not() -> None:
    found = list(verdicts(seed=1, count=MUTANTS))
    print(table(found))
    assert [verdict for verdict in found if verdict["wrong"]] == []
    assert len(found) == MUTANTS
