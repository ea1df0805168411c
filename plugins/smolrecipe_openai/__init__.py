"""Answers of a model behind an endpoint that speaks OpenAI's chat completions: ``vllm serve``, SGLang, llama.cpp,
``transformers serve``, a hosted service.

What the recipe asks for is sent with each request: ``temperature``, ``top_p``, the most tokens, ``seed`` and, where
given, ``stop``, ``top_k`` and the arguments of the chat template (``chat_template_kwargs``). The last two are no part
of OpenAI's own API, which refuses them; vLLM and SGLang read both. What a server does with them is its own business:

- ``vllm serve`` fills in what is not sent from the model's ``generation_config.json``, a ``top_k`` among it; start it
  with ``--generation-config vllm`` to have nothing but what the recipe says.
- ``transformers serve`` (5.23, which the tests ask) reads ``chat_template_kwargs``, ``max_tokens`` and ``stop``, leaves
  the text of ``stop`` in the answer (it is cut off here), refuses ``top_k``, and looks at no length but that of the
  answer. At a temperature above 0 it draws only where the model's generation configuration says ``do_sample``. It
  seeds one generator for all that it computes: the same seed gives the same answer only with ``at_once: 1``.
- No server promises the same answer to the same seed on other hardware or in other company to the last bit.

So ``revision`` is the recipe's word for which model it is; nobody can check it from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal
from urllib.parse import urlsplit

from attrs import frozen

from smolrecipe import Answering, Generator, SamplingOptions, StageContext, hookimpl, option
from smolrecipe.sampling import check_sampling, hours_at


@frozen(kw_only=True)
class OpenAiOptions(SamplingOptions):
    """The options of the ``openai`` generator."""

    url: str = option(
        identity=False,
        doc="where the endpoint is, with the version that its paths begin with: http://localhost:8000/v1",
    )
    model: str = option(doc="what the server calls the model")
    revision: str = option(
        default="", doc="which version of the model the server has: part of the stage's digest, and not checked"
    )
    top_k: int | None = option(
        default=None,
        at_least=1,
        doc="draw from this many likeliest tokens; where not given nothing is said of it, and the server decides",
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = option(
        default="max_tokens",
        identity=False,
        doc="under which name 'max_new_tokens' is sent: every server knows max_tokens, except for OpenAI's models "
        "that reason",
    )
    api_key_variable: str = option(
        default="OPENAI_API_KEY",
        identity=False,
        doc="the environment variable that has the key; where it is not set 'none' is sent, which local servers take",
    )
    at_once: int = option(
        default=16, at_least=1, at_most=1000, identity=False, doc="requests that are asked at the same time"
    )
    timeout_seconds: float = option(
        default=600.0, more_than=0, identity=False, doc="how long the server may keep silent before it is asked again"
    )
    retries: int = option(
        default=8,
        at_least=0,
        identity=False,
        doc="how often a request is sent again where the server is busy, fails or cannot be reached, waiting half a "
        "second first, then twice as long each time up to eight seconds, or as long as the server says",
    )
    tokens_per_second: float | None = option(
        default=None,
        more_than=0,
        identity=False,
        doc="how many tokens of answers the endpoint writes in a second, over all requests, to tell hours from",
    )
    price_per_million: float | None = option(
        default=None, at_least=0, identity=False, doc="US dollars for a million tokens of answers, to tell costs from"
    )


def check(options: OpenAiOptions) -> Iterable[str]:
    """An address that is none, a key where its variable's name belongs, a model without a name."""
    try:
        parts = urlsplit(options.url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        yield "'url' is no address of an endpoint: write one like http://localhost:8000/v1"
    elif "@" in parts.netloc or parts.query:
        yield (
            "'url' has more than the address in it, and a recipe is no place for a key: put the key into an "
            "environment variable and name that in 'api_key_variable'"
        )
    if not options.model.strip():
        yield "'model' is empty: write what the server calls the model"
    if not options.api_key_variable.isidentifier():
        yield (
            "'api_key_variable' is no name of an environment variable: put the key into one, and write its name, "
            "like OPENAI_API_KEY"
        )
    yield from check_sampling(options)


def open_endpoint(options: OpenAiOptions, context: StageContext) -> AbstractContextManager[Answering]:
    """Reach the endpoint, see ``smolrecipe_openai.answering``."""
    from smolrecipe_openai.answering import answering

    return answering(options)


def hours(options: OpenAiOptions, tokens: int) -> float | None:
    """How long so many tokens of answers take."""
    return hours_at(options.tokens_per_second, tokens)


def cost(options: OpenAiOptions, tokens: int) -> float | None:
    """What so many tokens of answers cost; those of the prompts are not counted."""
    return None if options.price_per_million is None else tokens * options.price_per_million / 1e6


@hookimpl
def smolrecipe_generators() -> Iterable[Generator]:
    """Offer ``openai``."""
    yield Generator(
        name="openai",
        summary="a model behind any endpoint that speaks OpenAI's chat completions: served here, elsewhere or for hire",
        source="OpenAI API reference, chat completions; extra fields as vLLM and SGLang read them",
        options=OpenAiOptions,
        check=check,
        requires=("openai",),
        extra="openai",
        open=open_endpoint,
        model=lambda options: f"{options.model}@{options.revision}" if options.revision else options.model,
        hours=hours,
        cost=cost,
        example={"url": "http://localhost:8000/v1", "model": "HuggingFaceTB/SmolLM3-3B"},
    )
