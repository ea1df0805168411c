"""``smolrecipe lock``, and what ``smolrecipe run --locked`` asks before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from smolrecipe.cli.session import F, Session, recipe_arguments
from smolrecipe.durable import write_whole
from smolrecipe.errors import RecipeError
from smolrecipe.planning.plan import Plan
from smolrecipe.running.redact import redact_value
from smolrecipe.strict_json import read_mapping

_LOCK_BYTES = 2**26


@click.command(
    short_help="Write down what it takes to run a recipe again.",
    epilog="\b\nExamples:\n  smolrecipe lock mine.yaml              writes mine.lock.json\n"
    "  smolrecipe run mine.yaml --locked      refuses what is not as it says",
)
@recipe_arguments
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The lock file; beside the recipe where not given, here for a recipe that ships with smolrecipe.",
)
@click.pass_obj
def lock(session: Session, recipe: str, settings: tuple[str, ...], output: Path | None) -> None:
    """Write down what it takes to run a recipe again: values, sources, packages, data, seeds, commit, machine.

    The same recipe, sources and packages give the same file, so that it can be kept beside the recipe and compared.
    """
    from smolrecipe.provenance.document import document
    from smolrecipe.provenance.lock_file import lock_text

    refuse_sweep(session, recipe, settings, (), "lock")
    plan = session.plan(recipe, settings)
    target = output or default_lock(recipe, plan)
    made_with = redact_value(document(plan, session.registry.catalog))
    text = lock_text(made_with)
    _write(target, text)
    counts = ((len(made_with[what]), what) for what in ("stages", "plugins", "packages"))
    told = ", ".join(f"{count} {what if count != 1 else what.removesuffix('s')}" for count, what in counts)
    click.echo(f"{target}: {told}")


def locked_options(function: F) -> F:
    """The options of a command that may be held to a lock file."""
    function = click.option(
        "--lock",
        "lock_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The lock file for --locked; where 'smolrecipe lock' writes it if not given.",
    )(function)
    return click.option(
        "--locked", is_flag=True, help="Refuse, before anything runs, what is not as the lock file says."
    )(function)


def hold_to_lock(
    session: Session, recipe: str, settings: Sequence[str], *, locked: bool, lock_file: Path | None
) -> None:
    """What ``locked_options`` ask for: refuse what is not as the lock file says.

    Raises:
        RecipeError: with everything that differs.
    """
    if locked:
        _refuse_drift(session, recipe, session.plan(recipe, settings), lock_file)
    elif lock_file is not None:
        raise click.UsageError("--lock names the file for --locked: give both")


def _refuse_drift(session: Session, recipe: str, plan: Plan, lock_file: Path | None) -> None:
    """Refuse a plan that is not as its lock file says; what differs without changing a result is said.

    Raises:
        RecipeError: with everything that differs.
    """
    from smolrecipe.comparing.drift import drift
    from smolrecipe.comparing.sides import side_of_plan
    from smolrecipe.provenance.document import document
    from smolrecipe.provenance.lock_file import read_lock, structure_lock

    path = lock_file or default_lock(recipe, plan)
    catalog = session.registry.catalog
    locked = read_lock(path, catalog)
    now = structure_lock(redact_value(document(plan, catalog)), catalog, "this machine")
    found = drift(locked, now, side_of_plan(plan, plan.recipe.name, catalog), catalog)
    for note in found.notes:
        click.echo(f"note: not as locked, and no reason to stop: {note}", err=True)
    if found.problems:
        raise RecipeError(found.problems)


def refuse_sweep(session: Session, recipe: str, settings: Sequence[str], sweeps: Sequence[str], what: str) -> None:
    """Refuse a recipe in several variants.

    Raises:
        RecipeError: when it is one.
    """
    if session.sweep(recipe, settings, sweeps):
        raise RecipeError(
            [f"{what} takes one recipe, and this is a sweep: --set sweep=null, and one variant's values with --set"]
        )


def default_lock(recipe: str, plan: Plan) -> Path:
    """The lock file of a recipe: beside it, or here where it was not named by its file."""
    from smolrecipe.provenance.lock_file import lock_path

    file = plan.recipe.file
    return lock_path(file) if Path(recipe).is_file() else Path(lock_path(file).name)


def _write(target: Path, text: str) -> None:
    if target.exists():
        _refuse_to_overwrite(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text)
    except OSError as error:
        raise RecipeError(
            [f"the lock file {target} cannot be written ({error.strerror}): choose another with -o"]
        ) from None


def _refuse_to_overwrite(target: Path) -> None:
    try:
        is_lock = "lock" in read_mapping(target, most_bytes=_LOCK_BYTES)
    except ValueError:
        is_lock = False
    if not is_lock:
        raise RecipeError([f"{target} exists and is no lock file: choose another name with -o, or delete it"])
