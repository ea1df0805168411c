"""The options of the ``evaluate`` stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import Source, StageRef, Use, option

RulerTask = Literal[
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multiquery",
    "niah_multivalue",
    "vt",
    "cwe",
    "fwe",
    "qa_squad",
    "qa_hotpot",
]

RULER_OFFLINE: tuple[RulerTask, ...] = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")
"""Those of RULER's thirteen tasks that are made of nothing but words; the others hide their needles in essays, or ask
about documents, which are fetched."""


@frozen(kw_only=True)
class RulerOptions:
    """RULER: what a model still finds, follows and counts in contexts of a given length (arXiv:2404.06654)."""

    lengths: list[int] = option(
        doc="context lengths in tokens, question and answer included; every task is run at each: 500 samples of it, or "
        "'limit'"
    )
    tasks: list[RulerTask] = option(
        factory=lambda: [*RULER_OFFLINE],
        doc="RULER's tasks; the default are the six of its thirteen that need no download",
        source="arXiv:2404.06654, table 5 (13 tasks); lm-eval's ruler group",
    )
    batch_size: int = option(default=1, at_least=1, identity=False, doc="contexts at once")


@frozen(kw_only=True)
class HeldOutOptions:
    """The documents that a stage of token files has held out, as texts."""

    tokens: StageRef = option(needs="tokens", doc="the stage that tokenised, and held documents out")
    tokenizer: StageRef = option(needs="tokenizer", doc="the stage whose tokenizer it used, which makes text of them")
    sources: list[str] = option(factory=list, doc="those of its sources that are measured; empty for all")


@frozen(kw_only=True)
class GenerationOptions:
    """How models answer those of lm-eval's own tasks that generate; what is not given stays each task's own.

    Temperature, top_p or top_k make it sample; seeds are the stage's. RULER and 'problems' are answered greedily.
    """

    temperature: float | None = option(default=None, more_than=0, doc="divides the logits before sampling")
    top_p: float | None = option(
        default=None, more_than=0, at_most=1, doc="sample from the likeliest tokens that together have this probability"
    )
    top_k: int | None = option(default=None, at_least=1, doc="sample from this many likeliest tokens")
    max_new_tokens: int | None = option(default=None, at_least=1, doc="longest answer in tokens, reasoning included")

    @property
    def arguments(self) -> dict[str, float | int | bool]:
        """The settings as lm-eval's ``gen_kwargs``."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        given: dict[str, float | int | bool] = {key: value for key, value in sampling.items() if value is not None}
        if given:
            given["do_sample"] = True
        if self.max_new_tokens is not None:
            given["max_gen_toks"] = self.max_new_tokens
        return given


@frozen(kw_only=True)
class PublishedOptions:
    """What others have published for a task, to stand beside this stage's scores."""

    row: str = option(doc="what their table calls it")
    source: str = option(doc="where it is published")
    note: str = option(default="", doc="how it was measured")
    percent: Mapping[str, float] = option(ordered=False, doc="the scores by model, in percent")


@frozen(kw_only=True)
class EvaluateOptions:
    """The options of the ``evaluate`` stage."""

    models: list[StageRef] = option(
        needs="hf-model", doc="the stages whose models are evaluated, in the order in which they are compared"
    )
    compare: bool = option(
        default=True,
        doc="whether each model is measured against the one before, as stages of one pipeline are. Without it scores "
        "are in the record and the report alone",
    )
    problems: Mapping[str, Use[Source]] = option(
        factory=dict,
        ordered=False,
        doc="sources of problems with one right answer; each becomes a task, answered greedily and scored by exact "
        "match",
    )
    problem_prompts: Literal["chat", "plain"] = option(
        default="chat",
        doc="chat: problems are prompted through the model's own chat template. plain: the text of their messages is "
        "continued as it stands, for models that have learned no chat",
    )
    stop: list[str] = option(
        factory=list, doc="texts that end the answer to a problem, besides the model's end of sequence"
    )
    texts: Mapping[str, Use[Source]] = option(
        factory=dict,
        ordered=False,
        doc="sources of texts whose perplexity is measured: '<name>, per byte' in bits, which compares models with "
        "different tokenizers, and '<name>, per token'; the first token of each text follows the tokenizer's "
        "beginning or end of sequence",
    )
    held_out: HeldOutOptions | None = option(
        default=None, doc="measure the perplexity of the documents that tokenising held out, as 'held-out <source>'"
    )
    ruler: RulerOptions | None = option(
        default=None, doc="run RULER; each score is told as '<task> @ <length>', their mean as 'ruler @ <length>'"
    )
    tasks: list[str] = option(factory=list, doc="names of lm-eval's own tasks, groups or tags")
    num_fewshot: int | None = option(
        default=None, at_least=0, doc="examples in the prompt of lm-eval's tasks; without it, each task's own number"
    )
    apply_chat_template: bool = option(
        default=False,
        doc="prompt lm-eval's tasks, RULER's among them, through the model's chat template, as a chat model is used",
    )
    system_instruction: str | None = option(
        default=None, doc="a system message for lm-eval's tasks, for example /no_think"
    )
    enable_thinking: bool | None = option(
        default=None, doc="what the chat template is told as 'enable_thinking' for lm-eval's tasks; without it, nothing"
    )
    generation: GenerationOptions = option(
        factory=GenerationOptions, doc="how lm-eval's own tasks generate, where not as each task says"
    )
    limit: int | None = option(default=None, at_least=1, doc="at most this many samples of each task")
    max_new_tokens: int = option(default=64, at_least=1, doc="longest answer to a problem, in tokens")
    think_end: str = option(
        default="</think>", doc="what ends a reasoning trace; only what follows the last one is the answer"
    )
    precision: Literal["model", "bfloat16", "float32"] = option(
        default="model", doc="the dtype to evaluate in: that of the model, or another"
    )
    seed: int = option(default=0, at_least=0, doc="for few-shot examples and tasks that sample")
    published: Mapping[str, PublishedOptions] = option(
        factory=dict,
        identity=False,
        doc="published scores, by the name that this stage gives a score (gsm8k, ruler @ 32768): results.json and the "
        "report have them beside its own",
    )
    batch_size: int = option(default=64, at_least=1, identity=False, doc="sequences at once")
    device: Literal["cpu", "cuda"] = option(default="cpu", identity=False, doc="where the models run")
    download: bool = option(
        default=False,
        identity=False,
        doc="let lm-eval fetch its tasks' data from the Hub; without it only what is on this machine is used",
    )
