"""A page for each hook: its exact signature, when it is called, what it returns, and an example that runs."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import smolrecipe
from smolrecipe import hookspecs
from smolrecipe.hookspecs import PROJECT
from smolrecipe_registry.reference.prose import docstring, first_line, inline, markdown

WHEN = {
    "smolrecipe_check_plan": "By every command that makes a plan (`validate`, `plan`, `run`), before anything runs. "
    "The problems of all plugins are reported together, and then nothing runs.",
    "smolrecipe_warn_of_plan": "By `smolrecipe plan`, for a recipe whose plan is valid. What all plugins ask about is "
    "told after the tables and keeps nothing from running; an exception is told in its place.",
    "smolrecipe_before_stage": "In each process of a stage that really runs, before its kind's `run`. "
    "An exception fails the stage.",
    "smolrecipe_after_stage": "In each process of a stage that really ran, after its kind's `run` and before the "
    "artifact is published: what the hook writes into `run.folder` is published with it. An exception fails the stage.",
    "smolrecipe_verify_model": "By `smolrecipe verify`, once for each Hugging Face checkpoint, in a process of its own "
    "on a CPU. An exception is reported as a claim that does not hold.",
    "smolrecipe_find_recipe": "For a reference that is no file and no shipped recipe. The first plugin that returns a "
    "file decides.",
    "smolrecipe_commands": "When commands are listed, or one is called that is not smolrecipe's own. A plugin whose "
    "hook fails is reported and adds no commands.",
}
"""When the hooks are called that act; the others are called once, and what they offer enters the catalog."""

_COLLECTED = (
    "Once in every process, when plugins are loaded. What it yields enters the catalog, where recipes find it by name. "
    "A plugin whose hook fails is set aside with its traceback (`smolrecipe plugins --traceback`); two plugins that "
    "offer one name are an error that names both."
)

_IMPORTS = (
    {"contextlib": "import contextlib", "sys": "import sys", "Path": "from pathlib import Path"},
    {"click": "import click", "frozen": "from attrs import frozen"},
)
"""How examples import what is not of ``smolrecipe``: the standard library, then other packages."""


def hook_names() -> list[str]:
    """The hooks in the order in which the specifications list them."""
    return [name for name, value in vars(hookspecs).items() if hasattr(value, f"{PROJECT}_spec")]


def is_collected(name: str) -> bool:
    """Whether the hook's result enters the catalog."""
    return name not in WHEN


def signature(name: str) -> str:
    """``def hook(arguments) -> result`` on one line, as a plugin implements it."""
    found = inspect.signature(getattr(hookspecs, name))
    arguments = ", ".join(f"{parameter.name}: {parameter.annotation}" for parameter in found.parameters.values())
    return f"def {name}({arguments}) -> {found.return_annotation}"


def example(name: str) -> str:
    """The example of the hook's docstring as a whole module, its imports first."""
    code = inspect.cleandoc(docstring(getattr(hookspecs, name)).partition("Example::\n")[2])
    return f"{_imports(code)}\n\n\n{code}"


def hook_page(name: str, descriptors: str = "../descriptors.md") -> str:
    """The page of one hook; ``descriptors`` is the address of the page that its types are described on."""
    specification = getattr(hookspecs, name)
    described = docstring(specification).partition("Example::")[0].strip()
    mentioned = [
        (type_name, getattr(smolrecipe, type_name))
        for type_name in dict.fromkeys(re.findall(r"[A-Z]\w+", signature(name)))
        if hasattr(smolrecipe, type_name)
    ]
    types = [
        f"- [`{type_name}`]({descriptors}#{type_name.lower()}): {first_line(type_)}" for type_name, type_ in mentioned
    ]
    options: dict[str, Any] = getattr(specification, f"{PROJECT}_spec")
    returned = str(inspect.signature(specification).return_annotation)
    if returned == "None":
        returns = "Nothing."
    elif options["firstresult"]:
        returns = f"`{returned}`; `None` lets the next plugin look."
    else:
        returns = f"`{returned}`: a list, or a generator that yields them."
    parts = [
        f"# `{name}`",
        markdown(described),
        f"## Signature\n\n```python\n{signature(name)}\n```\n\n"
        "An implementation may leave out arguments that it does not need.",
        f"## When it is called\n\n{WHEN.get(name, _COLLECTED)}",
        f"## What it returns\n\n{returns}",
        *(["## Its types\n\n" + "\n".join(types)] if types else []),
        f"## Example\n\nA whole plugin module:\n\n```python\n{example(name)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def hook_summary(name: str) -> str:
    """One line about the hook."""
    return inline(docstring(getattr(hookspecs, name)).partition("\n")[0])


def _imports(code: str) -> str:
    """Import lines for the names that the code uses and does not define."""
    nodes = list(ast.walk(ast.parse(code)))
    wanted = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    blocks = [[line for name, line in group.items() if name in wanted] for group in _IMPORTS]
    core = sorted(wanted & set(smolrecipe.__all__), key=lambda name: (name[0].islower(), name))
    blocks.append(["import smolrecipe", *([f"from smolrecipe import {', '.join(core)}"] if core else [])])
    return "\n\n".join("\n".join(block) for block in blocks if block)
