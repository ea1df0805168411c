"""What a stage sees of its run and what it hands back."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, frozen

from smolrecipe.errors import StageError
from smolrecipe.options import StageRef
from smolrecipe.published import read_events as read_events  # plugins find it here
from smolrecipe.published import read_record
from smolrecipe.stopping import heed_stop_signal

STAGE_FILE = "stage.json"
"""In a published artifact: resolved options, parents, versions, timings, measures, summary."""

METRICS_FILE = "metrics.jsonl"
"""In every stage's folder: one line for each event that it reported."""

MODEL_FOLDER = "model"
"""Where an artifact keeps its Hugging Face checkpoint: safetensors, ``config.json``, tokenizer and chat template."""

TOKENIZER_FOLDER = "tokenizer"
"""Where an artifact that only has a tokenizer keeps it, as ``AutoTokenizer`` loads it."""

CHECKPOINTS_FOLDER = "checkpoints"
"""Where an artifact keeps an engine's own checkpoints, and in ``checkpoints/<name>`` others that it publishes."""

TOKENS_FOLDER = "tokens"
"""Where an artifact keeps token files: ``tokens/<source>/<train|held_out>/*.ds``, as datatrove writes them.

A ``.ds`` file holds little-endian token ids, of two bytes where the vocabulary allows it and else of four, its
``.ds.index`` the ends of its documents as 64-bit token counts, its ``.ds.metadata`` the lines ``name|bytes per token``
and the number of tokens. ``tokens/tokens.json`` names the tokenizer (``sha256``, ``vocab_size``, ``end_of_document``,
``end_of_document_id``), ``tokens/<source>/source.json`` has a finished source's counts.
"""

ROWS_FOLDER = "rows"
"""Where an artifact keeps rows of chats, preference pairs or texts that it made: ``rows/*.jsonl``, one row a line, read
in the order of the files' names. Recipes name them with ``{use: synthesized, from: <stage>}``.
"""

GRACE_VARIABLE = "SMOLRECIPE_GRACE"
"""Environment variable of a stage's processes: the seconds that they have to end in once they are asked to stop. A
launcher that passes SIGTERM on waits as long before it kills.
"""

LAUNCHER_VARIABLE = "SMOLRECIPE_LAUNCHER"
"""Environment variable in which a launcher may name its process id to the workers that it starts on its own machine. A
worker whose launcher is gone before it has begun ends at once then, and is no orphan.
"""

ENDS_VARIABLE = "SMOLRECIPE_ENDS"
"""Environment variable of a launcher: a file in which it may say how its workers ended, for the sentence about a stage
that failed, as JSON: rank -> exit code (negative for a signal) and time in seconds since 1970, ``{"1": [-9, 1.7e9]}``.
"""


@frozen(kw_only=True)
class Measure:
    """Something measured on data that was not trained on, before and after a stage (or only after)."""

    name: str
    after: float
    before: float | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    samples: int | None = None


@frozen(kw_only=True)
class Artifact:
    """What a stage hands back: its files already lie in the context's folder."""

    measures: tuple[Measure, ...] = ()
    summary: Mapping[str, Any] = Factory(dict)
    """Counts and facts worth keeping, JSON values only: tokens seen, truncated samples, final loss."""


@frozen(kw_only=True)
class StageContext:
    """One process' view of a running stage.

    ``folder`` is the stage's own: everything it writes lies there. A stage started again after an interruption finds
    what it had written and goes on from it; after a success the folder is renamed into its published place.
    With ``world_size`` > 1 every process gets the same folder and rank 0 writes.
    """

    recipe: str
    stage: str
    folder: Path
    inputs: Mapping[str, Path] = Factory(dict)
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    report: Callable[[Mapping[str, Any]], None] = lambda event: None

    def input(self, ref: StageRef, what: str = MODEL_FOLDER) -> Path:
        """The folder ``what`` in the artifact that ``ref`` names (or its checkpoint, for ``stage@checkpoint``).

        Raises:
            StageError: when the artifact has no such folder.
        """
        root = self.inputs[ref.stage]
        path = root / CHECKPOINTS_FOLDER / ref.checkpoint / what if ref.checkpoint else root / what
        if not path.exists():
            raise StageError(f"stage '{ref.stage}' published no '{path.relative_to(root)}' ({root})")
        return path

    def record(self) -> Mapping[str, Any]:
        """What ``stage.json`` says of the published artifact in ``folder``: for a stage kind's ``verify``.

        Raises:
            StageError: when it is damaged.
        """
        try:
            return read_record(self.folder / STAGE_FILE)
        except ValueError as error:
            raise StageError(str(error)) from None

    def events(self) -> list[dict[str, Any]]:
        """What the stage in ``folder`` has reported so far, or ever: steps with their metrics, and sentences."""
        return read_events(self.folder / METRICS_FILE)

    def progress(self, step: int, steps: int, **metrics: float) -> None:
        """Report that ``step`` of ``steps`` is done, with its metrics (loss, learning rate, tokens per second).

        What the stage's processes hold of memory is told with it.
        """
        if self.rank == 0:
            self.report({"step": step, "steps": steps, **metrics})

    def saved(self, step: int) -> None:
        """Report that a checkpoint of ``step`` is whole on disk: an interrupted stage goes on from there."""
        if self.rank == 0:
            self.report({"checkpoint": step})

    def heed_stop(self) -> Callable[[], bool]:
        """Take over what SIGTERM means for this process: the returned function says whether the stage is to stop.

        A stage that asks after every step saves a checkpoint when told so and raises ``StageStopped``; it has the grace
        period of ``smolrecipe run`` for it (60 seconds where not given), after which it is killed. Processes of one
        stage get the signal at different moments: they must agree before one of them stops. A stage that never calls
        this is ended by the signal at once, which is right where everything it writes is durable step by step.
        """
        return heed_stop_signal()

    def say(self, message: str) -> None:
        """Report a sentence about what the stage is doing or has found, for the terminal and the log."""
        if self.rank == 0:
            self.report({"message": message})


_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it dies, so that no orphan writes a stage.

    For processes that a stage starts itself; call it first thing in them. Only Linux has it; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
