"""A scaffolded plugin, installed: smolrecipe from its wheel and the plugin beside it, in an environment of their own.

The environment sees the engines of the one that runs the tests, and downloads nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from trl_toys import write_base

from smolrecipe.stage import read_events
from smolrecipe_registry.discovery import load_registry

pytestmark = pytest.mark.pipeline

NAME = "margin"


class Environment:
    """A virtual environment with smolrecipe installed from a wheel."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        self.python = folder / "venv" / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
        run(*pip, "wheel", *offline, "--wheel-dir", folder, repository, cwd=folder)
        (self.wheel,) = folder.glob("smolrecipe-*.whl")
        self.install = (*pip, "--python", self.python, "install", *offline)
        run(*self.install, self.wheel, cwd=folder)
        # Engines, and what builds packages, come from the environment that runs the tests. Its smolrecipe stays hidden
        # behind the wheel's: the files that make a checkout importable are only read in an environment's own folder.
        packages = Path(self("-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
        (packages / "engines.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    @property
    def project(self) -> Path:
        """The plugin's folder."""
        return self.folder / f"smolrecipe-{NAME}"

    def __call__(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        return run(self.python, *arguments, cwd=cwd or self.folder)

    def smolrecipe(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        return run(self.python.with_name("smolrecipe"), *arguments, cwd=cwd or self.folder)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command as a person in a shell of their own would; what it has printed."""
    hidden = ("PYTHONPATH", "SMOLRECIPE_PLUGINS", "SMOLRECIPE_ALONE", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the plugin written by the installed command and installed."""
    environment = Environment(tmp_path_factory.mktemp("installed"), Path(__file__).parents[2])
    environment.smolrecipe("plugin", "new", NAME, "--kind", "preference-loss")
    run(*environment.install, "--editable", ".", cwd=environment.project)
    return environment


def test_smolrecipe_is_the_wheels(environment: Environment) -> None:
    places = environment("-c", "import smolrecipe, smolrecipe_registry as r; print(smolrecipe.__file__, r.__file__)")
    assert all(Path(place).is_relative_to(environment.folder / "venv") for place in places.split())


def test_the_plugin_is_listed_beside_the_built_in_ones(environment: Environment) -> None:
    listed = {entry["plugin"]: entry for entry in json.loads(environment.smolrecipe("plugins", "--json"))}
    assert {name: entry["error"] for name, entry in listed.items() if entry["error"]} == {}
    assert set(listed) == {*load_registry().plugins, NAME}
    assert listed[NAME]["distribution"] == f"smolrecipe-{NAME}"
    assert [offer["name"] for offer in listed[NAME]["offers"]] == [NAME]


def test_what_its_ci_runs_passes(environment: Environment) -> None:
    ci = (environment.project / ".github" / "workflows" / "ci.yml").read_text()
    assert f"run: smolrecipe plugins test {NAME}\n" in ci and "run: pytest\n" in ci
    alone = environment.smolrecipe("plugins", "test", NAME, "-v", cwd=environment.project)
    printed = environment("-m", "pytest", "-v", "-p", "no:cacheprovider", cwd=environment.project)
    for output in (alone, printed):
        assert "test_three_pairs_by_hand PASSED" in output and "test_contract[" in output


def test_its_recipe_trains_with_it(environment: Environment) -> None:
    """Cut down to its one stage: from a random model instead of the fine-tuned one, four steps of two pairs."""
    write_base(environment.project / "base")
    values = json.loads(environment.smolrecipe("show", environment.project / "recipe.yaml", "--json"))
    stages = {key.split(".")[1] for key in values if key.startswith("stages.")}
    recipe = environment.project / "small.yaml"
    recipe.write_text(
        "extends: recipe.yaml\nname: small\nstages:\n"
        + "".join(f"  {stage}: null\n" for stage in sorted(stages - {"apo"}))
        + """\
  apo:
    from: ./base
    data: {think: null, no-think: {rows: 8}}
    held_out: {think: null, no-think: {rows: 4}}
    max_length: 512
    max_steps: 4
    global_batch: 2
    micro_batch: 2
"""
    )
    environment.smolrecipe("run", recipe)
    (artifact,) = environment.folder.glob("runs/small/apo-*")
    record = json.loads((artifact / "stage.json").read_text())
    assert record["options"]["loss"]["use"] == NAME
    losses = [event["loss"] for event in read_events(artifact / "metrics.jsonl") if "loss" in event]
    # The policy is the reference in the first step, where a margin of nothing is one whole margin short, and still in
    # the second, because the first one's learning rate is 0. Then it moves.
    assert len(losses) == 4 and losses[:2] == [1.0, 1.0] and losses[2] != 1.0
