"""A generator whose answers are known beforehand, and prompts for it, for tests of ``synthesize``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe import (
    Answer,
    Candidate,
    Generator,
    NoOptions,
    Request,
    RowFilter,
    SamplingOptions,
    Source,
    StageContext,
    Use,
    option,
)
from smolrecipe_synthesize import smolrecipe_stages
from smolrecipe_synthesize.options import SynthesizeOptions

(STAGE,) = smolrecipe_stages()


@frozen(kw_only=True)
class RowsOptions:
    rows: list[Any] = option(doc="the rows")
    yields: str = option(default="problem", doc="their shape")


ROWS = Source(
    name="rows",
    summary="",
    options=RowsOptions,
    read=lambda options: iter(json.loads(json.dumps(options.rows))),
    yields=lambda options: options.yields,
)


def rows(*content: Mapping[str, Any], yields: str = "problem") -> Use[Source]:
    return Use(ROWS, RowsOptions(rows=list(content), yields=yields))


def problems(count: int) -> Use[Source]:
    """Problems whose answer is the number that they ask for."""
    return rows(
        *(
            {
                "messages": [{"role": "user", "content": f"say {number}"}],
                "answer": str(number),
                "chat_template_kwargs": {"enable_thinking": bool(number % 2), "tools": None},
            }
            for number in range(count)
        )
    )


@frozen(kw_only=True)
class EchoOptions(SamplingOptions):
    says: str = option(default="", doc="what is put before each answer")
    together: int = option(default=1, doc="how many answers are computed at once")
    errs: int = option(default=0, doc="every so manieth answer is another one")


class TroubleError(RuntimeError):
    """What a killed process does not say."""


class Echo:
    """A generator that answers with the last message, and remembers what it was asked."""

    def __init__(self, ends_after: int | None = None, refuses: Callable[[Request], str] = lambda request: "") -> None:
        self.asked: list[Request] = []
        self.ends_after = ends_after
        self.refuses = refuses

    def use(self, **more: Any) -> Use[Generator]:
        component = Generator(
            name="echo",
            summary="",
            options=EchoOptions,
            open=self.open,
            model=lambda options: f"echo{options.says}",
            hours=lambda options, tokens: tokens / 3600,
            cost=lambda options, tokens: tokens / 1000,
        )
        return Use(component, EchoOptions(**more))

    @contextmanager
    def open(self, options: EchoOptions, context: StageContext) -> Iterator[Any]:
        def answer(requests: Iterable[Request]) -> Iterator[Answer]:
            batch: list[Request] = []
            for request in requests:
                self.asked.append(request)
                batch.append(request)
                if len(batch) == options.together:
                    yield from self.answers(batch, options)
                    batch = []
            yield from self.answers(batch, options)

        yield answer

    def answers(self, batch: list[Request], options: EchoOptions) -> Iterator[Answer]:
        for index, request in enumerate(reversed(batch)):
            if self.ends_after is not None:
                if not self.ends_after:
                    raise TroubleError
                self.ends_after -= 1
            followed = index < len(batch) - 1
            if why := self.refuses(request):
                yield Answer(number=request.number, text=why, end="refused", followed=followed)
                continue
            text = f"{options.says}{request.messages[-1]['content'].removeprefix('say ')}"
            if options.errs and request.number % options.errs == 0:
                text = f"not {text}"
            yield Answer(number=request.number, text=text, prompt_tokens=2, tokens=3, followed=followed)


def dropping(reason: Callable[[Candidate], str]) -> Use[RowFilter]:
    component = RowFilter(name="test", summary="", options=NoOptions, open=lambda options, context: reason)
    return Use(component, NoOptions())


def context(folder: Path, rank: int = 0, of: int = 1, said: list[Any] | None = None) -> StageContext:
    folder.mkdir(exist_ok=True)
    return StageContext(
        recipe="test",
        stage="made",
        folder=folder,
        rank=rank,
        world_size=of,
        report=lambda event: said.append(event) if said is not None else None,
    )


def made(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted((folder / "rows").iterdir()) for line in file.open()]


def asked(echo: Echo) -> list[int]:
    return [request.number for request in echo.asked]


def pairs(teacher: Echo, other: Echo, **more: Any) -> SynthesizeOptions:
    return SynthesizeOptions(
        prompts={"first": problems(7), "second": problems(16)},
        mode="pairs",
        teacher=teacher.use(together=4),
        rejected=other.use(says="x", together=3),
        **more,
    )
