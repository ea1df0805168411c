"""The conformance checks of the plugin that is tested alone: what ``smolrecipe plugins test`` gives pytest."""

from __future__ import annotations

import os

from smolrecipe.testing.conformance import conformance
from smolrecipe_registry.isolation import ALONE
from smolrecipe_registry.wall import standing


def test_it_is_tested_alone() -> None:
    """Other plugins and packages that are not declared are behind the wall."""
    assert standing() is not None, "run it with 'smolrecipe plugins test NAME'"


if ALONE in os.environ:
    test_contract = conformance(os.environ[ALONE])
