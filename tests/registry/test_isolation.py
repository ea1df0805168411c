"""Isolation really isolates: the plant is a plugin that imports another, and a test that notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolrecipe.errors import RecipeError
from smolrecipe_registry.isolation import files_of, plugin_names, run_alone


def test_importing_another_plugin_fails_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_apo.py").write_text("def test_alone():\n    import smolrecipe_apo\n")
    assert run_alone("apo", tmp_path, ["-q", "-p", "no:cacheprovider"]) == 0
    (tmp_path / "test_apo.py").write_text("def test_alone():\n    import smolrecipe_dpo\n")
    assert run_alone("apo", tmp_path, ["-q", "-p", "no:cacheprovider"]) == 1
    assert "smolrecipe_dpo belongs to another plugin" in capfd.readouterr().out


def test_only_the_plugin_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "test_apo.py").write_text(
        "from smolrecipe_registry.discovery import load_registry, restriction_from_environment\n"
        "def test_alone():\n    assert list(load_registry(restriction_from_environment()).plugins) == ['apo']\n"
    )
    assert run_alone("apo", tmp_path, ["-q", "-p", "no:cacheprovider"]) == 0


def test_a_plugin_without_tests_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no tests"):
        run_alone("apo", tmp_path)
    with pytest.raises(RecipeError, match="no plugin 'apoo' is installed; did you mean 'apo'"):
        run_alone("apoo", tmp_path)


def test_every_test_file_of_a_plugin_belongs_to_one_plugin(repository: Path) -> None:
    folder = repository / "tests" / "plugins"
    owners = {name: files_of(name, folder) for name in plugin_names() if name != "toy"}
    assert all(owners.values()), [name for name, files in owners.items() if not files]
    claimed = [file for files in owners.values() for file in files]
    assert sorted(claimed) == sorted(folder.glob("test_*.py"))
