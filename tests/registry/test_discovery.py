"""Finding plugins: broken ones are set aside, conflicts name both, a changed source is noticed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import smolrecipe
from smolrecipe import Loss, NoOptions, Schedule
from smolrecipe.catalog import UnknownComponentError
from smolrecipe.errors import RecipeError
from smolrecipe_registry.discovery import load_registry, source_hash


def plugin_offering(*names: str) -> types.ModuleType:
    module = types.ModuleType("offering")

    @smolrecipe.hookimpl
    def smolrecipe_losses() -> list[Loss]:
        return [Loss(name=name, summary=name, loss=lambda batch, options: None) for name in names]

    module.smolrecipe_losses = smolrecipe_losses
    return module


def install(folder: Path, name: str, code: str) -> None:
    """Lay out a distribution as pip would."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.3\n")
    (info / "entry_points.txt").write_text(f"[smolrecipe]\n{name} = {name}\n")


def test_every_built_in_plugin_loads() -> None:
    registry = load_registry()
    assert {name: found.error for name, found in registry.plugins.items() if found.error} == {}
    assert not registry.catalog.conflicts()


def test_a_plugin_that_does_not_import_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken_plugin", "import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = load_registry()
    found = registry.plugins["broken_plugin"]
    assert found.error == "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert found.version == "2.3" and "Traceback" in found.traceback
    with pytest.raises(UnknownComponentError, match="broken_plugin: ModuleNotFoundError"):
        registry.catalog.get(Loss, "no_such_loss")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import smolrecipe\n@smolrecipe.hookimpl\ndef smolrecipe_losses():\n    raise KeyError('x')\n", "KeyError"),
        ("import smolrecipe\n@smolrecipe.hookimpl\ndef smolrecipe_losses():\n    return [3]\n", "no descriptor"),
        ("import smolrecipe\n@smolrecipe.hookimpl\ndef smolrecipe_loses():\n    return []\n", "did you mean"),
        (
            "import smolrecipe\n@smolrecipe.hookimpl\ndef smolrecipe_losses(x):\n    return []\n",
            "PluginValidationError",
        ),
    ],
)
def test_a_plugin_with_wrong_hooks_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    install(tmp_path, "wrong_plugin", code)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = load_registry(("wrong_plugin",))
    sys.modules.pop("wrong_plugin", None)
    assert reason in registry.plugins["wrong_plugin"].error
    assert not registry.manager.has_plugin("wrong_plugin")


def test_two_plugins_with_one_name_are_both_named() -> None:
    registry = load_registry((), extra=[("first", plugin_offering("same", "own")), ("second", plugin_offering("same"))])
    assert registry.catalog.get(Loss, "own").name == "own"
    with pytest.raises(UnknownComponentError, match="loss 'same' is offered by first and by second"):
        registry.catalog.get(Loss, "same")
    assert list(registry.catalog.conflicts()) == ["loss 'same'"]


def test_unknown_names_get_a_near_miss() -> None:
    registry = load_registry((), extra=[("first", plugin_offering("apo_zero", "dpo"))])
    with pytest.raises(UnknownComponentError, match="unknown loss 'apo_zer'; did you mean 'apo_zero'"):
        registry.catalog.get(Loss, "apo_zer")
    with pytest.raises(UnknownComponentError, match="unknown schedule 'x'; known: none"):
        registry.catalog.get(Schedule, "x")


def test_only_some_plugins_may_be_loaded(toy_plugin: None) -> None:
    assert list(load_registry(("toy",)).plugins) == ["toy"]
    with pytest.raises(RecipeError, match="no plugin 'toi' is installed; did you mean 'toy'"):
        load_registry(("toi",))


def test_the_source_hash_follows_every_file_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hashed_package"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "templates" / "a.jinja").write_text("a")
    monkeypatch.syspath_prepend(str(tmp_path))
    import hashed_package

    first = source_hash(hashed_package)
    (package / "templates" / "a.jinja").write_text("b")
    second = source_hash(hashed_package)
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "x.pyc").write_text("x")
    assert first != second == source_hash(hashed_package)


def test_no_options_is_an_options_class() -> None:
    assert plugin_offering("a").smolrecipe_losses()[0].options is NoOptions


def test_the_source_hash_of_a_plugin_inside_a_package_is_the_packages(
    plant: Callable[..., Path], tmp_path: Path
) -> None:
    """An entry point may name a module or an object of a package; what it does lies in the whole of it."""
    files = {"__init__.py": "", "plugin/__init__.py": "class Plugin: pass\n", "work.py": "a = 1\n"}
    package = plant("hashed_lab", files)
    import hashed_lab.plugin

    first = {source_hash(hashed_lab.plugin), source_hash(hashed_lab.plugin.Plugin())}
    assert len(first) == 1 and "" not in first
    (package / "work.py").write_text("a = 2\n")
    second = {source_hash(hashed_lab.plugin), source_hash(hashed_lab.plugin.Plugin())}
    assert len(second) == 1 and first != second
    assert source_hash(types.ModuleType("made_here")) == ""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('I leave')\n", "SystemExit: I leave"),
        (
            "import smolrecipe\nfrom smolrecipe import Schedule\n@smolrecipe.hookimpl\ndef smolrecipe_losses():\n"
            "    yield Schedule(name='line', summary='a line', factor=max)\n",
            "TypeError: smolrecipe_losses offers 'line', a schedule: it takes a loss only",
        ),
        (
            "import smolrecipe\nclass Mine(smolrecipe.Loss):\n    pass\n"
            "@smolrecipe.hookimpl\ndef smolrecipe_losses():\n    yield Mine(name='mine', summary='mine', loss=max)\n",
            "TypeError: smolrecipe_losses offers 'mine', a Mine, which the core does not know: it takes a loss only",
        ),
    ],
)
def test_what_would_be_lost_or_would_end_the_command_line_is_set_aside(
    plant: Callable[..., Path], code: str, reason: str
) -> None:
    plant("smolrecipe_strange", {"__init__.py": code}, plugin="strange")
    assert load_registry(("strange",)).plugins["strange"].error == reason
