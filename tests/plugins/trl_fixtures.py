"""Fixtures of the tests of the TRL stages: ``pytest_plugins = ["trl_fixtures"]`` in a test file brings them in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trl_toys import Run, aligned_model, base_artifact, trained_sft


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums are added in one order, in every process and whenever something is measured again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a random model."""
    return base_artifact(tmp_path_factory)


@pytest.fixture(scope="module")
def sft(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fine-tuning stage that has run."""
    return trained_sft(tmp_path_factory)


@pytest.fixture(scope="module")
def aligned(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A preference stage that has run."""
    return aligned_model(tmp_path_factory)
