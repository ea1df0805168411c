"""Isolation really isolates: what is planted imports another plugin, or what it does not declare, and is found out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.errors import RecipeError
from smolrecipe_registry.isolation import (
    CONFORMANCE_TESTS,
    behind_the_wall,
    files_of,
    own_tests,
    plugin_names,
    run_alone,
    run_each,
)

Plant = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
QUIET = ["-q", "-p", "no:cacheprovider"]

PLUGIN = """
import smolrecipe
from smolrecipe import Artifact, StageKind


def run(options, context):
    return Artifact()


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="nothing", summary="a stage that does nothing", run=run, produces=lambda options: {})
"""
BROKEN = "import a_module_that_is_not_there\n"


@pytest.fixture
def planted(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin 'planted' and a package 'helper' that it does not declare; returns an empty folder for its tests."""
    plant("smolrecipe_planted", {"__init__.py": PLUGIN}, plugin="planted")
    plant("helper", {"__init__.py": "", "part.py": ""}, requires=[])
    (tmp_path / "checks").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checks"


def test_importing_another_plugin_fails_alone(planted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (planted / "test_planted.py").write_text("def test_own():\n    import smolrecipe_planted\n")
    assert run_alone("planted", planted, QUIET) == 0
    (planted / "test_planted.py").write_text("def test_other():\n    import smolrecipe_dpo.losses\n")
    capfd.readouterr()
    assert run_alone("planted", planted, QUIET) == 1
    out = capfd.readouterr().out
    assert "plugin 'planted' is tested alone, and smolrecipe_dpo belongs to plugin 'dpo'" in out
    assert "1 failed" in out


def test_importing_what_is_not_declared_fails_alone(
    planted: Path, plant: Plant, capfd: pytest.CaptureFixture[str]
) -> None:
    (planted / "test_planted.py").write_text("def test_it():\n    import helper.part\n")
    assert run_alone("planted", planted, QUIET) == 1
    out = capfd.readouterr().out
    assert "plugin 'planted' is tested alone, and helper is not declared: it comes with helper" in out
    assert "1 failed" in out
    plant(
        "smolrecipe_planted", {}, plugin="planted", requires=["smolrecipe", "helper; extra == 'more'"], extras=["more"]
    )
    assert run_alone("planted", planted, QUIET) == 0


def test_what_a_requirement_brings_in_may_be_imported(planted: Path, plant: Plant) -> None:
    (planted / "test_planted.py").write_text("def test_it():\n    import helper.part, cattrs, yaml, _pytest\n")
    plant(
        "between", {"__init__.py": ""}, requires=["helper; extra == 'all'", "numpy; extra == 'other'"], extras=["all"]
    )
    plant("smolrecipe_planted", {}, plugin="planted", requires=["smolrecipe", "between[all]"])
    assert run_alone("planted", planted, QUIET) == 0
    assert "numpy" in behind_the_wall("planted")


def test_the_wall_stands_in_processes_that_tests_start_too(planted: Path) -> None:
    (planted / "test_planted.py").write_text(
        "import subprocess, sys\n"
        "def test_it():\n"
        "    result = subprocess.run([sys.executable, '-c', 'import helper'], capture_output=True, text=True)\n"
        "    assert 'BehindTheWallError' in result.stderr and 'not declared' in result.stderr\n"
    )
    assert run_alone("planted", planted, QUIET) == 0


def test_who_asks_for_a_module_behind_the_wall_is_told_that_it_is_not_there(planted: Path) -> None:
    """Engines look for optional packages so; what they are told must not be an error."""
    (planted / "test_planted.py").write_text(
        "import importlib.util, pytest\n"
        "def test_it():\n"
        "    assert importlib.util.find_spec('helper') is None\n"
        "    assert importlib.util.find_spec('smolrecipe_dpo') is None\n"
        "    assert importlib.util.find_spec('cattrs') is not None\n"
        "    with pytest.raises(ModuleNotFoundError):\n"
        "        importlib.util.find_spec('helper.part')\n"
    )
    assert run_alone("planted", planted, QUIET) == 0


def test_a_sitecustomize_of_the_environment_still_runs(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "sitecustomize.py").write_text("import os\nos.environ['CUSTOMIZED'] = 'yes'\n")
    (planted / "test_planted.py").write_text(
        "import os\ndef test_it():\n    assert os.environ['CUSTOMIZED'] == 'yes'\n"
    )
    assert run_alone("planted", planted, QUIET) == 0


def test_only_the_plugin_is_loaded(planted: Path) -> None:
    (planted / "test_planted.py").write_text(
        "from smolrecipe_registry.discovery import load_registry\n"
        "from smolrecipe_registry.restriction import restriction_from_environment\n"
        "def test_it():\n    assert list(load_registry(restriction_from_environment()).plugins) == ['planted']\n"
    )
    assert run_alone("planted", planted, QUIET) == 0


def test_a_plugin_without_tests_is_checked_all_the_same(
    planted: Path, plant: Plant, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_alone("planted", None, ["-v", "-p", "no:cacheprovider"]) == 0
    out = capfd.readouterr().out
    assert "stage kind nothing: it says which devices it needs" in out and "it imports no other plugin" in out
    plant("smolrecipe_planted", {"__init__.py": PLUGIN.replace("does nothing", "does nothing.")}, plugin="planted")
    assert run_alone("planted", None, QUIET) == 1
    out = capfd.readouterr().out
    assert "say in one line, without a period, what it is" in out and "1 failed" in out


def test_a_component_whose_contract_needs_what_is_not_declared_is_told_so(
    planted: Path, plant: Plant, capfd: pytest.CaptureFixture[str]
) -> None:
    """A loss is a function of tensors; the checks of everything else go on."""
    code = PLUGIN + (
        "\n\n@smolrecipe.hookimpl\ndef smolrecipe_losses():\n"
        "    yield smolrecipe.Loss(name='none', summary='no loss', source='none', loss=lambda batch, options: None)\n"
    )
    plant("smolrecipe_planted", {"__init__.py": code}, plugin="planted")
    assert run_alone("planted", None, QUIET) == 1
    out = capfd.readouterr().out
    assert "what every loss must hold is told in terms of torch, which cannot be imported here" in out
    assert "1 failed" in out


def test_checks_that_the_plugins_own_tests_run_are_not_run_twice(
    planted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_alone("planted", None, QUIET)
    alone = capfd.readouterr().out.splitlines()[-1].split()[0]
    (planted / "test_planted.py").write_text(
        "from smolrecipe.testing import conformance\n\ntest_contract = conformance('planted')\n"
    )
    assert run_alone("planted", planted, QUIET) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{alone} passed, {int(alone) - 1} deselected")  # one says that it is alone


def test_a_broken_plugin_names_itself_and_breaks_no_other(
    planted: Path, plant: Plant, capfd: pytest.CaptureFixture[str]
) -> None:
    plant("smolrecipe_broken", {"__init__.py": BROKEN}, plugin="broken")
    plant("smolrecipe_leaving", {"__init__.py": "raise SystemExit('I leave')\n"}, plugin="leaving")
    assert run_each(["broken", "leaving", "planted"], None, QUIET) == ["broken", "leaving"]
    out = capfd.readouterr().out
    assert "plugin 'broken' is set aside: ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in out
    assert "plugin 'leaving' is set aside: SystemExit: I leave" in out


def test_several_at_a_time_are_told_apart(
    planted: Path, plant: Plant, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plant("smolrecipe_broken", {"__init__.py": BROKEN}, plugin="broken")
    assert run_each(["broken", "planted"], None, QUIET, jobs=2) == ["broken"]
    told = capfd.readouterr().out.split("plugin 'planted' alone\n")
    (of_broken,) = [part for part in told if "plugin 'broken' alone" in part]
    assert "a_module_that_is_not_there" in of_broken and len(told) == 2


def test_exit_codes(planted: Path, plant: Plant, smolrecipe: Run) -> None:
    """0 for a plugin that holds, 1 for one that does not, 2 for a name that nobody knows."""
    plant("smolrecipe_broken", {"__init__.py": BROKEN}, plugin="broken")
    assert "passed" in smolrecipe("plugins", "test", "planted", *QUIET, check=0).stdout
    failed = subprocess.run(
        [sys.executable, "-m", "smolrecipe", "plugins", "test", "broken", *QUIET], capture_output=True, text=True
    )
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1] == "failed alone: broken"
    unknown = smolrecipe("plugins", "test", "plantet", check=2)
    assert "no plugin 'plantet' is installed; did you mean 'planted'?" in unknown.stderr
    assert "name an installed plugin, or give --all" in smolrecipe("plugins", "test", check=2).stderr
    assert "planted" in smolrecipe("--plugins", "planted", "plugins", check=0).stdout


def test_an_unknown_plugin_is_refused() -> None:
    with pytest.raises(RecipeError, match="no plugin 'apoo' is installed; did you mean 'apo'"):
        run_alone("apoo")


def test_where_a_plugins_tests_are(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("smolrecipe_planted", {"__init__.py": PLUGIN}, plugin="planted")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert own_tests("planted") == []
    (elsewhere / "tests").mkdir()
    assert own_tests("planted") == [], "the source lies elsewhere"
    monkeypatch.chdir(tmp_path)
    assert own_tests("planted") == []
    (tmp_path / "tests").mkdir()
    assert own_tests("planted") == [Path("tests")]
    assert own_tests("planted", elsewhere) == [elsewhere]
    (elsewhere / "test_planted_more.py").touch()
    assert own_tests("planted", elsewhere) == [elsewhere / "test_planted_more.py"]
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "site"))
    assert own_tests("planted") == [], "an environment in the checkout is not the checkout"
    (tmp_path / "tests" / "plugins").mkdir()
    (tmp_path / "tests" / "plugins" / "test_planted.py").touch()
    assert own_tests("planted") == [Path("tests/plugins/test_planted.py")]
    assert own_tests("apo") == []


def test_every_test_file_of_a_plugin_belongs_to_one_plugin(repository: Path) -> None:
    folder = repository / "tests" / "plugins"
    owners = {name: files_of(name, folder) for name in plugin_names() if name != "toy"}
    assert all(owners.values()), [name for name, files in owners.items() if not files]
    claimed = [file for files in owners.values() for file in files]
    assert sorted(claimed) == sorted(folder.glob("test_*.py"))


def test_the_conformance_tests_are_there() -> None:
    assert CONFORMANCE_TESTS.is_file()
