"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from smolrecipe import hookspecs
from smolrecipe.testing.package import clashes

ENGINES = {"torch", "transformers", "trl", "mergekit", "torchtitan", "datasets", "datatrove", "lm_eval", "accelerate"}
HOOKS = sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "smolrecipe_spec"))


def built_ins(repository: Path) -> dict[str, str]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return project["entry-points"]["smolrecipe"]


def test_every_plugin_folder_is_an_entry_point_and_back(repository: Path) -> None:
    folders = {path.name for path in (repository / "plugins").iterdir() if (path / "__init__.py").is_file()}
    assert set(built_ins(repository).values()) == folders
    assert all(target == f"smolrecipe_{name}" for name, target in built_ins(repository).items())


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_an_example_and_tested(hook: str, repository: Path) -> None:
    documentation = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert "Example::" in documentation and f"def {hook}(" in documentation
    example = inspect.cleandoc(documentation.split("Example::")[1])
    arguments = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    (function,) = [
        node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.FunctionDef) and node.name == hook
    ]
    assert [argument.arg for argument in function.args.args] == arguments
    tests = [path.read_text() for path in (repository / "tests").rglob("*.py") if path.name != "test_house.py"]
    assert any(f"def {hook}(" in text for text in tests), f"no test implements {hook}"
    guide = (repository / "CONTRIBUTING.md").read_text()
    assert f"`{hook}({', '.join(arguments)})`" in guide


def test_light_modules_import_no_engine(repository: Path) -> None:
    """Every plugin's ``__init__`` in one fresh interpreter: whatever it imports in turn counts too."""
    targets = sorted(built_ins(repository).values())
    code = f"import sys, {', '.join(targets)}; print(*sorted({ENGINES!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_no_module_of_a_plugin_bears_the_name_of_something_in_its_package(repository: Path) -> None:
    """Importing ``smolrecipe_x.run`` would replace a function ``run`` of ``smolrecipe_x`` by the module."""
    packages = [file.parent for file in (repository / "plugins").glob("*/__init__.py")]
    assert [f"{package.name}.{name}" for package in packages for name in clashes(package)] == []


def test_plugins_never_import_each_other_and_core_knows_no_plugin(repository: Path) -> None:
    targets = set(built_ins(repository).values())
    for file in [*(repository / "plugins").rglob("*.py"), *(repository / "core").rglob("*.py")]:
        own = file.relative_to(repository).parts[1]
        for node in ast.walk(ast.parse(file.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            foreign = {module.partition(".")[0] for module in modules} & (targets - {own})
            assert not foreign, f"{file.relative_to(repository)} imports {foreign}"


OFFERED = (
    "checkpoint", "commands", "completing", "data", "durable", "file_hashes", "generation", "handing_on", "launching",
    "lengths", "model", "options", "preference", "published", "ready_model", "sampling", "stage", "strict_json",
    "testing",
)  # fmt: skip
PUBLIC = ("smolrecipe", *(f"smolrecipe.{name}" for name in OFFERED))


def test_plugins_use_what_strangers_may_use(repository: Path) -> None:
    """Of the core, plugins import its contract alone; types of hook arguments may come from anywhere in it."""
    for file in (repository / "plugins").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "smolrecipe":
                assert node.module in PUBLIC, f"{file.relative_to(repository)}:{node.lineno} imports {node.module}"


def test_only_the_command_line_and_the_kit_know_the_registry(repository: Path) -> None:
    for file in (repository / "core").rglob("*.py"):
        if not {"cli", "testing"} & set(file.parts):
            assert "smolrecipe_registry" not in file.read_text(), file


def test_options_are_documented(repository: Path) -> None:
    """Every field of every options class says what it does."""
    import attrs

    from smolrecipe.options import yaml_key
    from smolrecipe_registry.discovery import load_registry

    undocumented = []

    def visit(cls: type, where: str) -> None:
        for field in attrs.fields(cls):
            if not field.metadata.get("doc"):
                undocumented.append(f"{where}.{yaml_key(field.name)}")

    for component, _ in load_registry(tuple(built_ins(repository))).catalog:
        assert component.summary and not component.summary.endswith("."), component.name
        visit(component.options, component.name)
    assert undocumented == []


def test_the_readme_calls_what_ci_runs(repository: Path) -> None:
    targets = set(re.findall(r"make ([a-z-]+)", (repository / "README.md").read_text()))
    makefile = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), flags=re.MULTILINE))
    ci = set(re.findall(r"make ([a-z-]+)", (repository / ".ci" / "run").read_text()))
    assert targets <= makefile and {"run", "test", "check"} <= ci <= makefile
