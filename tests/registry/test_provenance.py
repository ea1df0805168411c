"""What was loaded is in each run's record: every plugin with its version and a hash of its source, used or not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]
Plant = Callable[..., Path]

HOOKS_ONLY = """
import smolrecipe


@smolrecipe.hookimpl
def smolrecipe_before_stage(run):
    from smolrecipe_watching.note import note

    note(run)
"""


def test_a_record_names_what_was_loaded_and_what_was_used(
    toy_plugin: None,
    plant: Plant,
    write_recipe: Write,
    smolrecipe: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plugin that only has hooks can change what a stage does, so it counts; one that is set aside cannot."""
    toy = Path(__file__).parents[1] / "toy_plugin"
    monkeypatch.setenv("PYTHONPATH", f"{toy}:{tmp_path / 'site'}")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,watching,broken")
    note = "def note(run):\n    (run.folder / 'note.txt').write_text('one')\n"
    watching = plant("smolrecipe_watching", {"__init__.py": HOOKS_ONLY, "note.py": note}, plugin="watching")
    plant("smolrecipe_broken", {"__init__.py": "import not_there\n"}, plugin="broken")
    recipe = write_recipe("name: toy\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 1}\n")

    def record() -> dict[str, dict[str, dict[str, str]]]:
        out = json.loads(smolrecipe("run", recipe, "--json", "--runs", f"runs{len(records)}", check=0).stdout)
        return json.loads((tmp_path / out["stages"][0]["folder"] / "stage.json").read_text())

    records: list[dict[str, dict[str, dict[str, str]]]] = []
    records.append(record())
    (watching / "note.py").write_text(note.replace("one", "two"))
    records.append(record())
    first, second = records
    assert set(first["plugins"]) == {"toy"} and set(first["loaded"]) == {"toy", "watching"}
    assert first["loaded"]["toy"] == first["plugins"]["toy"]
    assert {name: (found["distribution"], found["version"]) for name, found in first["loaded"].items()} == {
        "toy": ("smolrecipe-toy", "1.0"),
        "watching": ("smolrecipe_watching", "1.0"),
    }
    assert all(len(found["source"]) == 64 for found in first["loaded"].values())
    assert first["loaded"]["toy"] == second["loaded"]["toy"]
    assert first["loaded"]["watching"]["source"] != second["loaded"]["watching"]["source"]
    assert first["digest"] == second["digest"], "a plugin that is not used has no part in the digest"
