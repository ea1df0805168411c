"""What the tests of the plugin ``hub`` share: a model, and a run that has exported it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_runs import Run, save_model, whole_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("saved")
    save_model(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Run:
    """A whole run that has exported this model."""
    return whole_run(tmp_path, model)
