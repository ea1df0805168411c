"""What a plugin's command that launches recipes elsewhere works with: the plan, the run store, a run and its options.

For implementations of ``smolrecipe_commands``: the command line is loaded by then. It imports no engine.
"""

from __future__ import annotations

from smolrecipe.cli.held_run import grace_option
from smolrecipe.cli.lock_command import hold_to_lock, locked_options, refuse_sweep
from smolrecipe.cli.run_command import run
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.running import redact
from smolrecipe.running.notes import ends_file, is_alive, read_notes
from smolrecipe.running.runner import WORKER
from smolrecipe.running.store import RunStore
from smolrecipe.running.task import TASK_FILE
from smolrecipe.running.watch import LostProcessesError, Watch
from smolrecipe.stopping import asked_to_stop

__all__ = [
    "TASK_FILE",
    "WORKER",
    "LostProcessesError",
    "Plan",
    "PlannedStage",
    "RunStore",
    "Session",
    "Watch",
    "asked_to_stop",
    "ends_file",
    "grace_option",
    "hold_to_lock",
    "is_alive",
    "json_option",
    "locked_options",
    "read_notes",
    "recipe_arguments",
    "redact",
    "refuse_sweep",
    "run",
    "store_of",
    "store_option",
]
