"""The reference in ``docs``: generated from the code, current, and true of it."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import pty
import re
import subprocess
import sys
import unittest
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import attrs
import click
import pytest
from attrs import frozen
from click.testing import CliRunner

from smolrecipe import (
    Artifact,
    Loss,
    Model,
    ModelComponent,
    Proof,
    Schedule,
    Source,
    StageContext,
    StageKind,
    StageRef,
    Use,
    Workload,
    hookspecs,
    option,
)
from smolrecipe.components import KINDS
from smolrecipe.errors import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe.testing import checks_of
from smolrecipe_registry import discovery
from smolrecipe_registry.discovery import Registry, load_registry
from smolrecipe_registry.reference import all_pages, page_about
from smolrecipe_registry.reference.__main__ import built_ins
from smolrecipe_registry.reference.components import FILES, HOOKS
from smolrecipe_registry.reference.hooks import hook_names, is_collected
from smolrecipe_registry.reference.prose import markdown
from smolrecipe_registry.reference.words import option_rows

Run = Callable[..., subprocess.CompletedProcess[str]]

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = DOCS / "reference"
COLLECTED = [name for name in hook_names() if is_collected(name)]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return built_ins()


def stale(pages: Mapping[str, str], folder: Path) -> list[str]:
    """The pages that are not in the folder as they are here, and files in it that are no page."""
    present = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    return sorted(path for path in pages.keys() | present.keys() if pages.get(path) != present.get(path))


def test_the_committed_pages_are_current(registry: Registry) -> None:
    assert stale(all_pages(registry.catalog), REFERENCE) == [], "run make docs"


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    pages = {"index.md": "a\n", "hooks/x.md": "b\n"}
    (tmp_path / "hooks").mkdir()
    for path, text in pages.items():
        (tmp_path / path).write_text(text)
    assert stale(pages, tmp_path) == []
    (tmp_path / "index.md").write_text("another\n")
    (tmp_path / "hooks" / "gone.md").write_text("c\n")
    assert stale(pages, tmp_path) == ["hooks/gone.md", "index.md"]


def test_pages_say_nothing_of_this_machine(registry: Registry, repository: Path) -> None:
    for path, text in all_pages(registry.catalog).items():
        assert str(repository) not in text and str(Path.home()) + "/" not in text, path
        assert not re.search(r"0x[0-9a-f]{6}", text), f"{path} holds an address in memory"


def test_making_the_pages_imports_no_engine() -> None:
    code = (
        "import sys; from smolrecipe_registry.reference.__main__ import built_ins;"
        "from smolrecipe_registry.reference import all_pages; assert len(all_pages(built_ins().catalog)) > 20;"
        "print(*sorted({'torch', 'transformers', 'trl', 'torchtitan', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


# --- Hooks ------------------------------------------------------------------------------------------------------------


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


# --- Components -------------------------------------------------------------------------------------------------------


def fields_of(options: type) -> Iterator[str]:
    """The options' own keys, without those of nested classes."""
    return (field.name.rstrip("_") for field in attrs.fields(options))


def test_every_component_has_its_section_and_every_option_a_documented_row(registry: Registry) -> None:
    seen = 0
    for component, _ in registry.catalog:
        page = (REFERENCE / "components" / f"{FILES[type(component)]}.md").read_text()
        (section,) = [
            text for text in re.split(r"^## ", page, flags=re.MULTILINE) if text.startswith(f"`{component.name}`\n")
        ]
        assert component.summary[1:] in section and component.source.replace("``", "`") in section
        options = section.partition("### Options")[2].partition("### ")[0]
        rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in options.splitlines() if line.startswith("| `")]
        assert [row[0] for row in rows if "." not in row[0]] == [f"`{key}`" for key in fields_of(component.options)]
        for key, type_words, default, meaning in rows:
            assert type_words and len(meaning) > len("."), f"{component.name}: {key}"
            assert default or type_words == "mapping", f"{component.name}: {key}"
        seen += len(rows)
    assert seen > 150


@frozen(kw_only=True)
class Inner:
    """Nested."""

    depth: int = option(default=2, at_least=1, at_most=9, doc="how deep", source="a paper")


@frozen(kw_only=True)
class Every:
    """One option of each type."""

    name_: str = option(doc="a name")
    path: Path | None = option(default=None, identity=False, doc="a place")
    ratio: float = option(default=1e-6, more_than=0, doc="a ratio")
    flag: bool = option(default=True, doc="a flag")
    shape: Literal["wide", "deep"] | int = option(default="wide", doc="a | b")
    pair: tuple[float, float] = option(default=(0.9, 0.95), doc="two")
    words: tuple[str, ...] = option(default=("a", "on"), doc="many")
    stages: list[StageRef] = option(needs=("tokens", "hf-model"), doc="stages")
    schedule: Use[Schedule] = option(doc="a schedule")
    data: Mapping[str, Use[Source]] = option(factory=dict, doc="data")
    model: Model = option(doc="the model")
    inner: Inner = option(factory=Inner, identity=False, doc="nested")
    several: list[Inner] = option(factory=list, doc="nested, often")


def test_types_bounds_defaults_and_identity_in_words() -> None:
    rows = {row.key: row for row in option_rows(Every)}
    assert {key: (row.type_words, row.default) for key, row in rows.items()} == {
        "name": ("text", ""),
        "path": ("path, or null", "null"),
        "ratio": ("number, more than 0", "1.0e-06"),
        "flag": ("true or false", "true"),
        "shape": ("one of `wide`, `deep`, or whole number", "wide"),
        "pair": ("list of 2: number, number", "[0.9, 0.95]"),
        "words": ("list, each a text", "[a, 'on']"),
        "stages": ("list, each a stage with `tokens` or `hf-model`", ""),
        "schedule": ("a schedule (`use:`)", ""),
        "data": ("mapping, each value a source (`use:`)", "{}"),
        "model": ("the model: a mapping of model components", ""),
        "inner": ("mapping", ""),
        "inner.depth": ("whole number, at least 1 and at most 9", "2"),
        "several": ("list, each a mapping", "[]"),
        "several[].depth": ("whole number, at least 1 and at most 9", "2"),
    }
    assert [key for key, row in rows.items() if row.required] == ["name", "stages", "schedule", "model"]
    assert [key for key, row in rows.items() if not row.identity] == ["path", "inner", "inner.depth"]


class Strange:
    """A stranger's plugin."""

    @hookspecs.hookimpl
    def smolrecipe_losses(self) -> list[Loss]:
        return [Loss(name="strange", summary="a loss", options=Inner, loss=lambda batch, options: None, extra="odd")]

    @hookspecs.hookimpl
    def smolrecipe_model_components(self) -> list[ModelComponent]:
        return [ModelComponent(name="strange", summary="a component", apply=lambda d, o: None, to_hf=None)]

    @hookspecs.hookimpl
    def smolrecipe_stages(self) -> list[StageKind]:
        made = {"tokens": True, "hf-model": "it is strange"}
        return [
            StageKind(name="make", summary="make", options=Every, run=lambda o, c: None, produces=lambda o: made),
            StageKind(
                name="plain", summary="make", run=lambda o, c: None, produces=lambda o: made, requires=("torch",)
            ),
        ]


def test_a_strangers_components_are_described_alike() -> None:
    catalog = load_registry((), extra=[("odd", Strange())]).catalog
    both = page_about("strange", catalog)
    assert "*Source: a paper*" in both and "none: a model with it is published as the engine's checkpoint only" in both
    assert "`hf-model`" in page_about("make", catalog) and "Produces: what its options say" in page_about(
        "make", catalog
    )
    assert "a \\| b" in page_about("make", catalog)
    plain = page_about("plain", catalog)
    assert "Produces: `tokens`, no `hf-model` (it is strange)" in plain and "Runs on: torch" in plain
    pages = all_pages(catalog)
    assert "Recipes name one with `use:` in `schedule` of `make`." in pages["components/schedules.md"]
    assert "each entry of `trackers:`" in pages["components/trackers.md"]


def test_docstrings_become_markdown() -> None:
    text = (
        "Do ``this\nand`` that::\n\n    x = 1\n\n    y\n\nMore.\n\n"
        "Args:\n    a, b: two\n        lines\n    c: one\n\nRaises:\n    E: if."
    )
    code, arguments, errors = "```python\nx = 1\n\ny\n```", "- `a, b`: two lines\n- `c`: one", "- `E`: if."
    assert markdown(text) == (
        f"Do `this and` that:\n\n{code}\n\nMore.\n\nArguments:\n\n{arguments}\n\nErrors:\n\n{errors}"
    )


# --- The command and the pages around ---------------------------------------------------------------------------------


def test_docs_prints_components_hooks_and_classes(smolrecipe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "apo,nope")
    component = smolrecipe("docs", "apo_zero", check=0).stdout
    assert component.startswith("# `apo_zero`\n") and "| `beta` | number, more than 0 | `0.1` |" in component
    assert smolrecipe("docs", "smolrecipe_losses", check=0).stdout.startswith("# `smolrecipe_losses`\n")
    of_class = smolrecipe("docs", "PreferenceBatch", check=0).stdout
    assert "shape (batch,)" in of_class and "](" not in of_class
    listed = smolrecipe("docs", check=0).stdout
    assert "`apo_down`" in listed and "`gqa`" not in listed and "smolrecipe_commands" in listed


def test_docs_knows_a_near_miss_and_one_way_at_a_time(smolrecipe: Run, tmp_path: Path) -> None:
    assert "is called 'apo_zer'; did you mean 'apo_zero'?" in smolrecipe("docs", "apo_zer", check=2).stderr
    assert "'smolrecipe docs' lists what there is" in smolrecipe("docs", "qqqqqq", check=2).stderr
    assert "give a NAME or --out, not both" in smolrecipe("docs", "rope", "--out", tmp_path / "out", check=2).stderr
    assert not (tmp_path / "out").exists()


def test_docs_writes_what_is_committed(smolrecipe: Run, registry: Registry, tmp_path: Path) -> None:
    result = smolrecipe("--plugins", ",".join(registry.plugins), "docs", "--out", "out", check=0)
    assert result.stdout == f"{len(all_pages(registry.catalog))} pages written to out\n"
    assert stale(all_pages(registry.catalog), tmp_path / "out") == []


def test_docs_is_rendered_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "smolrecipe", "--plugins", "nope", "docs", "nope"],
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        timeout=60,
        check=True,
    )
    shown = os.read(ours, 2**16).decode()
    assert "every" in shown and "\x1b[" in shown and "| ---" not in shown and "##" not in shown


def anchors(text: str) -> set[str]:
    """What GitHub calls a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md")), ""])
def test_links_lead_somewhere(page: str, repository: Path) -> None:
    pages = [repository / page] if page else sorted(REFERENCE.rglob("*.md"))
    followed = 0
    for file in pages:
        text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith("http"):
                path, _, anchor = target.partition("#")
                there = (file.parent / path).resolve() if path else file
                assert there.exists(), f"{file}: {target}"
                assert not anchor or anchor in anchors(there.read_text()), f"{file}: {target}"
                followed += 1
    assert followed


def test_every_kind_has_a_page() -> None:
    assert FILES.keys() == KINDS.keys()
