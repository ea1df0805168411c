"""Requests in flight: as many as asked for, each answer handed on when it comes.

The client runs in a loop of its own thread, so that requests can be given up at any moment: when the stage stops, or
when it has read enough.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from attrs import frozen
from openai import APIConnectionError, APIError, APITimeoutError, AsyncOpenAI

from smolrecipe import Answer, Answering, Request, StageError
from smolrecipe_openai import OpenAiOptions
from smolrecipe_openai.failures import NO_KEY, Failures
from smolrecipe_openai.replies import MalformedReplyError, read_reply

T = TypeVar("T")

FIRST_ANSWERS = 8
"""Where the server refuses so many and has answered none, the fault is in what all have in common."""

GRACE_SECONDS = 30.0
"""How long requests that are already with the server may take where another one has failed for good."""

PROBE_SECONDS = 10.0


@contextmanager
def answering(options: OpenAiOptions) -> Iterator[Answering]:
    """An endpoint that is there.

    Raises:
        StageError: when nothing listens at the address, or what is to be the key is none.
    """
    key = os.environ.get(options.api_key_variable, "").strip() or NO_KEY
    if not (key.isascii() and key.isprintable()):
        raise StageError(
            f"what the environment variable {options.api_key_variable} has is no key: it has characters that no key has"
        )
    with _loop() as run:
        client = AsyncOpenAI(
            base_url=options.url, api_key=key, max_retries=options.retries, timeout=options.timeout_seconds
        )
        endpoint = Endpoint(options=options, client=client, failures=Failures(options, key), run=run)
        try:
            run(endpoint.reach()).result()
            yield endpoint.answer
        finally:
            run(client.close()).result()


@contextmanager
def _loop() -> Iterator[Callable[[Coroutine[Any, Any, T]], Future[T]]]:
    """A function that starts a coroutine in another thread; what still runs at the end is cancelled."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="smolrecipe-openai", daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@frozen(kw_only=True)
class Endpoint:
    """One model of a server."""

    options: OpenAiOptions
    client: AsyncOpenAI
    failures: Failures
    run: Callable[[Coroutine[Any, Any, Any]], Future[Any]]

    async def reach(self) -> None:
        """Find out whether anything listens there, before the first request waits for it through all its retries.

        Raises:
            StageError: when nothing does. What it says, and that it takes its time, is for the requests to find out.
        """
        try:
            await self.client.with_options(max_retries=0, timeout=PROBE_SECONDS).models.with_raw_response.list()
        except APITimeoutError:
            return
        except APIConnectionError as error:
            raise self.failures.unreachable(error) from None
        except APIError:
            return

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, see ``Answering``."""
        return _sift(self._fly(requests), self.failures)

    def _fly(self, requests: Iterable[Request]) -> Iterator[Answer]:
        waiting, flying, landed = iter(requests), set[Future[Answer]](), SimpleQueue[Future[Answer]]()
        failure: BaseException | None = None
        until: float | None = None
        more = True
        try:
            while True:
                while more and failure is None and len(flying) < self.options.at_once:
                    try:
                        request = next(waiting)
                    except StopIteration:
                        more = False
                    except Exception as error:  # whoever makes the requests: what is answered comes first
                        failure, until = error, time.monotonic() + GRACE_SECONDS
                    else:
                        future = self.run(self._ask(request))
                        flying.add(future)
                        future.add_done_callback(landed.put)
                if not flying:
                    break
                try:
                    future = landed.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                except Empty:
                    break
                flying.discard(future)
                wrong = future.exception()
                if wrong is None:
                    yield future.result()
                elif failure is None:
                    failure, until = wrong, time.monotonic() + GRACE_SECONDS
        finally:
            for future in flying:
                future.cancel()
        if failure is not None:
            raise failure

    async def _ask(self, request: Request) -> Answer:
        try:
            raw = await self.client.chat.completions.with_raw_response.create(**self._sent(request))
        except APIError as error:
            if (why := self.failures.refusal(error)) is not None:
                return Answer(number=request.number, text=why, end="refused")
            raise await self.failures.sentence(error, self.client) from None
        except UnicodeEncodeError:
            why = "it was not sent: its text has halves of characters, which JSON cannot carry"
            return Answer(number=request.number, text=why, end="refused")
        try:
            return read_reply(raw.http_response.content, request.number, self.options.stop)
        except MalformedReplyError as error:
            raise self.failures.malformed(error) from None

    def _sent(self, request: Request) -> dict[str, Any]:
        options = self.options
        more: dict[str, Any] = {}
        if options.top_k is not None:
            more["top_k"] = options.top_k
        if request.arguments:
            more["chat_template_kwargs"] = dict(request.arguments)
        sent: dict[str, Any] = {
            "model": options.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": request.seed,
            options.length_field: options.max_new_tokens,
        }
        if options.stop:
            sent["stop"] = list(options.stop)
        return {**sent, "extra_body": more or None}


def _sift(answers: Iterator[Answer], failures: Failures) -> Iterator[Answer]:
    """Hold back what is refused until one request has been answered.

    Raises:
        StageError: when the first ones are all refused: their rows are not given up for what is nobody's fault.
    """
    held: list[Answer] = []
    try:
        for answer in answers:
            if answer.end == "refused":
                held.append(answer)
                if len(held) == FIRST_ANSWERS:
                    raise failures.all_refused(held)
                continue
            yield from held
            yield answer
            break
        else:
            yield from held
        yield from answers
    finally:
        answers.close()  # type: ignore[attr-defined]  # it is a generator
