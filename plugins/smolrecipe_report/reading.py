"""What a run's folder says of its stages. The files may be damaged or a stranger's; what is no record is said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from smolrecipe.published import DIGEST_DIGITS, read_events, read_record
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe.strict_json import printable, read_mapping


@frozen(kw_only=True)
class Stage:
    """One stage's folder.

    ``status`` is ``published``, ``unfinished``, ``damaged`` or ``not begun``, and ``note`` says more; ``parents`` has
    the digest of each stage that it is made from.
    """

    folder: Path
    name: str
    status: str
    note: str
    record: Mapping[str, Any]
    options: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]] = ()
    parents: Mapping[str, str] = Factory(dict)

    @property
    def summary(self) -> Mapping[str, Any]:
        """What a published stage counted."""
        summary: Mapping[str, Any] = self.record.get("summary", {})
        return summary

    @property
    def place(self) -> str:
        """The name of its folder once it is published: what ``parent_folders`` of later stages have."""
        return self.folder.name.removesuffix(".partial")

    def parent_folders(self) -> Mapping[str, str]:
        """The name of the folder of each stage that it is made from."""
        return {name: f"{name}-{digest[:DIGEST_DIGITS]}" for name, digest in self.parents.items()}

    def steps(self, key: str) -> list[tuple[int, float]]:
        """``(step, value)`` for each step that recorded a finite number under this key."""
        found = []
        for event in self.events:
            step, value = event.get("step"), event.get(key)
            if step is not None and is_number(value):
                number = _as_float(value)
                if math.isfinite(number) and abs(number) < 1e30 and 0 <= step < 10**12:
                    found.append((step, number))
        return found

    @property
    def last_step(self) -> int | None:
        """The last step that the stage has told of."""
        return max((event["step"] for event in self.events if "step" in event), default=None)

    @property
    def row_length(self) -> int | None:
        """Tokens of a row, at most."""
        length = self.options.get("sequence_length", self.options.get("max_length"))
        return length if isinstance(length, int) and not isinstance(length, bool) and 0 < length < 10**12 else None

    @property
    def theta(self) -> float | None:
        """The base of the rotary embedding, of a stage that makes or publishes a model."""
        model = self.options.get("model")
        rope = model.get("rope") if isinstance(model, dict) else None
        theta = rope.get("theta") if isinstance(rope, dict) else self._published_theta()
        return _as_float(theta) if is_number(theta) and 0 < theta < 1e30 else None

    def _published_theta(self) -> Any:
        """What the config.json of the published model says: stages of post-training have no model in their options."""
        try:
            config = read_mapping(self.folder / MODEL_FOLDER / "config.json")
        except ValueError:
            return None
        rope = config.get("rope_parameters")
        return rope.get("rope_theta") if isinstance(rope, dict) else config.get("rope_theta")

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that a step is made of: as the options say, or on average as the record counts them.

        Rows of post-training differ in length: its record has the tokens of a pass over each source, and the passes.
        """
        batch = self.options.get("global_batch")
        if "sequence_length" in self.options and is_number(batch) and self.row_length is not None:
            return float(batch * self.row_length)
        summary = self.summary
        sources, passes, steps = (summary.get(key) for key in ("sources", "passes", "steps"))
        if not isinstance(sources, dict) or not is_number(passes) or not is_number(steps) or steps <= 0:
            return None
        trained = [of for name, of in sources.items() if not str(name).startswith("held_out.") and isinstance(of, dict)]
        counts = [of["tokens"] for of in trained if is_number(of.get("tokens"))]
        return _as_float(sum(counts)) * passes / steps if counts else None

    @property
    def device(self) -> str:
        """Where a stage was to train, as its options have it."""
        layout = self.options.get("parallelism")
        device = layout.get("device") if isinstance(layout, dict) else None
        return device if isinstance(device, str) else ""

    @property
    def not_finite(self) -> int:
        """How many numbers in the events are NaN or infinite: no curve shows them."""
        return sum(isinstance(v, float) and not math.isfinite(v) for event in self.events for v in event.values())


def read_run(run: Path) -> list[Stage]:
    """Every stage folder of a run."""
    return [_read(folder) for folder in sorted(run.iterdir()) if _is_stage_folder(folder)]


def _is_stage_folder(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    digest = folder.name.removesuffix(".partial").rpartition("-")[2]
    return len(digest) == DIGEST_DIGITS and set(digest) <= set("0123456789abcdef")


def _read(folder: Path) -> Stage:
    name = folder.name.removesuffix(".partial").rpartition("-")[0]
    status, note = "published", ""
    record: dict[str, Any] = {}
    options: Any = {}
    if folder.name.endswith(".partial"):
        status, note = "unfinished", "not published"
        try:
            options = read_mapping(folder / "task.json").get("use")
        except ValueError:
            note = "not published, and its task cannot be read"
    else:
        try:
            record = read_record(folder / "stage.json")
            name, options = record["stage"], record["options"]
        except ValueError as error:
            status, note = "damaged", str(error)
    return Stage(
        folder=folder,
        name=printable(name),
        status=status,
        note=note,
        record=record,
        options=options if isinstance(options, dict) else {},
        events=read_events(folder / "metrics.jsonl"),
        parents=record.get("parents", {}),
    )


def is_number(value: Any) -> bool:
    """Whether this is a number, which ``true`` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
