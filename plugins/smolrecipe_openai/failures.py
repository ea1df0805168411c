"""What goes wrong between us and a server, in sentences: what, where, how often it was tried, and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError

from smolrecipe import Answer, StageError
from smolrecipe_openai import OpenAiOptions
from smolrecipe_openai.replies import MalformedReplyError

KEPT = "What was answered is kept, and the same command goes on from there"

NO_KEY = "none"
"""What is sent where there is no key."""

OF_THE_REQUEST = (400, 413, 422)
"""Answers to one request alone: too long a context, a policy, a field that the server does not know."""

MOST_MODELS = 10
LONGEST_WORDS = 300


@frozen
class Failures:
    """Sentences about one endpoint; the key is in none of them."""

    options: OpenAiOptions
    key: str

    @property
    def _where(self) -> str:
        return f"'{self.options.model}' at {self.options.url}"

    def refusal(self, error: APIError) -> str | None:
        """Why the server refuses this one request, where it is that what it does."""
        if not isinstance(error, APIStatusError) or error.status_code not in OF_THE_REQUEST:
            return None
        return f"the server refused it ({error.status_code}): {self._said(error)}"

    def all_refused(self, refused: Sequence[Answer]) -> StageError:
        """The first requests have all been refused."""
        return StageError(
            f"{self._where} refused the first {len(refused)} requests and answered none, so that nothing is wrong with "
            f"these rows alone. Of the last one it says: {refused[-1].text}. Take what it does not know out of the "
            f"generator's options or the prompts' chat_template_kwargs. {KEPT}"
        )

    def malformed(self, error: MalformedReplyError) -> StageError:
        """A reply that is none."""
        return StageError(
            f"a reply of {self._where} {self._hide(str(error))}: is this an endpoint of OpenAI's chat completions, and "
            f"does 'url' end as its paths begin (most often in /v1)? {KEPT}"
        )

    def unreachable(self, error: APIConnectionError) -> StageError:
        """Nothing listens there, or it hangs up."""
        return StageError(
            f"{self.options.url} cannot be reached ({self._cause(error)}), tried {_times(error)}: start the server "
            f"that has '{self.options.model}', or mend 'url'. {KEPT}"
        )

    async def sentence(self, error: APIError, client: AsyncOpenAI) -> StageError:
        """What no request can be answered for."""
        if isinstance(error, APITimeoutError):
            return StageError(
                f"{self._where} did not answer within {self.options.timeout_seconds:g} seconds, tried {_times(error)}: "
                f"lower 'at_once' (now {self.options.at_once}) or raise 'timeout_seconds'. {KEPT}"
            )
        if isinstance(error, APIConnectionError):
            return self.unreachable(error)
        if not isinstance(error, APIStatusError):
            return StageError(f"{self._where} cannot be asked: {self._hide(_flat(str(error)))}. {KEPT}")
        status, said = error.status_code, self._said(error)
        if status in (401, 403):
            variable = self.options.api_key_variable
            what = "the key in" if self.key != NO_KEY else "requests without a key, and there is none in"
            return StageError(
                f"{self._where} refuses {what} the environment variable {variable} ({status}: {said}): set {variable} "
                f"to a key that may use this model, or name another variable in 'api_key_variable'. {KEPT}"
            )
        if status == 404:
            return StageError(
                f"{self._where} is not there (404: {said}): {await self._models(client)}or mend 'url', which ends as "
                f"the server's paths begin (most often in /v1). {KEPT}"
            )
        if status == 429 or status >= 500:
            wait = error.response.headers.get("retry-after", "")
            what = "is too busy to answer" if status == 429 else "fails"
            how = f"; it asks to be left alone for {wait} seconds" if wait.isdigit() else ""
            return StageError(
                f"{self._where} {what} ({status}: {said}), tried {_times(error)}{how}: lower 'at_once' (now "
                f"{self.options.at_once}), raise 'retries' (now {self.options.retries}), or look at the server. {KEPT}"
            )
        return StageError(f"{self._where} will not answer ({status}: {said}). {KEPT}")

    async def _models(self, client: AsyncOpenAI) -> str:
        """What to name as model, as far as the server tells."""
        try:
            raw = await client.with_options(max_retries=0, timeout=10.0).models.with_raw_response.list()
            reply = json.loads(raw.http_response.content)
            names = [model["id"] for model in reply["data"] if isinstance(model["id"], str)]
        except (OpenAIError, ValueError, KeyError, TypeError, RecursionError):
            names = []
        if not names:
            return "name a model that the server has, "
        more = f" and {len(names) - MOST_MODELS} more" if len(names) > MOST_MODELS else ""
        known = self._hide(", ".join(f"'{_short(name)}'" for name in names[:MOST_MODELS]))
        return f"the server has {known}{more}; name one of these in 'model', "

    def _said(self, error: APIStatusError) -> str:
        """The server's own words."""
        body = error.body
        if isinstance(body, Mapping):
            body = next((body[key] for key in ("message", "detail", "error") if body.get(key)), body)
        if body is None or body == "":
            return "without a word"
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str)
        return _short(self._hide(_flat(text)), LONGEST_WORDS)

    def _cause(self, error: APIConnectionError) -> str:
        cause: BaseException = error.__cause__ or error
        return self._hide(_flat(str(cause)) or type(cause).__name__)

    def _hide(self, text: str) -> str:
        """The text without the key, which some servers repeat."""
        return text.replace(self.key, "***") if self.key != NO_KEY else text


def _times(error: APIError) -> str:
    """How often the client has sent the request, as it notes down itself."""
    retries: Any = error.request.headers.get("x-stainless-retry-count", "0")
    times = int(retries) + 1 if str(retries).isdigit() else 1
    return "once" if times == 1 else f"{times} times"


def _flat(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _short(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
