"""``smolrecipe plugin new``: what it writes is found, clean, passes its own tests, and is used by its recipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe import __version__
from smolrecipe.components import KINDS
from smolrecipe.errors import RecipeError
from smolrecipe_registry.discovery import load_registry
from smolrecipe_registry.scaffold import COMPONENTS, write_plugin

Run = Callable[..., subprocess.CompletedProcess[str]]
NAME = "strange"
LONGEST_LIGHT_FILE = 60

MUTANTS = {
    "preference-loss": ("loss.py", "chosen - rejected", "rejected - chosen"),
    "model-component": ("embedding.py", "* self.scale", "/ self.scale"),
    "optimizer": ("sgd.py", 'mul_(group["momentum"])', 'mul_(1 - group["momentum"])'),
    "schedule": ("__init__.py", "math.sqrt(", "math.cbrt("),
    "stage": ("report.py", "length <= sequence_length", "length < sequence_length"),
    "source": ("__init__.py", 'newline=""', 'newline="\\r"'),
    "packer": ("packing.py", "np.where(starts[:-1], numbers, 0)", "np.where(starts[1:], numbers, 0)"),
    "tracker": ("__init__.py", 'open("a"', 'open("w"'),
}
"""In what each kind computes, a mistake that the tests written along with it must find: file, text, mistake."""


def lay_out(project: Path) -> Path:
    """Make a project look installed to those who have the folder returned on their path, as pip would."""
    source = project / "src"
    info = source / f"smolrecipe_{NAME}-0.1.0.dist-info"
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    lines = [f"Name: {declared['name']}", f"Version: {declared['version']}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in declared["dependencies"]]
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
    points = declared["entry-points"]["smolrecipe"]
    (info / "entry_points.txt").write_text("[smolrecipe]\n" + "".join(f"{name} = {points[name]}\n" for name in points))
    return source


@pytest.fixture(scope="module", params=list(COMPONENTS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def project(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / f"smolrecipe-{NAME}"
    write_plugin(NAME, kind, folder, load_registry(()).catalog)
    lay_out(folder)
    return folder


@pytest.fixture
def installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))


def own_tests(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_all_files_are_written_and_nothing_is_left_to_fill_in(project: Path) -> None:
    written = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    common = {"pyproject.toml", "README.md", "recipe.yaml", ".gitignore", ".github/workflows/ci.yml"}
    assert common | {f"src/smolrecipe_{NAME}/__init__.py", f"tests/test_{NAME}.py"} <= written
    for path in written:
        text = (project / path).read_text()
        assert "$" not in text and "NAME" not in path + text, path
    light = (project / "src" / f"smolrecipe_{NAME}" / "__init__.py").read_text()
    assert len(light.splitlines()) <= LONGEST_LIGHT_FILE


def test_it_is_clean(project: Path) -> None:
    rules = "B,C4,D1,E,F,I,N,PIE,PTH,RET,SIM,UP,W"
    package, tests = project / "src" / f"smolrecipe_{NAME}", project / "tests"
    ruff = [sys.executable, "-m", "ruff"]
    for command in (
        [*ruff, "check", "--select", rules, "--ignore", "D105,D107", package],
        [*ruff, "check", "--select", rules, "--ignore", "D1", tests],
        [*ruff, "format", "--check", package, tests],
    ):
        result = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


def test_the_requirement_is_the_core_that_wrote_it(project: Path) -> None:
    (requirement,) = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    major, minor = map(int, __version__.split(".")[:2])
    assert major == 0, "from 1.0 on a minor version may not change the contract: let it be as new as it likes"
    assert re.fullmatch(rf"smolrecipe(\[\w+])?>=0\.{minor},<0\.{minor + 1}", requirement)


def test_it_is_found_and_offers_one_component(kind: str, installed: None, smolrecipe: Run) -> None:
    listing = {entry["plugin"]: entry for entry in json.loads(smolrecipe("plugins", "--json", check=0).stdout)}
    found = listing[NAME]
    assert found["error"] is None and found["version"] == "0.1.0"
    assert [(offer["kind"], offer["name"]) for offer in found["offers"]] == [(KINDS[COMPONENTS[kind]], NAME)]


def test_its_own_tests_pass_and_the_contract_is_among_them(project: Path) -> None:
    result = own_tests(project)
    assert result.returncode == 0, result.stdout
    passed = [line for line in result.stdout.splitlines() if " PASSED" in line]
    of_contract = [line for line in passed if "::test_contract[" in line]
    assert len(of_contract) >= 15 and len(passed) > len(of_contract)


def test_its_own_tests_find_a_mistake(kind: str, tmp_path: Path) -> None:
    file, text, mistake = MUTANTS[kind]
    write_plugin(NAME, kind, tmp_path, load_registry(()).catalog)
    lay_out(tmp_path)
    module = tmp_path / "src" / f"smolrecipe_{NAME}" / file
    good = module.read_text()
    assert good.count(text) == 1
    module.write_text(good.replace(text, mistake))
    result = own_tests(tmp_path, "-k", "not test_contract")
    assert result.returncode == 1 and "Error" in result.stdout, result.stdout


def test_its_recipe_is_valid_and_uses_it(project: Path, installed: None, smolrecipe: Run) -> None:
    recipe = project / "recipe.yaml"
    assert "valid" in smolrecipe("validate", recipe, check=0).stdout
    values = json.loads(smolrecipe("show", recipe, "--json", check=0).stdout)
    used = [key for key, value in values.items() if key.endswith(".use") and value["value"] == NAME]
    assert used or f"trackers: [{{use: {NAME}}}]" in recipe.read_text()  # which 'show' leaves out


@pytest.mark.parametrize("name", ["Simpo", "sim-po", "2po", "_po", "po_", "", "sim.po", "../po", "simpö"])
def test_names_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"'{name}' cannot name a plugin: use lower-case letters")):
        write_plugin(name, "schedule", tmp_path / "new", load_registry(()).catalog)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("apo", "schedule", "a plugin 'apo' is installed already"),
        ("registry", "schedule", "a package 'smolrecipe_registry' is installed already"),
        ("wsd", "schedule", "schedule 'wsd' is offered by plugin 'schedules'"),
        ("null", "schedule", "would not be read as text"),
    ],
)
def test_names_that_are_taken_are_refused(name: str, kind: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=reason):
        write_plugin(name, kind, tmp_path / "new", load_registry().catalog)
    assert not (tmp_path / "new").exists()


def test_a_name_that_another_kind_has_is_free(tmp_path: Path) -> None:
    assert write_plugin("wsd", "tracker", tmp_path / "new", load_registry().catalog)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    catalog = load_registry(()).catalog
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "file"):
        with pytest.raises(RecipeError, match="exists already and is not an empty folder: choose another"):
            write_plugin("simpo", "schedule", folder, catalog)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    assert write_plugin("simpo", "schedule", tmp_path / "empty", catalog)


def test_the_command_writes_where_it_says_and_says_what_is_next(smolrecipe: Run, tmp_path: Path) -> None:
    result = smolrecipe("plugin", "new", "simpo", "--kind", "preference-loss", check=0)
    files = [line for line in result.stdout.splitlines() if line.startswith("smolrecipe-simpo/")]
    assert sorted(files) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert (
        "  cd smolrecipe-simpo\n  pip install --editable '.[dev]'\n  smolrecipe plugins test simpo\n" in result.stdout
    )
    again = smolrecipe("plugin", "new", "simpo", "--kind", "preference-loss", check=2)
    assert again.stderr.startswith("error: smolrecipe-simpo exists already")
    elsewhere = smolrecipe("plugin", "new", "simpo", "--kind", "tracker", "--folder", "else where", check=0)
    assert "  cd 'else where'\n" in elsewhere.stdout
    assert (tmp_path / "else where" / "pyproject.toml").is_file()


@pytest.mark.parametrize("arguments", [("--kind", "loss"), ()])
def test_a_kind_must_be_one_of_those_listed(smolrecipe: Run, arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = smolrecipe("plugin", "new", "simpo", *arguments, check=2)
    assert all(kind in result.stderr for kind in COMPONENTS)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_refused_from_python_too(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no kind of plugin is called 'scheduler'; did you mean 'schedule'"):
        write_plugin("simpo", "scheduler", tmp_path / "new", load_registry(()).catalog)
