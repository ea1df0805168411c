"""The page of the contract: every class that a plugin makes or is handed, with its fields and methods."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

import attrs

import smolrecipe
from smolrecipe_registry.reference.prose import call, docstring, markdown, table

MODULES = ("components", "options", "stage", "model", "data", "preference", "proof", "errors")
"""The core's modules that plugins build on, in the order in which the page has them."""


def descriptors_page() -> str:
    """All of the contract on one page."""
    parts = [
        "# The contract",
        "What a plugin imports from `smolrecipe`, module by module: the descriptors it offers, the classes its options "
        "are made of, and what its functions are handed and hand back.",
    ]
    for name in MODULES:
        module = importlib.import_module(f"smolrecipe.{name}")
        parts.append(f"## `smolrecipe.{name}`")
        parts.append(markdown(docstring(module)))
        parts += [described(thing, f"smolrecipe.{name}") for thing in _public(module)]
        if constants := list(_constants(module)):
            parts.append(table(["name", "what it is"], constants))
    return "\n\n".join(part for part in parts if part) + "\n"


def contract_names() -> list[str]:
    """The names that the page has a section for, as they are imported."""
    return [thing.__name__ for name in MODULES for thing in _public(importlib.import_module(f"smolrecipe.{name}"))]


def named(name: str) -> Any | None:
    """The class or function of the contract that goes by that name."""
    for module in MODULES:
        for thing in _public(importlib.import_module(f"smolrecipe.{module}")):
            if thing.__name__ == name:
                return thing
    return None


def described(thing: Any, module: str, *, level: int = 3) -> str:
    """The section of a class or of a function."""
    heading = "#" * level
    name = thing.__name__
    if not isinstance(thing, type):
        return f"{heading} `{name}`\n\n```python\n{call(thing)}\n```\n\n{markdown(docstring(thing))}"
    parts = [f"{heading} `{name}`"]
    bases = [base for base in thing.__mro__[1:-1] if base.__module__.startswith("smolrecipe.")]
    parts.append(markdown(docstring(thing)))
    if attrs.has(thing):
        inherited = {field.name for base in bases if attrs.has(base) for field in attrs.fields(base)}
        own = [field for field in attrs.fields(thing) if field.name not in inherited]
        above = ", ".join(f"[`{base.__name__}`](#{base.__name__.lower()})" for base in bases if attrs.has(base))
        if above:
            parts.append(f"Besides the fields of {above}:" if own else f"Its fields are those of {above}.")
        if own:
            parts.append(_field_table(thing, own))
    for method_name, method in vars(thing).items():
        if not method_name.startswith("_") and (text := _method(name, method_name, method)):
            parts.append(text)
    return "\n\n".join(part for part in parts if part)


def _public(module: Any) -> Iterator[Any]:
    """Classes and functions of ``smolrecipe`` that the module defines, in its order."""
    for name, value in vars(module).items():
        if name in smolrecipe.__all__ and getattr(value, "__module__", "") == module.__name__:
            yield value


def _field_table(thing: type, fields: list[Any]) -> str:
    documented = _attribute_docs(inspect.getsource(thing))
    with_docs = any(field.name in documented for field in fields)
    rows = [
        [
            f"`{field.name}`",
            f"`{_type_text(thing.__annotations__[field.name])}`",  # as written: attrs may have resolved field.type
            _default_text(field),
            *([markdown(documented.get(field.name, ""))] if with_docs else []),
        ]
        for field in fields
    ]
    return table(["field", "type", "default", *(["what it is"] if with_docs else [])], rows)


def _type_text(type_: Any) -> str:
    return type_ if isinstance(type_, str) else inspect.formatannotation(type_)


def _default_text(field: Any) -> str:
    default = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return f"`{default.factory()!r}`"
    if inspect.isfunction(default):
        return "a function"
    return f"`{default.__name__}`" if isinstance(default, type) else f"`{default!r}`"


def _method(owner: str, name: str, method: Any) -> str:
    if isinstance(method, property):
        return f"**`{owner}.{name}`**: {markdown(docstring(method.fget))}"
    function = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
    if not inspect.isfunction(function) or not docstring(function):
        return ""
    return f"**`{owner}.{call(function, bound=not isinstance(method, staticmethod))}`**: " + markdown(
        docstring(function)
    )


def _attribute_docs(source: str) -> dict[str, str]:
    """The strings that stand behind the assignments of a class or of a module."""
    tree: Any = ast.parse(textwrap.dedent(source))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body
    found = {}
    for statement, following in itertools.pairwise(body):
        target: Any = statement.target if isinstance(statement, ast.AnnAssign) else None
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
        if (
            isinstance(target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            found[target.id] = inspect.cleandoc(following.value.value)
    return found


def _constants(module: Any) -> Iterator[list[str]]:
    """Documented names of a module that are neither classes nor functions: row shapes, folder names."""
    for name, text in _attribute_docs(inspect.getsource(module)).items():
        value = getattr(module, name)
        written = f"`{name}`" + (f" = `{value!r}`" if isinstance(value, str) else "")
        yield [written, markdown(text)]
