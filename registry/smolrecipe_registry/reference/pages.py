"""The set of pages: an index, the contract, a page for each hook and for each kind of component."""

from __future__ import annotations

import re
from pathlib import Path

from smolrecipe.catalog import Catalog
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe_registry.reference.components import FILES, kind_page, section, title
from smolrecipe_registry.reference.descriptors import contract_names, described, descriptors_page, named
from smolrecipe_registry.reference.hooks import hook_names, hook_page, hook_summary, is_collected
from smolrecipe_registry.reference.prose import inline, table

INDEX = "index.md"


def all_pages(catalog: Catalog) -> dict[str, str]:
    """Every page by its path in the folder of the reference, as Markdown."""
    pages = {INDEX: index_page(catalog), "descriptors.md": descriptors_page()}
    pages |= {f"hooks/{name}.md": hook_page(name) for name in hook_names()}
    return pages | {
        f"components/{file}.md": kind_page(kind, catalog, descriptors="../descriptors.md", hooks="../hooks")
        for kind, file in FILES.items()
    }


def index_page(catalog: Catalog) -> str:
    """What there is: components by kind, then hooks."""
    parts = ["# Reference", "Generated from what is installed; `smolrecipe docs NAME` prints one entry."]
    parts.append("## Components")
    for kind, file in FILES.items():
        rows = [
            [f"[`{component.name}`](components/{file}.md#{component.name})", inline(component.summary)]
            for component, _ in catalog
            if type(component) is kind
        ]
        parts.append(f"### [{title(kind)}](components/{file}.md)")
        parts.append(table(["`use:`", "what it is"], rows) if rows else "No plugin offers one.")
    parts.append("## Hooks")
    collected = [name for name in hook_names() if is_collected(name)]
    acting = [name for name in hook_names() if not is_collected(name)]
    for heading, names in (("What plugins offer", collected), ("Where plugins act", acting)):
        rows = [[f"[`{name}`](hooks/{name}.md)", hook_summary(name)] for name in names]
        parts.append(f"### {heading}\n\n{table(['hook', 'what it does'], rows)}")
    parts.append("## The contract")
    parts.append(
        "[Every class that a plugin makes or is handed](descriptors.md): "
        + ", ".join(f"[`{name}`](descriptors.md#{name.lower()})" for name in contract_names())
        + "."
    )
    return "\n\n".join(parts) + "\n"


def page_about(name: str, catalog: Catalog) -> str:
    """What there is under a name: components of any kind, a hook, or a class of the contract.

    Raises:
        RecipeError: when nothing goes by that name.
    """
    found = [
        section(component, provider, catalog, level=1) for component, provider in catalog if component.name == name
    ]
    if name in hook_names():
        found.append(hook_page(name))
    thing = named(name)
    if thing is not None:
        found.append(described(thing, thing.__module__, level=1))
    if found:
        return without_links("\n\n".join(found))
    known = [*{component.name for component, _ in catalog}, *hook_names(), *contract_names()]
    reasons = "".join(f"\nset aside: plugin '{plugin}': {reason}" for plugin, reason in catalog.set_aside.items())
    hint = near_miss(name, sorted(known)) or "; 'smolrecipe docs' lists what there is"
    raise RecipeError([f"nothing installed is called '{name}'{hint}{reasons}"])


def without_links(text: str) -> str:
    """Markdown for a terminal: a link between pages leads nowhere there, its text stays."""
    return re.sub(r"\[([^\]]+)\]\([^)\s]+\)", r"\1", text)


def write_pages(catalog: Catalog, folder: Path) -> list[Path]:
    """Write every page below ``folder`` and return the files; other files in it stay as they are."""
    written = []
    for path, text in all_pages(catalog).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written
