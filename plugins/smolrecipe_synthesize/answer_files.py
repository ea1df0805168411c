"""Answers on disk, appended as they come: one file for each model and process, a line for each answer.

A line counts once it is whole, and with it the lines that it belongs together with. What a kill has cut short at the
end of a file is cut off by the process that goes on writing it, and passed over by all others.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from attrs import define, field, frozen

from smolrecipe import Answer, StageError
from smolrecipe.durable import sync_folder
from smolrecipe_synthesize.options import SynthesizeOptions

ANSWERS_FOLDER = "answers"
TEACHER, REJECTED = "teacher", "rejected"

_FOLLOWED = b'"followed": true}\n'
"""How a line ends that belongs together with the next."""


def roles(options: SynthesizeOptions) -> tuple[str, ...]:
    """What the models of a stage are called: the names of their options."""
    return (TEACHER,) if options.rejected is None else (TEACHER, REJECTED)


@frozen(kw_only=True)
class Kept:
    """An answer as it lies in a file."""

    row: int
    turn: int
    answer: Answer

    def line(self) -> bytes:
        """Its line."""
        told = {
            "row": self.row,
            "turn": self.turn,
            "text": self.answer.text,
            "end": self.answer.end,
            "prompt_tokens": self.answer.prompt_tokens,
            "tokens": self.answer.tokens,
            **({"followed": True} if self.answer.followed else {}),  # the last key, see _FOLLOWED
        }
        # Lone surrogates, which a model may write, have no place in UTF-8: JSON's own escapes do.
        return json.dumps(told, ensure_ascii=True).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes, where: str) -> Kept:
        """Raises: StageError: when the line is not what ``line`` writes."""
        try:
            told = json.loads(line)
            row, turn = told.pop("row"), told.pop("turn")
            return cls(row=row, turn=turn, answer=Answer(number=row, **told))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StageError(
                f"{where} is damaged ({error}): delete that file, and its answers are asked for again"
            ) from None


def answer_file(folder: Path, role: str, rank: int) -> Path:
    """The file that a process appends a model's answers to."""
    return folder / ANSWERS_FOLDER / f"{role}-{rank:05d}.jsonl"


@define
class AnswerIndex:
    """Where each answer of a model lies, in the files of all processes: some 16 bytes for each."""

    folder: Path
    role: str
    _files: list[Path] = field(factory=list, init=False)
    _read: dict[Path, int] = field(factory=dict, init=False)
    """How far each file has been read, in bytes."""
    _places: list[tuple[array[int], array[int]]] = field(factory=list, init=False)
    """For each turn, by row: the number of the file plus 1 (0 where there is no answer), and where in it."""
    _counts: list[int] = field(factory=list, init=False)

    def look(self) -> None:
        """Take in what has been appended since the last look."""
        for file in sorted((self.folder / ANSWERS_FOLDER).glob(f"{self.role}-*.jsonl")):
            start = self._read.get(file, 0)
            if file.stat().st_size <= start:
                continue
            for place, line in _whole_lines(file, start):
                kept = Kept.parse(line, f"{file}, byte {place}")
                self.add(kept, file, place)
                self._read[file] = place + len(line)

    def add(self, kept: Kept, file: Path, place: int) -> None:
        """Take in one answer; the first of two to one turn counts."""
        if file not in self._files:
            self._files.append(file)
        while len(self._places) <= kept.turn:
            self._places.append((array("l"), array("q")))
            self._counts.append(0)
        files, places = self._places[kept.turn]
        if len(files) <= kept.row:
            more = kept.row + 1 - len(files)
            files.extend([0] * more)
            places.extend([0] * more)
        if not files[kept.row]:
            files[kept.row], places[kept.row] = self._files.index(file) + 1, place
            self._counts[kept.turn] += 1

    def has(self, row: int, turn: int) -> bool:
        """Whether a turn of a row is answered."""
        return turn < len(self._places) and row < len(self._places[turn][0]) and bool(self._places[turn][0][row])

    def count(self) -> int:
        """Answers, of all turns."""
        return sum(self._counts)

    def get(self, row: int, turn: int) -> Answer:
        """The answer to a turn that has one."""
        files, places = self._places[turn]
        file = self._files[files[row] - 1]
        with file.open("rb") as opened:
            opened.seek(places[row])
            kept = Kept.parse(opened.readline(), f"{file}, byte {places[row]}")
        if (kept.row, kept.turn) != (row, turn):
            raise StageError(f"{file} was changed while it was read: delete it, and its answers are asked for again")
        return kept.answer

    def earlier(self, row: int, turn: int) -> list[str] | None:
        """The answers to the turns before one; nothing where one of them was refused."""
        found = []
        for before in range(turn):
            answer = self.get(row, before)
            if answer.end == "refused":
                return None
            found.append(answer.text)
        return found


class AnswerWriter:
    """Appends to one file; what is written is on the disk when ``write`` returns."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(exist_ok=True)
        self.file = file
        self._opened: BinaryIO = file.open("ab")
        end = 0
        for place, line in _whole_lines(file, 0):
            end = place + len(line)
        if end < self._opened.tell():
            os.truncate(file, end)
        sync_folder(file.parent)

    def write(self, kept: Sequence[Kept]) -> list[int]:
        """Append answers that belong together, in one go; returns where each begins."""
        lines = [each.line() for each in kept]
        place = self._opened.seek(0, os.SEEK_END)
        places = [place + sum(map(len, lines[:index])) for index in range(len(lines))]
        self._opened.write(b"".join(lines))
        self._opened.flush()
        os.fsync(self._opened.fileno())
        return places

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def _whole_lines(file: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Each line from a place on that counts, with where it begins."""
    together: list[tuple[int, bytes]] = []
    with file.open("rb") as opened:
        opened.seek(start)
        place = start
        for line in opened:
            if not line.endswith(b"\n"):
                return
            together.append((place, line))
            place += len(line)
            if not line.endswith(_FOLLOWED):
                yield from together
                together = []
