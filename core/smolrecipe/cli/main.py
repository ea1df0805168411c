"""The entry point: builds the command group, lets plugins add to it, and turns errors into sentences."""

from __future__ import annotations

import signal
import sys

import click

from smolrecipe import __version__
from smolrecipe.cli.group import CommandGroup
from smolrecipe.cli.session import Session
from smolrecipe.errors import InterruptedRunError, RecipeError, UserError
from smolrecipe.stopping import Interrupted, interrupt
from smolrecipe_registry.restriction import RESTRICTION, restriction_from_environment, split_names

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


def _complete_plugins(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from smolrecipe.cli.plugins_command import complete_plugins

    return complete_plugins(incomplete)


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="smolrecipe")
@click.option(
    "--plugins",
    metavar="NAMES",
    shell_complete=_complete_plugins,
    help=f"Load only these plugins, separated by commas (also {RESTRICTION}).",
)
@click.pass_context
def cli(context: click.Context, plugins: str | None) -> None:
    """Run whole language-model recipes from one file."""
    context.obj = Session(split_names(plugins) if plugins is not None else restriction_from_environment())


for name, target, short_help in (
    ("run", "run_command:run", "Run a recipe, or all variants of one."),
    ("plan", "plan_command:plan", "Show what would run and why, and what it would take."),
    ("validate", "validate_command:validate", "Check a recipe without running it."),
    ("show", "show_command:show", "Show a recipe after 'extends' and overrides."),
    ("ls", "ls_command:ls", "List the artifacts in the run store."),
    ("diff", "diff_command:diff", "Say what differs between two recipes, runs or artifacts."),
    ("why", "why_command:why", "Say why a stage would run, go on or be skipped."),
    ("status", "status_command:status", "Say how far a run has come."),
    ("lock", "lock_command:lock", "Write down what it takes to run a recipe again."),
    ("verify", "verify_command:verify", "Prove what was published, claim by claim."),
    ("_verify", "verify_command:verify_worker", ""),
    ("plugins", "plugins_command:plugins", "List plugins and the names they offer, or test one alone."),
    ("docs", "docs_command:docs", "Show the options of a component, a hook or a class."),
    ("doctor", "doctor_command:doctor", "Say what this machine can do, and what is missing."),
    ("completion", "completion_command:completion", "Have a shell complete what you type."),
    ("plugin", "plugin_command:plugin", "Write a plugin of your own."),
    ("_stage", "stage_command:stage", ""),
    ("_dry_run", "dry_run:dry_run_worker", ""),
):
    cli.add_own(name, f"smolrecipe.cli.{target}", short_help)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 for a failed run, 2 for a mistake that can be mended."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        cli.ask_others(_add_plugin_commands)
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


def _add_plugin_commands(group: click.Group) -> None:
    """Let plugins add commands. A plugin whose hook fails is reported and adds none."""
    try:
        hook = Session(restriction_from_environment()).registry.manager.hook.smolrecipe_commands
    except UserError:
        return  # the command that asks for the plugins reports it
    for implementation in hook.get_hookimpls():
        try:
            implementation.function(group)
        except Exception as error:
            _say(f"plugin '{implementation.plugin_name}' could not add its commands: {type(error).__name__}: {error}")


cli.ask_others(_add_plugin_commands)


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
    from smolrecipe.running.redact import redact

    click.echo(redact(text), err=True)
