"""The entry point: builds the command group, lets plugins add to it, and turns errors into sentences."""

from __future__ import annotations

import signal
import sys

import click

from smolrecipe import __version__
from smolrecipe.cli import (
    completion_command,
    diff_command,
    docs_command,
    doctor_command,
    dry_run,
    inspect_commands,
    lock_command,
    plan_command,
    plugin_command,
    plugins_command,
    run_command,
    stage_command,
    status_command,
    verify_command,
    why_command,
)
from smolrecipe.cli.session import Session, split_names
from smolrecipe.errors import RecipeError, UserError
from smolrecipe.running.failures import InterruptedRunError
from smolrecipe.running.redact import redact
from smolrecipe.stopping import Interrupted, interrupt
from smolrecipe_registry.discovery import RESTRICTION, restriction_from_environment

_EPILOG = """\b
Examples:
  smolrecipe run smollm3-tiny             minutes on two CPU cores
  smolrecipe status runs/smollm3-tiny     how far it is, from another terminal
  smolrecipe plan smollm3                 what would run, and what it takes

\b
Exit codes:
  0    done
  1    a stage failed, a claim of 'verify' does not hold, 'diff' found a
       difference, 'doctor' something lacking, 'plugins test' a failure
  2    the command, the recipe or the machine is not fit for it: nothing ran
  130  stopped by Ctrl-C; the same command goes on
  143  stopped by SIGTERM; the same command goes on
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="smolrecipe")
@click.option(
    "--plugins",
    metavar="NAMES",
    shell_complete=lambda context, parameter, incomplete: plugins_command.complete_plugins(incomplete),
    help=f"Load only these plugins, separated by commas (also {RESTRICTION}).",
)
@click.pass_context
def cli(context: click.Context, plugins: str | None) -> None:
    """Run whole language-model recipes from one file."""
    context.obj = Session(split_names(plugins) if plugins is not None else restriction_from_environment())


for command in (
    run_command.run,
    plan_command.plan,
    plan_command.validate,
    inspect_commands.show,
    inspect_commands.ls,
    diff_command.diff,
    why_command.why,
    status_command.status,
    lock_command.lock,
    verify_command.verify,
    verify_command.verify_worker,
    plugins_command.plugins,
    docs_command.docs,
    doctor_command.doctor,
    completion_command.completion,
    plugin_command.plugin,
    stage_command.stage,
    dry_run.dry_run_worker,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 for a failed run, 2 for a mistake that can be mended."""
    signal.signal(signal.SIGTERM, interrupt)
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
    except (KeyboardInterrupt, click.Abort) as error:
        _say("\ninterrupted")
        asked = error if isinstance(error, Interrupted) else error.__cause__  # click makes it an Abort
        sys.exit(asked.exit_code if isinstance(asked, Interrupted) else Interrupted().exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _add_plugin_commands() -> None:
    """Let plugins add commands. A plugin whose hook fails is reported and adds none."""
    try:
        hook = Session(restriction_from_environment()).registry.manager.hook.smolrecipe_commands
    except UserError:
        return  # the command that asks for the plugins reports it
    for implementation in hook.get_hookimpls():
        try:
            implementation.function(cli)
        except Exception as error:
            _say(f"plugin '{implementation.plugin_name}' could not add its commands: {type(error).__name__}: {error}")


def _print_error(error: UserError) -> None:
    if isinstance(error, RecipeError):
        for problem in error.problems:
            prefix = "" if problem.place is not None and problem.place.line is not None else "error: "
            _say(f"{prefix}{problem}")
        if len(error.problems) > 1:
            _say(f"{len(error.problems)} problems")
    elif isinstance(error, InterruptedRunError):
        _say(str(error))
    else:
        _say(f"error: {error}")


def _say(text: str) -> None:
    click.echo(redact(text), err=True)
