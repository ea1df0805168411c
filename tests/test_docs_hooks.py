"""The reference's page of each hook: its exact signature, and an example that does what it says."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from smolrecipe import (
    Artifact,
    Model,
    Proof,
    StageContext,
    Workload,
    hookspecs,
)
from smolrecipe.errors import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe.testing import checks_of
from smolrecipe_registry import discovery
from smolrecipe_registry.discovery import Registry, load_registry
from smolrecipe_registry.reference.components import HOOKS
from smolrecipe_registry.reference.hooks import hook_names, is_collected

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
COLLECTED = [name for name in hook_names() if is_collected(name)]


def page_of(hook: str) -> str:
    return (REFERENCE / "hooks" / f"{hook}.md").read_text()


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_what_is_collected_is_what_the_registry_collects() -> None:
    assert set(COLLECTED) == set(discovery._CATALOG_HOOKS) == set(HOOKS.values())


@pytest.mark.parametrize("hook", hook_names())
def test_a_hooks_page_has_its_exact_signature(hook: str) -> None:
    """Read off the source here, off the function there."""
    tree = ast.parse(Path(hookspecs.__file__).read_text())
    (definition,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == hook]
    definition.body, definition.decorator_list = [], []
    assert python_blocks(page_of(hook))[0] == ast.unparse(definition).removesuffix(":") + "\n"


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> ModuleType:
    """The example of a hook's page, as the plugin module that it says it is."""
    file = tmp_path / f"smolrecipe_example_{request.param}.py"
    file.write_text(python_blocks(page_of(request.param))[-1])
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[file.stem]


def loaded(example: ModuleType, *others: str) -> Registry:
    registry = load_registry(others, extra=[("example", example)])
    assert not registry.plugins["example"].error, registry.plugins["example"].traceback
    return registry


@pytest.mark.parametrize(("example", "hook"), [(hook, hook) for hook in COLLECTED], indirect=["example"])
def test_the_example_of_a_collected_hook_holds_its_contract(example: ModuleType, hook: str) -> None:
    registry = loaded(example)
    ((component, provider),) = registry.catalog
    assert HOOKS[type(component)] == hook and provider.plugin == "example"
    held = 0
    for check in checks_of(component, registry.catalog):
        with contextlib.suppress(unittest.SkipTest):  # a check that this example gives nothing to try with
            check.run()
            held += 1
    assert held > 10


@pytest.mark.parametrize("example", ["smolrecipe_check_plan"], indirect=True)
def test_the_example_of_check_plan_reports(
    example: ModuleType, toy_plugin: None, write_recipe: Callable[..., Path]
) -> None:
    registry = loaded(example, "toy")
    recipe = write_recipe("name: r\nlauncher: {use: direct}\nstages:\n  Loud: {use: count, to: 1}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:4:\d+: stage 'Loud': names are lower case here"):
        make_plan(structure(compose(recipe), recipe, registry.catalog), registry.catalog, registry.manager.hook)


@pytest.mark.parametrize("example", ["smolrecipe_warn_of_plan"], indirect=True)
def test_the_example_of_warn_of_plan_asks(
    example: ModuleType, toy_plugin: None, write_recipe: Callable[..., Path]
) -> None:
    registry = loaded(example, "toy")
    recipe = write_recipe("name: r\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 1}\n")
    hook = registry.manager.hook
    plan = make_plan(structure(compose(recipe), recipe, registry.catalog), registry.catalog, hook)
    for steps, asked in ((2_000_000, ["stage 'one': more than a million steps"]), (10, []), (None, [])):
        told = hook.smolrecipe_warn_of_plan(
            plan=plan, workloads={"one": Workload(steps=steps)}, published={}, most_epochs=4.0
        )
        assert [problem.message for answer in told for problem in answer] == asked


@pytest.mark.parametrize("example", ["smolrecipe_before_stage"], indirect=True)
def test_the_example_of_before_stage_prints(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(example).manager.hook.smolrecipe_before_stage(run=StageContext(recipe="r", stage="one", folder=tmp_path))
    assert capsys.readouterr().out == "starting one\n"


@pytest.mark.parametrize("example", ["smolrecipe_after_stage"], indirect=True)
def test_the_example_of_after_stage_writes(example: ModuleType, tmp_path: Path) -> None:
    context = StageContext(recipe="r", stage="one", folder=tmp_path)
    loaded(example).manager.hook.smolrecipe_after_stage(run=context, artifact=Artifact())
    assert (tmp_path / "note.txt").read_text() == "done"


@pytest.mark.parametrize("example", ["smolrecipe_verify_model"], indirect=True)
def test_the_example_of_verify_model_proves(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(2**20))
    hook = loaded(example).manager.hook.smolrecipe_verify_model
    ((proof,),) = [list(proofs) for proofs in hook(folder=tmp_path, model=Model({}))]
    assert isinstance(proof, Proof) and proof.holds and proof.measured == "0.000977 GiB"


@pytest.mark.parametrize("example", ["smolrecipe_find_recipe"], indirect=True)
def test_the_example_of_find_recipe_finds(example: ModuleType) -> None:
    find = loaded(example).manager.hook.smolrecipe_find_recipe
    assert find(reference="team:x.yaml") == Path("/team/recipes/x.yaml")
    assert find(reference="x.yaml") is None


@pytest.mark.parametrize("example", ["smolrecipe_commands"], indirect=True)
def test_the_example_of_commands_says_hello(example: ModuleType) -> None:
    group = click.Group()
    loaded(example).manager.hook.smolrecipe_commands(cli=group)
    assert CliRunner().invoke(group, ["hello"]).output == "hello\n"


def test_every_hooks_example_is_tried() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{hook}"], indirect=True' in source for hook in hook_names() if not is_collected(hook))
