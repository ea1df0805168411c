"""What went wrong, where, and what to do about it: the errors a person reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen


@frozen
class Place:
    """A position in a recipe file (line and column count from 1), or a command-line origin such as ``--set``."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def folder(self) -> Path:
        """The folder that relative paths written at this place start from."""
        return Path(self.file).parent if self.line is not None else Path()


@frozen
class Problem:
    """One mistake in a recipe: a sentence that says what is wrong and what to do, and its place where it has one."""

    message: str
    place: Place | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place is not None else self.message


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with ``exit_code``."""

    exit_code = 1


class RecipeError(UserError):
    """A recipe, a command line or an environment that cannot be run as it is: all problems found, at once."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = tuple(problem if isinstance(problem, Problem) else Problem(problem) for problem in problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StageError(UserError):
    """A stage that cannot go on, in a sentence for its user.

    Stage code raises it for everything that is not a bug: an empty data set, a tokenizer that does not fit the model,
    a loss that is no longer finite. Any other exception is reported as a crash, with the path of the log.
    """


class StageStopped(UserError):  # noqa: N818  it is no error: the stage did what it was asked to
    """A stage that was asked to stop (``StageContext.heed_stop``) and has saved what it goes on from after ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped after step {step}")


class InterruptedRunError(UserError):
    """The run was stopped from outside while a stage was running."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def near_miss(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word that looks most like ``word``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
