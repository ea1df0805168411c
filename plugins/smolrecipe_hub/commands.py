"""The commands ``card`` and ``push``; what takes long to import is imported when one of them is used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from smolrecipe import RecipeError, Source, StageError, UserError
from smolrecipe.completing import complete_run, complete_stage
from smolrecipe.durable import write_whole
from smolrecipe_hub.lineage import Lineage, find_model, trace
from smolrecipe_hub.markdown import is_hub_name

_EXTRA = "pip install 'smolrecipe[hub]'"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,60}")

_run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path), shell_complete=complete_run)
_stage_option = click.option(
    "--stage",
    metavar="STAGE",
    shell_complete=complete_stage,
    help="The stage whose model is meant.  [default: the one exported]",
)
_licence_option = click.option(
    "--license", "licence", metavar="ID", help="The licence of the weights as the Hub writes it: apache-2.0, other, ..."
)


@click.command(
    name="card",
    short_help="Write the model card of what a run has made.",
    epilog="\b\nExamples:\n  smolrecipe card runs/smollm3-tiny\n"
    "  smolrecipe card runs/smollm3-tiny --license apache-2.0 -o README.md",
)
@_run_argument
@_stage_option
@_licence_option
@click.option("--repo", metavar="ORG/NAME", help="The repository that the card's code loads the model from.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the card there instead of printing it.",
)
@click.pass_obj
def card_command(
    session: Any, run: Path, stage: str | None, licence: str | None, repo: str | None, output: Path | None
) -> None:
    """Write a model card: how RUN's model was made, of what data, with what scores and limits.

    Everything in it comes from the records that the stages have published. The artifact itself stays as it is: the card
    is printed, or written to --output, and 'push' uploads it as README.md.
    """
    check_names(licence, repo)
    lineage = _trace(run, stage)
    text = _write(session, lineage, repository=repo, licence=licence)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_whole(output, text)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): choose another with --output") from None
    click.echo(f"{output}: the card of stage '{lineage.target.stage}' ({lineage.target.folder})", err=True)


def check_names(licence: str | None, repo: str | None) -> None:
    """Refuse what the Hub would not take.

    Raises:
        RecipeError: naming the option.
    """
    problems = []
    if licence is not None and _LICENCE.fullmatch(licence) is None:
        problems.append(f"--license {licence!r} is no identifier as the Hub writes them: apache-2.0, mit, other, ...")
    if repo is not None and not (is_hub_name(repo) and len(repo) <= 96 and "--" not in repo):
        problems.append(f"{repo!r} is no name of a repository on the Hub: write ORG/NAME")
    if problems:
        raise RecipeError(problems)


def _trace(run: Path, stage: str | None) -> Lineage:
    target, notes = find_model(run, stage)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    lineage = trace(target)
    for name in lineage.missing:
        click.echo(f"note: {name}, which it was made from, is not in {target.folder.parent}", err=True)
    return lineage


def _write(session: Any, lineage: Lineage, **asked: Any) -> str:
    """The card's text, without the secrets of this environment."""
    try:
        from smolrecipe_hub.card import Asked, write_card
    except ModuleNotFoundError as error:
        raise RecipeError([f"a card needs {error.name}, which is not installed: {_EXTRA}"]) from None
    from smolrecipe.handing_on import redact

    known = frozenset(session.registry.catalog.names(Source)) if session is not None else frozenset()
    try:
        return redact(write_card(lineage, Asked(known_sources=known, **asked)))
    except StageError as error:
        raise UserError(f"{error}; 'smolrecipe verify {lineage.target.folder}' says what else is damaged") from None


@click.command(
    name="push",
    short_help="Upload a model with its card to the Hugging Face Hub.",
    epilog="\b\nExamples:\n  smolrecipe push runs/smollm3-tiny me/tiny --dry-run\n"
    "  smolrecipe push runs/smollm3-tiny me/tiny --revisions --private",
)
@_run_argument
@click.argument("repo", metavar="REPO")
@_stage_option
@_licence_option
@click.option("--revisions", is_flag=True, help="Also upload the models on the way to it, a branch each.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded, and the card; no network is asked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_obj
def push_command(
    session: Any,
    run: Path,
    repo: str,
    stage: str | None,
    licence: str | None,
    revisions: bool,
    private: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upload RUN's model with its card to REPO (ORG/NAME) on the Hugging Face Hub.

    Every file is held against the artifact's manifest first. Uploaded is what loading the model takes, and nothing
    else: no optimizer state, no logs, no data. With --revisions each model that a stage behind it has published becomes
    a branch, named as SmolLM3's are: stage1-step-40000, lc-4k-to-32k-step-4000, it-sft.
    """
    from smolrecipe_hub.gather import gather

    check_names(licence, repo)
    lineage = _trace(run, stage)

    def card(lineage: Lineage, **asked: Any) -> str:
        return _write(session, lineage, repository=repo, licence=licence, **asked)

    parcel = gather(lineage, card, with_revisions=revisions)
    if dry_run:
        from smolrecipe_hub.dry_run import show

        show(parcel, repo, private=private, as_json=as_json)
        return
    try:
        from smolrecipe_hub.upload import upload
    except ModuleNotFoundError as error:
        raise RecipeError([f"uploading needs {error.name}, which is not installed: {_EXTRA}"]) from None
    address = upload(repo, parcel, private=private, say=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"address": address, "branches": [branch.name for branch in parcel]}, indent=2))
    else:
        click.echo(f"uploaded: {address}")
