"""How a model draws its answers: what generators have in common, their options and what is said of these."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from smolrecipe.options import option


@frozen(kw_only=True)
class SamplingOptions:
    """What every generator's options begin with."""

    temperature: float = option(
        default=0.0,
        at_least=0,
        doc="divides the logits before an answer is drawn; 0 takes the likeliest token each time",
    )
    top_p: float = option(
        default=1.0,
        more_than=0,
        at_most=1,
        doc="draw from the likeliest tokens that together have this probability",
    )
    top_k: int | None = option(
        default=None, at_least=1, doc="draw from this many likeliest tokens; all where not given"
    )
    max_new_tokens: int = option(default=2048, at_least=1, doc="longest answer in tokens, reasoning included")
    stop: list[str] = option(
        factory=list, doc="texts that end an answer, besides the model's end of turn; left out of it"
    )


def check_sampling(options: SamplingOptions) -> Iterator[str]:
    """A text that would end every answer before it begins; for a generator's ``check``."""
    if "" in options.stop:
        yield "'stop' has an empty text in it, which would end every answer at once"


def hours_at(tokens_per_second: float | None, tokens: int) -> float | None:
    """How long so many tokens of answers take at a speed, nothing where none is stated; for a generator's ``hours``."""
    return None if tokens_per_second is None else tokens / tokens_per_second / 3600
