"""Where each stage lies on the axis of tokens that a model is trained on, from the first stage to the last."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from smolrecipe_report.reading import Stage


@frozen(kw_only=True)
class Span:
    """A stage's part of the axis: it begins where those that it is made from end, so that seeds lie side by side.

    It ends ``tokens_per_step`` after the beginning of its last step.
    """

    stage: Stage
    first: int
    begin: float
    end: float
    tokens_per_step: float


def spans_of(stages: Sequence[Stage]) -> list[Span]:
    """The spans of the stages that told of losses, in order. One without a count of tokens has none.

    ``stages`` come each after those that it is made from.
    """
    spans: list[Span] = []
    ends: dict[str, float] = {}
    for stage in stages:
        begin = end = max((ends.get(folder, 0.0) for folder in stage.parent_folders().values()), default=0.0)
        points, tokens = stage.steps("loss"), stage.tokens_per_step
        if points and tokens is not None and 0 < tokens < 1e30:
            end = begin + (points[-1][0] - points[0][0] + 1) * tokens
            spans.append(Span(stage=stage, first=points[0][0], begin=begin, end=end, tokens_per_step=tokens))
        ends[stage.place] = end
    return spans


def without_span(stages: Sequence[Stage]) -> list[str]:
    """The names of stages that told of losses and are not placed: nobody recorded how many tokens a step has."""
    placed = {span.stage.folder for span in spans_of(stages)}
    return [stage.name for stage in stages if stage.steps("loss") and stage.folder not in placed]


def amount(number: float) -> str:
    """A count in three digits: ``329k``, ``1.2M``."""
    for size, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{sign}"
    return f"{number:.3g}"
