"""What a shell completes after ``smolrecipe``: recipes, runs, stages. For ``shell_complete`` of click's parameters.

For implementations of ``smolrecipe_commands`` too: ``click.argument("run", shell_complete=complete_run)``. Nothing is
said and nothing raised here: what cannot be read completes to nothing. It is light until a shell asks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

__all__ = ["complete_recipe", "complete_recipe_or_run", "complete_run", "complete_stage"]

_SAFE = re.compile(r"[\w./+@%,:=-]+")
"""What a shell takes as it stands: click's scripts quote nothing."""
_STAGE_FOLDER = re.compile(r"(?P<stage>.+)-[0-9a-f]{12}(\.partial)?")


def complete_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Recipes that ship with smolrecipe, YAML files, and folders on the way to one."""
    return _items(incomplete, [*_shipped(incomplete), *_files(incomplete)])


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The runs in the run store (``runs/``, or what ``SMOLRECIPE_RUNS`` names), and else folders."""
    return _items(incomplete, _runs())


def complete_recipe_or_run(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """What either would complete to."""
    runs = _runs()
    files = (path for path in _files(incomplete) if path.removesuffix("/") not in runs)
    return _items(incomplete, [*_shipped(incomplete), *runs, *files])


def complete_stage(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The stages of the recipe, or of the run, that stands before it on the command line; of all runs without one."""
    from click.shell_completion import CompletionItem

    given = _given(context)
    if recipe := given.get("recipe"):
        names: Iterable[str] = _stages_of_recipe(str(recipe), given.get("settings") or ())
    else:
        runs = [Path(given["run"])] if given.get("run") else map(Path, _runs())
        names = sorted({stage for run in runs for stage in _stages_of_run(run)})
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and _SAFE.fullmatch(name)]


def _given(context: click.Context) -> dict[str, Any]:
    """What stands before on the command line; click reads no arguments before an option whose value is typed."""
    arguments = [parameter.name for parameter in context.command.params if parameter.param_type_name == "argument"]
    unread = {str(name): value for name, value in zip(arguments, context.args, strict=False)}
    return {**unread, **{name: value for name, value in context.params.items() if value is not None}}


def _items(incomplete: str, found: Iterable[str]) -> list[CompletionItem[str]]:
    """Those that begin so. A folder that is the only one is left to the shell, which puts no space behind it."""
    from click.shell_completion import CompletionItem

    fit = [text for text in dict.fromkeys(found) if text.startswith(incomplete) and _SAFE.fullmatch(text)]
    if not fit or (len(fit) == 1 and fit[0].endswith("/")):
        return [CompletionItem(incomplete, type="dir")]
    return [CompletionItem(text) for text in fit]


def _shipped(incomplete: str) -> Iterable[str]:
    from smolrecipe.recipe.shipped import shipped_recipes

    return () if "/" in incomplete else sorted(shipped_recipes())


def _files(incomplete: str) -> Iterator[str]:
    """YAML files, and folders with a slash behind them, beside what is being typed."""
    above, slash, begun = incomplete.rpartition("/")
    for path in _listed(Path(above + slash)):
        if path.name.startswith(".") and not begun.startswith("."):
            continue
        if path.is_dir():
            yield f"{above}{slash}{path.name}/"
        elif path.suffix in (".yaml", ".yml"):
            yield f"{above}{slash}{path.name}"


def _runs() -> list[str]:
    store = Path(os.environ.get("SMOLRECIPE_RUNS") or "runs")
    return [str(folder) for folder in _listed(store) if any(_stages_of_run(folder))]


def _stages_of_run(run: Path) -> Iterator[str]:
    for folder in _listed(run):
        if (found := _STAGE_FOLDER.fullmatch(folder.name)) and folder.is_dir():
            yield found["stage"]


def _stages_of_recipe(reference: str, settings: Iterable[str]) -> list[str]:
    from smolrecipe.errors import UserError
    from smolrecipe.recipe.compose import compose
    from smolrecipe.recipe.settings import found
    from smolrecipe.recipe.shipped import shipped_recipe

    path = Path(reference)
    try:
        file = path if path.is_file() else shipped_recipe(reference)
        stages = None if file is None else found(compose(file, tuple(settings)), ["stages"])
    except (UserError, OSError, ValueError):
        return []
    return [*stages.value] if stages is not None and isinstance(stages.value, dict) else []


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []
