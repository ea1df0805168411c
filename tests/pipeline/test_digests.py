"""The digest follows every option of every built-in component that changes a result, and no other.

``digests/tables.yaml`` says by hand which is which: what an option does is for a person to decide, not for its own
metadata. A new option that is not in there fails here.
"""

from __future__ import annotations

import functools
import json
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
import yaml

from smolrecipe.components import KINDS, Component
from smolrecipe.errors import RecipeError
from smolrecipe.options import Use, walk, yaml_key
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import all_uses, structure
from smolrecipe_registry.discovery import load_registry

RECIPES = Path(__file__).parent / "digests"
TABLES = yaml.safe_load((RECIPES / "tables.yaml").read_text())
EFFECT: dict[str, str] = TABLES["effect"]
NO_EFFECT: dict[str, str] = TABLES["no_effect"]
OTHER: dict[str, dict[str, Any]] = yaml.safe_load((RECIPES / "other_values.yaml").read_text())


@functools.cache
def registry() -> Any:
    return load_registry()


def plan_of(recipe: Path, *settings: str) -> Plan:
    catalog = registry().catalog
    return make_plan(structure(compose(recipe, settings), recipe, catalog), catalog, registry().manager.hook)


def digests(plan: Plan) -> dict[str, str]:
    return {stage.name: stage.digest for stage in plan.stages}


def changed(before: Plan, after: Plan) -> set[str]:
    old, new = digests(before), digests(after)
    return {name for name in {**old, **new} if old.get(name) != new.get(name)}


def with_descendants(stage: str, plan: Plan) -> set[str]:
    found = {stage}
    for other in plan.stages:
        if found & set(other.parents):
            found.add(other.name)
    return found


FILES = {
    "text.jsonl": '{"text": "a"}\n',
    "chat.jsonl": "{}\n",
    "pairs.jsonl": "{}\n",
    "tokenizer.json": "{}",
    "other-tokenizer.json": '{"other": 1}',
    "template.jinja": "{% generation %}{% endgeneration %}",
    "model/config.json": "{}",
    "model/tokenizer.json": "{}",
    "other-model/config.json": '{"other": 1}',
}


def lay_out(folder: Path) -> Path:
    for path, content in FILES.items():
        (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / path).write_text(content)
    for name in ("all.yaml", "training.yaml", "preference.yaml"):
        shutil.copy(RECIPES / name, folder)
    return folder / "all.yaml"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digests")
    file = lay_out(folder)
    shutil.copytree(folder / "data", folder / "moved")
    return file


@pytest.fixture(autouse=True)
def in_its_folder(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path given with --set starts where the command is given."""
    monkeypatch.chdir(recipe.parent)


@pytest.fixture(scope="module")
def before(recipe: Path) -> Plan:
    return plan_of(recipe)


def built_in() -> list[Component]:
    """The components of the built-in plugins, whatever else is installed."""
    catalog = registry().catalog
    return [component for component, provider in catalog if provider.distribution == "smolrecipe"]


def label(component: Component) -> str:
    return f"{KINDS[type(component)]} {component.name}"


def options_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option with its field, those of nested classes by their path; a class as a whole only in a list."""
    attrs.resolve_types(cls)
    for field in attrs.fields(cls):
        name = prefix + yaml_key(field.name)
        item = next(iter(get_args(field.type)), None) if get_origin(field.type) is list else None
        nested = field.type if attrs.has(field.type) and is_options(field.type) else item
        if nested is None or nested is item:
            yield name, field
        if nested is not None and attrs.has(nested) and is_options(nested):
            yield from options_of(nested, f"{name}.")


def is_options(cls: type) -> bool:
    return cls.__module__.split(".")[0] not in ("smolrecipe",)


def cases() -> list[Any]:
    return [
        pytest.param(label(component), name, id=f"{label(component)}-{name}".replace(" ", "-"))
        for component in built_in()
        for name, _ in options_of(component.options)
    ]


def test_every_option_is_in_one_of_the_tables() -> None:
    found = {label(component): {name for name, _ in options_of(component.options)} for component in built_in()}
    for component in sorted({*found, *EFFECT, *NO_EFFECT}):
        effect, none = (set(table.get(component, "").split()) for table in (EFFECT, NO_EFFECT))
        options = found.get(component, set())
        assert not effect & none, f"{component}: {', '.join(effect & none)} in both tables"
        for name in sorted(options - effect - none):
            pytest.fail(
                f"option '{name}' of {component} is new: decide whether a stage's result follows from it, and write it "
                "into digests/tables.yaml. If so, under 'effect'; if not (it says where, how fast, how it is told), "
                "under 'no_effect', and give it identity=False"
            )
        assert not (effect | none) - options, f"{component} has no option {', '.join((effect | none) - options)} now"


@pytest.mark.parametrize(("component", "name"), cases())
def test_an_option_changes_the_digests_that_depend_on_it(recipe: Path, before: Plan, component: str, name: str) -> None:
    kind, _, chosen = component.rpartition(" ")
    only = [f"launcher.use={chosen}"] if kind == "launcher" else []  # a recipe has one
    if only:
        before = plan_of(recipe, *only)
    place, stage = find(before, component)
    other = OTHER.get(component, {}).get(name)
    if isinstance(other, dict) and "refused" in other:  # it has the one value that goes with another option
        with pytest.raises(RecipeError):
            plan_of(recipe, *(f"{'.'.join(map(str, place))}.{setting}" for setting in other["refused"]))
        return
    needed, own = settings(place, component, name, before)
    needed = [*only, *needed]
    if needed:
        before = plan_of(recipe, *needed)
    after = plan_of(recipe, *needed, *own)
    has_effect = name in EFFECT[component].split()
    expected = with_descendants(stage, after) if has_effect else set()
    assert changed(before, after) == expected


def find(plan: Plan, component: str) -> tuple[tuple[str | int, ...], str]:
    """Where the recipe first uses the component, and in which stage."""
    for path, use in all_uses(plan.recipe):
        if label(use.component) == component:
            return path, str(path[1]) if len(path) > 1 else ""
    raise AssertionError(f"the recipe of this test does not use {component}: add it")


def settings(place: tuple[str | int, ...], component: str, name: str, plan: Plan) -> tuple[list[str], list[str]]:
    """What must be set for the option to be changed, and what changes it."""
    prefix = ".".join(map(str, place))
    given = OTHER.get(component, {}).get(name)
    if isinstance(given, (list, dict)):
        parts = (given["needs"], given["change"]) if isinstance(given, dict) else ([], given)
        needed, own = ([s if s.startswith("stages.") else f"{prefix}.{s}" for s in part] for part in parts)
        return needed, own
    if given is None:
        use = next(use for path, use in all_uses(plan.recipe) if path == place)
        field = dict(options_of(use.component.options))[name]
        given = json.dumps(other_value(value_at(use, name), field))
    return [], [f"{prefix}.{name}={given}"]


def value_at(use: Use[Any], name: str) -> Any:
    return next(value for path, value, _ in walk(use) if ".".join(map(str, path)) == name)


def other_value(value: Any, field: Any) -> Any:
    """Another value of the option's type, within its bounds."""
    types = [kind for kind in get_args(field.type) if kind is not type(None)] if is_union(field.type) else [field.type]
    kind, bounds = types[0], field.metadata
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if kind is bool:
        return not value
    if kind is int:
        return (value if value is not None else int(bounds["at_least"] or 0)) + 1
    if kind is float:
        most = bounds["at_most"]
        return 0.25 if value is None else value / 2 if value and (most is None or value / 2 != value) else 0.125
    if kind is str:
        return f"{value or ''}x"
    raise AssertionError(f"say in OTHER what another value of '{field.name}' ({field.type}) is")


def is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, type(int | None))


CONTENT = {
    "text.jsonl": "words",
    "chat.jsonl": "chat taught more-taught",
    "pairs.jsonl": "apo apo-down dpo ipo",
    "tokenizer.json": "other-words",
    "model/config.json": "brought",
    "model/tokenizer.json": "brought",
    "other-model/config.json": "",
}
"""The stages that read each file of data."""


@pytest.mark.parametrize("name", CONTENT)
def test_the_content_of_a_file_changes_the_stages_that_read_it(tmp_path: Path, name: str) -> None:
    recipe = lay_out(tmp_path)
    before = plan_of(recipe)
    (tmp_path / "data" / name).write_text(FILES[name].replace("{", '{"new": 1, ') + " ")
    after = plan_of(recipe)
    expected = [with_descendants(stage, after) for stage in CONTENT[name].split()]
    assert changed(before, after) == set().union(*expected)


def test_a_file_less_or_renamed_in_a_folder_changes_the_stage(tmp_path: Path) -> None:
    recipe = lay_out(tmp_path)
    before = plan_of(recipe)
    model = tmp_path / "data" / "model"
    (model / "config.json").rename(model / "renamed.json")
    renamed = plan_of(recipe)
    assert changed(before, renamed) == {"brought"}
    (model / "renamed.json").unlink()
    assert changed(renamed, plan_of(recipe)) == {"brought"}


def test_a_chat_template_of_ones_own_counts_by_its_content(tmp_path: Path) -> None:
    recipe = lay_out(tmp_path)
    template = tmp_path / "data" / "template.jinja"
    own = [f"stages.chat.chat_template={template}", f"stages.export.chat_template={template}"]
    before = plan_of(recipe, *own)
    elsewhere = str(shutil.copy(template, tmp_path / "elsewhere.jinja"))
    assert not changed(before, plan_of(recipe, *(setting.replace(str(template), elsewhere) for setting in own)))
    template.write_text(template.read_text() + "\n")
    after = plan_of(recipe, *own)
    assert changed(before, after) == with_descendants("chat", after) | with_descendants("export", after)


def test_a_merge_method_of_ones_own_counts_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = lay_out(tmp_path)
    own = tmp_path / "own_merge_method"
    own.mkdir()
    (own / "__init__.py").write_text("")
    (own / "work.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    setting = "stages.merge.defined_in=own_merge_method.work"
    before = plan_of(recipe, setting)
    (own / "work.py").write_text("a = 2\n")
    after = plan_of(recipe, setting)
    assert changed(before, after) == with_descendants("merge", after)


def test_a_local_folder_of_the_hub_source_counts_by_its_content(tmp_path: Path) -> None:
    recipe = lay_out(tmp_path)
    data = tmp_path / "data" / "set"
    data.mkdir()
    (data / "rows.jsonl").write_text("{}")
    setting = f"stages.chat.data.b.id={data}"
    before = plan_of(recipe, setting)
    (data / "rows.jsonl").write_text('{"text": 1}')
    after = plan_of(recipe, setting)
    assert changed(before, after) == with_descendants("chat", after)


def test_recipe_and_data_may_move_together(tmp_path: Path) -> None:
    before = plan_of(lay_out(tmp_path / "here"))
    assert not changed(before, plan_of(lay_out(tmp_path / "there" / "deeper")))


A, B = "a: {use: files, paths: [data/chat.jsonl], yields: chat}", "b: {use: hf_dataset, id: o/c, yields: chat}"


@pytest.mark.parametrize(
    ("one", "other", "stages"),
    [
        (A, B, "chat"),  # rows are joined in this order
        ("docs: 0.5", "code: 0.5", "first base"),  # samples are dealt to sources in this order
        ("from: apo, weight: 0.9", "from: dpo, weight: 0.1", "merge"),
        ("docs: {use: python_docs}", "code: {use: python_code}", ""),
        ("steps: 100", "sequence_length: 512", ""),
    ],
)
def test_the_order_of_entries_counts_where_results_follow_from_it(
    tmp_path: Path, one: str, other: str, stages: str
) -> None:
    """Options may be written in any order, and so may entries that a plugin takes one by one."""
    recipe = lay_out(tmp_path)
    before = plan_of(recipe)
    text = recipe.read_text()
    assert one in text and other in text
    recipe.write_text(text.replace(one, "<>").replace(other, one).replace("<>", other))
    after = plan_of(recipe)
    assert changed(before, after) == set().union(*(with_descendants(stage, after) for stage in stages.split()))
