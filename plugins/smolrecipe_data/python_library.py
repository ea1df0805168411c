"""The sources ``python_docs`` and ``python_code``: text that every machine with Python and smolrecipe has."""

from __future__ import annotations

import ast
import importlib.metadata
import pydoc_data.topics
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smolrecipe import StageError
from smolrecipe_data.source_options import PythonCodeOptions, PythonDocsOptions

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def read_docs(options: PythonDocsOptions) -> Iterator[Mapping[str, Any]]:
    """Prose about Python: its language reference, the docstrings of its library, then each package's README and
    docstrings. A module's docstrings make one document.

    Raises:
        StageError: for a package that is not installed.
    """
    yield from _select(_docs(options.packages), options.shortest, options.rows)


def read_code(options: PythonCodeOptions) -> Iterator[Mapping[str, Any]]:
    """The files of Python's library without its tests, a file each, by name."""
    yield from _select(map(_source_text, _library_files()), options.shortest, options.rows)


def _select(texts: Iterator[str], shortest: int, rows: int | None) -> Iterator[Mapping[str, Any]]:
    count = 0
    for text in texts:
        if len(text) < shortest:
            continue
        if count == rows:
            return
        count += 1
        yield {"text": text}


def _docs(packages: list[str]) -> Iterator[str]:
    yield from (text.strip() for _, text in sorted(pydoc_data.topics.topics.items()))
    for path in _library_files():
        yield _docstrings(_source_text(path))
    for package in packages:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            raise StageError(f"source 'python_docs': package '{package}' is not installed") from None
        yield (distribution.read_text("METADATA") or "").partition("\n\n")[2].strip()
        for path in _package_files(distribution):
            yield _docstrings(_source_text(path))


def _library_files() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    if not found:
        raise StageError(f"the source files of Python's library are not in {root}: install a Python that has them")
    for path in found:
        # _sysconfigdata holds how this one Python was built; the topics are the prose of python_docs.
        if path.name.startswith("_sysconfigdata") or path.parts[0] == "pydoc_data":
            continue
        if not _SKIPPED_FOLDERS.intersection(path.parts) and not path.parts[0].startswith("config-"):
            yield root / path


def _package_files(distribution: importlib.metadata.Distribution) -> Iterator[Path]:
    for file in sorted(distribution.files or (), key=str):
        if file.suffix == ".py" and not _SKIPPED_FOLDERS.intersection(file.parts):
            yield Path(str(distribution.locate_file(file)))


def _source_text(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def _docstrings(source: str) -> str:
    """The docstrings of a module, its classes and functions in reading order, each under the name that it explains."""
    parts = []
    for node in _definitions(ast.parse(source)):
        text = ast.get_docstring(node)
        if text:
            parts.append(f"{node.name}: {text}" if hasattr(node, "name") else text)
    return "\n\n".join(parts)


def _definitions(node: Any) -> Iterator[Any]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _definitions(child)
