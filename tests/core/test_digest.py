"""Digests: what changes a result changes them, where and how it is computed does not. End to end: what runs again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import frozen

import smolrecipe as sr
from smolrecipe.catalog import hash_of_files
from smolrecipe.errors import RecipeError
from smolrecipe.planning import digest
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import Registry, load_registry

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]
TOY = Path(__file__).parents[1] / "toy_plugin"

RECIPE = """\
name: toy
launcher: {use: direct}
stages:
  one: {use: count, to: 3, layers: {count: 4, kind: deep}, data: {w: {use: words, file: words.txt}}}
  two: {use: count, to: 2, from: one}
  three: {use: count, to: 1, from: two}
  other: {use: count, to: 1}
"""


@pytest.fixture
def own_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy plugin that a test may change, for the processes that it starts."""
    folder = tmp_path / "site"
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy")
    return folder


@pytest.fixture
def recipe(write_recipe: Write, tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("a")
    return write_recipe(RECIPE)


@pytest.fixture
def ran(smolrecipe: Run, recipe: Path) -> Callable[..., set[str]]:
    """Which stages a run really runs."""

    def ran(*arguments: str, file: Path = recipe) -> set[str]:
        out = smolrecipe("run", file, "--json", *arguments, check=0).stdout
        return {stage["stage"] for stage in json.loads(out)["stages"] if stage["ran"]}

    return ran


def test_exactly_the_stages_that_depend_on_a_change_run_again(
    ran: Callable[..., set[str]], recipe: Path, tmp_path: Path, own_toy: Path
) -> None:
    everything = {"one", "two", "three", "other"}
    assert ran() == everything
    assert ran() == set()

    def rewrite(old: str, new: str) -> None:
        assert old in recipe.read_text()
        recipe.write_text(recipe.read_text().replace(old, new))

    rewrite("to: 2", "to: 5")
    assert ran() == {"two", "three"}
    (tmp_path / "words.txt").write_text("b")
    assert ran() == {"one", "two", "three"}
    rewrite("to: 1}\n", "to: 1, seconds: 0.01, processes: 1, device: cpu}\ntrackers: [{use: file}]\n")
    rewrite("use: direct", "use: direct, gpus: 4")
    assert ran() == set()
    (tmp_path / "there").mkdir()
    for name in ("recipe.yaml", "words.txt"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    assert ran(file=tmp_path / "there" / "recipe.yaml") == set()
    with (own_toy / "smolrecipe_toy" / "__init__.py").open("a") as source:
        source.write("\n# another source\n")
    assert ran(file=tmp_path / "there" / "recipe.yaml") == everything


@pytest.fixture
def digests(smolrecipe: Run, recipe: Path) -> Callable[..., dict[str, str]]:
    def digests(*before: str, file: Path = recipe) -> dict[str, str]:
        out = smolrecipe(*before, "plan", file, "--json", check=0).stdout
        return {stage["stage"]: stage["digest"] for stage in json.loads(out)["stages"]}

    return digests


def test_a_plugins_version_and_any_file_of_it_count(digests: Callable[..., dict[str, str]], own_toy: Path) -> None:
    seen = [digests()]

    def changes_all() -> bool:
        seen.append(digests())
        return all(seen[-1][name] != seen[-2][name] for name in seen[-1])

    info = own_toy / "smolrecipe_toy-1.0.dist-info"
    (info / "METADATA").write_text((info / "METADATA").read_text().replace("Version: 1.0", "Version: 1.1"))
    info.rename(own_toy / "smolrecipe_toy-1.1.dist-info")
    assert changes_all()
    package = own_toy / "smolrecipe_toy"
    (package / "templates").mkdir()
    (package / "templates" / "chat.jinja").write_text("a")
    assert changes_all()
    (package / "templates" / "chat.jinja").write_text("b")
    assert changes_all()
    (package / "templates" / "chat.jinja").rename(package / "templates" / "other.jinja")
    assert changes_all()
    for name in (".__init__.py.swp", "__init__.py~", ".DS_Store"):
        (package / name).write_text("an editor's")
    assert digests() == seen[-1], "what editors leave is no source"


def test_nothing_counts_that_is_not_of_the_result(
    digests: Callable[..., dict[str, str]], toy_plugin: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder that a command is given in, the seed of Python's hashes, the plugins that are loaded besides."""
    before = digests()
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    assert digests() == before
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    monkeypatch.delenv("SMOLRECIPE_PLUGINS")
    assert digests("--plugins", "toy") == digests() == before
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert digests(file=Path(os.path.relpath(tmp_path / "recipe.yaml", tmp_path))) == before


@frozen(kw_only=True)
class Corner:
    pipe: sr.Use[sr.Source] | None = sr.option(default=None, doc="a component")
    file: Path | None = sr.option(default=None, doc="a file")


@frozen(kw_only=True)
class ReadOptions:
    file: Path | None = sr.option(default=None, doc="a file")


@frozen(kw_only=True)
class MixOptions:
    data: Mapping[str, sr.Use[sr.Source]] = sr.option(factory=dict, doc="joined in their order")
    any_order: Mapping[str, float] = sr.option(factory=dict, ordered=False, doc="in any order")
    corner: Corner = sr.option(factory=Corner, identity=False, doc="where it is computed")
    module: str = sr.option(default="", doc="something of one's own")


class Mixing:
    """A plugin with the shapes of options that the toy plugin has not."""

    words: ClassVar = {"own": "first"}

    @sr.hookimpl
    def smolrecipe_stages(self) -> Any:
        yield sr.StageKind(
            name="mix",
            summary="mix",
            options=MixOptions,
            run=lambda options, context: sr.Artifact(),
            produces=lambda options: {},
            fingerprint=lambda options: self.words.get(options.module, ""),
        )

    @sr.hookimpl
    def smolrecipe_sources(self) -> Any:
        read = {"read": lambda options: (), "yields": lambda options: "text", "options": ReadOptions}
        yield sr.Source(name="silent", summary="a source without a word for its data", **read)
        yield sr.Source(name="speaking", summary="one with", fingerprint=lambda options: "the same", **read)


@pytest.fixture
def registry(toy_plugin: None) -> Registry:
    return load_registry(("toy",), extra=[("mixing", Mixing())])


@pytest.fixture
def plan(write_recipe: Write, registry: Registry) -> Callable[..., Plan]:
    def plan(stages: str, **files: str) -> Plan:
        for name, text in files.items():
            write_recipe(text, f"{name}.yaml")
        path = write_recipe(f"name: toy\nlauncher: {{use: direct}}\nstages:\n{stages}")
        hook = registry.manager.hook
        return make_plan(structure(compose(path), path, registry.catalog), registry.catalog, hook)

    return plan


@pytest.fixture
def digest_of(plan: Callable[..., Plan]) -> Callable[..., str]:
    return lambda stages, **files: plan(stages, **files).stages[-1].digest


def test_comments_the_order_of_options_and_extends_do_not_count(digest_of: Callable[..., str]) -> None:
    one = digest_of("  a: {use: count, to: 3, pair: [1e-4, 2], layers: {count: 4, kind: deep}, flag: false}\n")
    base = "pair: [0.0001, 2.0]\nlayers: {kind: deep}\nto: 7\n"
    text = "  # a comment\n  a:\n    extends: base.yaml\n    to: 3  # three\n    layers: {count: 4}\n    use: count\n"
    assert digest_of(text, base=base) == one


def test_the_order_of_entries_counts_unless_a_plugin_takes_them_in_any(digest_of: Callable[..., str]) -> None:
    def mix(entries: str, option: str = "data") -> str:
        return digest_of(f"  a: {{use: mix, {option}: {{{entries}}}}}\n")

    assert mix("b: {use: words}, c: {use: silent}") != mix("c: {use: silent}, b: {use: words}")
    assert mix("b: 1, c: 2", "any_order") == mix("c: 2, b: 1", "any_order")
    assert mix("b: 1, c: 2", "any_order") != mix("b: 2, c: 1", "any_order")
    models = ["{m: {use: layers}, n: {use: odd}}", "{n: {use: odd}, m: {use: layers}}"]
    assert len({digest_of(f"  a: {{use: build, model: {model}}}\n") for model in models}) == 2


def test_nothing_inside_an_option_without_effect_counts(digest_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("content")
    plain = digest_of("  a: {use: mix}\n")
    assert digest_of("  a: {use: mix, corner: {file: file.txt, pipe: {use: words, words: [z]}}}\n") == plain


def test_a_source_without_a_word_for_its_data_is_known_by_its_files(
    digest_of: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "file.txt"

    def with_content(source: str, content: str) -> str:
        file.write_text(content)
        return digest_of(f"  a: {{use: mix, data: {{w: {{use: {source}, file: file.txt}}}}}}\n")

    assert with_content("silent", "one") != with_content("silent", "two")
    assert with_content("speaking", "one") == with_content("speaking", "two")


def test_a_stage_kinds_own_word_counts(digest_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module's source does that an option only names."""
    before = digest_of("  a: {use: mix, module: own}\n")
    monkeypatch.setitem(Mixing.words, "own", "second")
    assert digest_of("  a: {use: mix, module: own}\n") != before


def test_what_is_linked_into_a_folder_counts(digest_of: Callable[..., str], tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    folder.mkdir()
    (elsewhere / "file.txt").write_text("one")
    (folder / "sub").symlink_to(elsewhere)
    (folder / "back").symlink_to(folder)  # which must not be followed for ever
    before = digest_of("  a: {use: take, folder: folder}\n")
    (elsewhere / "file.txt").write_text("two")
    assert digest_of("  a: {use: take, folder: folder}\n") != before


def test_data_that_cannot_be_read_is_told_with_its_place(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("content")

    def refuse(*arguments: Any) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path / "folder" / "file.txt"))

    monkeypatch.setattr(digest, "file_hash", refuse)
    with pytest.raises(RecipeError) as caught:
        plan("  a: {use: take, folder: folder}\n  b: {use: take, from: a, folder: folder}\n")
    assert [str(problem).partition("recipe.yaml:")[2] for problem in caught.value.problems] == [
        f"4:18: stage 'a': {tmp_path}/folder/file.txt cannot be read (Permission denied)",
        f"5:27: stage 'b': {tmp_path}/folder/file.txt cannot be read (Permission denied)",
    ]


def test_a_folder_that_cannot_be_meant_is_refused_soon(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_MOST_FILES", 3)
    (tmp_path / "folder").mkdir()
    for number in range(4):
        (tmp_path / "folder" / f"{number}").write_text("")
    with pytest.raises(RecipeError, match=r"holds more than 3 files: name what is meant"):
        plan("  a: {use: take, folder: folder}\n")


def test_a_hash_of_files_follows_names_and_contents() -> None:
    listings = [{}, {"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"}, {"a\nb": "1"}]
    assert len({hash_of_files(listing) for listing in listings}) == len(listings)
    assert hash_of_files({"a": "1", "b": "2"}) == hash_of_files({"b": "2", "a": "1"})


EDITS_WHILE_RUNNING = """
import smolrecipe


@smolrecipe.hookimpl
def smolrecipe_after_stage(run, artifact):
    if run.stage == "one":
        from pathlib import Path

        with Path(PATH).open("a") as file:
            file.write("more")
"""


@pytest.mark.parametrize(
    ("edited", "stage", "reason"),
    [
        ("words.txt", "one", "the data behind data.w changed while it ran"),
        ("site/smolrecipe_toy/data.txt", "two", "the source of plugin 'toy' changed after this run was planned"),
    ],
)
def test_what_changes_during_a_run_is_not_published_under_the_old_name(
    smolrecipe: Run, recipe: Path, own_toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    edited: str, stage: str, reason: str,
) -> None:  # fmt: skip
    (own_toy / "smolrecipe_toy" / "data.txt").write_text("some")
    editing, info = own_toy / "editing.py", own_toy / "editing-1.0.dist-info"
    editing.write_text(EDITS_WHILE_RUNNING.replace("PATH", repr(str(tmp_path / edited))))
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: editing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smolrecipe]\nediting = editing\n")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,editing")
    failed = smolrecipe("run", recipe, check=1)
    assert f"stage '{stage}': {reason}" in failed.stderr and "Traceback" not in failed.stderr
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy")
    again = json.loads(smolrecipe("run", recipe, "--json", check=0).stdout)
    assert all(stage["ran"] for stage in again["stages"]), "what was made of other data is not taken for this"
