"""The reference in ``docs``: generated from the code, current, and true of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import attrs
import pytest
from attrs import frozen

from smolrecipe import (
    Loss,
    Model,
    ModelComponent,
    Schedule,
    Source,
    StageKind,
    StageRef,
    Use,
    hookspecs,
    option,
)
from smolrecipe.components import KINDS
from smolrecipe_registry.discovery import Registry, load_registry
from smolrecipe_registry.reference import all_pages, page_about
from smolrecipe_registry.reference.__main__ import built_ins
from smolrecipe_registry.reference.components import FILES
from smolrecipe_registry.reference.prose import markdown
from smolrecipe_registry.reference.words import option_rows

Run = Callable[..., subprocess.CompletedProcess[str]]

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = DOCS / "reference"


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
