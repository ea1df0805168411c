"""A bound on how long a stage's other processes go on when one of them is gone, whatever launcher and engine do."""

from __future__ import annotations

import time
from pathlib import Path

from smolrecipe.running.notes import is_alive, read_notes

LOSS_SECONDS = 60.0
"""How long the processes of a stage may outlive one of them that failed or was killed, before the runner ends them.

Launchers are quicker: ``local`` ends the others at once, and kills after 30 seconds those that do not heed it. Together
with the time that the runner gives them itself, no process is left a minute and a half after the first is gone.
"""

_LOOK_EVERY_SECONDS = 5.0


class LostProcessesError(Exception):
    """A process of the stage is gone, and the others have not ended."""


class Watch:
    """Looks after the processes of a running stage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0.0
        self._lost_since: float | None = None

    def look(self) -> None:
        """Look, now and then; call it often.

        Raises:
            LostProcessesError: when the others have had their time.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_EVERY_SECONDS
        if self._lost_since is None and self._is_one_lost():
            self._lost_since = now
        if self._lost_since is not None and now - self._lost_since > LOSS_SECONDS:
            raise LostProcessesError

    def _is_one_lost(self) -> bool:
        return any(
            note.state == "failed" or (note.state == "started" and not is_alive(self._folder, rank))
            for rank, note in read_notes(self._folder).items()
        )
