"""The entry point: builds the command group, lets plugins add to it, and turns errors into sentences."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from smolrecipe import __version__
from smolrecipe.cli import inspect_commands, plugins_command, run_command, stage_command
from smolrecipe.cli.session import Session, split_names
from smolrecipe.errors import RecipeError, UserError
from smolrecipe.running.runner import Interrupted
from smolrecipe_registry.discovery import RESTRICTION, restriction_from_environment

_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="smolrecipe")
@click.option(
    "--plugins",
    metavar="NAMES",
    help=f"Load only these plugins, separated by commas (also {RESTRICTION}).",
)
@click.pass_context
def cli(context: click.Context, plugins: str | None) -> None:
    """Run whole language-model recipes from one file."""
    context.obj = Session(split_names(plugins) if plugins is not None else restriction_from_environment())


for command in (
    run_command.run,
    inspect_commands.plan,
    inspect_commands.validate,
    inspect_commands.show,
    inspect_commands.ls,
    plugins_command.plugins,
    stage_command.stage,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 for a failed run, 2 for a mistake that can be mended."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _add_plugin_commands()
        cli.main(args=arguments, prog_name="smolrecipe", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except Interrupted as interrupted:
        after = f" after step {interrupted.step}" if interrupted.step is not None else ""
        _say(f"\ninterrupted in stage '{interrupted.stage}'{after}: the same command goes on from its last checkpoint")
        sys.exit(_INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        _say("\ninterrupted")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _add_plugin_commands() -> None:
    """Let plugins add commands. What fails here fails again, and is reported, when a command asks for the plugins."""
    try:
        registry = Session(restriction_from_environment()).registry
    except UserError:
        return
    registry.manager.hook.smolrecipe_commands(cli=cli)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _print_error(error: UserError) -> None:
    if isinstance(error, RecipeError):
        for problem in error.problems:
            prefix = "" if problem.place is not None and problem.place.line is not None else "error: "
            _say(f"{prefix}{problem}")
        if len(error.problems) > 1:
            _say(f"{len(error.problems)} problems")
    else:
        _say(f"error: {error}")


def _say(text: str) -> None:
    click.echo(text, err=True)
