"""The model card: what a run has recorded of a model, for those who find the model without the run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from smolrecipe.strict_json import printable
from smolrecipe_hub import making
from smolrecipe_hub.facts import config_of, number, parameters_of, row_length, tokens_of, whole
from smolrecipe_hub.lineage import Lineage
from smolrecipe_hub.markdown import code, is_hub_name, table, text
from smolrecipe_hub.scores import Score, published, scores_of
from smolrecipe_hub.sources import NOT_STATED, Source, sources_of

_TEMPLATE_FILE = "chat_template.jinja"
_ENOUGH_TOKENS = 20
"""Tokens to a parameter of a compute-optimal model (arXiv:2203.15556)."""


@frozen(kw_only=True)
class Asked:
    """What a user says of the card besides what the run knows."""

    repository: str | None = None
    licence: str | None = None
    checkpoint: str = ""
    """What the weights are where they are not the stage's last: ``step 40000``."""
    revision: str = ""
    """The branch of the repository that the weights lie in, empty for its main one."""
    known_sources: frozenset[str] = frozenset()


def write_card(lineage: Lineage, asked: Asked) -> str:
    """The card of the lineage's target, as ``huggingface_hub.ModelCard`` reads it.

    Raises:
        StageError: when the model's weights are damaged.
    """
    scores = [] if asked.checkpoint else list(scores_of(lineage))
    sources = sources_of(lineage, asked.known_sources)
    config = config_of(lineage.target)
    parameters = parameters_of(lineage.target.model)
    sections = [
        f"# {text(_title(lineage))}",
        _introduction(lineage, asked, parameters),
        "## Use",
        _use(lineage, asked),
        "## Model",
        making.shape(config, parameters),
        "## How it was made",
        making.stages(lineage),
        making.components(lineage),
        "## Data",
        _data(sources),
        "## Scores",
        _scores(scores, asked),
        _measures(lineage),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(lineage, asked, sources, scores, config, parameters)),
        "## Licence",
        _licence(asked),
        "## Provenance",
        making.provenance(lineage),
    ]
    body = "\n\n".join(section for section in sections if section)
    header = _metadata(lineage, asked, sources, scores).to_yaml()
    content = f"---\n{header}\n---\n\n{body}\n"
    return str(ModelCard(content))


def _title(lineage: Lineage) -> str:
    record = lineage.target.record
    return f"{record['recipe']}, {record['stage']}"


def _introduction(lineage: Lineage, asked: Asked, parameters: int) -> str:
    record = lineage.target.record
    tokens = sum(tokens_of(artifact) or 0 for artifact in lineage.stages)
    # A stage trains on after a checkpoint that is taken from its way.
    early = asked.checkpoint or any("@" in str(artifact.options.get("from")) for artifact in lineage.stages)
    most = "at most " if early else ""
    what = f"A language model of {parameters:,} parameters, trained on {most}{tokens:,} tokens by the recipe "
    where = f"{code(record['recipe'])} of smolrecipe; this is what its stage {code(record['stage'])} published"
    checkpoint = f", as it was at {text(asked.checkpoint)}" if asked.checkpoint else ""
    return f"{what}{where}{checkpoint}."


def _use(lineage: Lineage, asked: Asked) -> str:
    """Python that loads the model and has it write, as it is or from the folder that the card lies in."""
    template = lineage.target.model / _TEMPLATE_FILE
    name = asked.repository or "."
    note = "" if asked.repository else "  # the folder that this file lies in"
    revision = f', revision="{asked.revision}"' if asked.revision else ""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "{name}"{note}',
        f"tokenizer = AutoTokenizer.from_pretrained(name{revision})",
        f"model = AutoModelForCausalLM.from_pretrained(name{revision})",
    ]
    if template.is_file():
        thinking = "enable_thinking" in template.read_text(encoding="utf-8", errors="replace")
        lines += [
            "inputs = tokenizer.apply_chat_template(",
            '    [{"role": "user", "content": "What is three plus four?"}],',
            "    add_generation_prompt=True,",
            *(["    enable_thinking=False,  # True lets it reason first"] if thinking else []),
            '    return_tensors="pt",',
            "    return_dict=True,",
            ")",
        ]
    else:
        lines.append('inputs = tokenizer("The language", return_tensors="pt", return_token_type_ids=False)')
    lines += [
        "output = model.generate(**inputs, max_new_tokens=64)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    block = "\n".join(lines)
    serving = (
        f"`transformers serve {asked.repository or '.'}` answers OpenAI's chat requests with it "
        "(`pip install 'transformers[serving]'`)."
    )
    return f"```python\n{block}\n```" + (f"\n\n{serving}" if template.is_file() and not asked.revision else "")


def _data(sources: Sequence[Source]) -> str:
    if not sources:
        return "The records of the stages name no data."
    rows = []
    for source in sources:
        shares = [f"{code(stage)} {share:.1%}" for stage, share in source.shares.items()]
        rows.append(
            (
                text(source.name),
                source.what(),
                text(source.licence) if source.licence else NOT_STATED,
                f"{code(source.stage)}, {text(source.role)}",
                ", ".join(shares),
            )
        )
    shown = table(("source", "what it is", "licence", "named in", "share of a stage's samples"), rows)
    return f"{shown}\n\nLicences are those of the data as the recipe states them; look at each data set's own page."


def _scores(scores: Sequence[Score], asked: Asked) -> str:
    if not scores:
        what = "this checkpoint" if asked.checkpoint else "this model"
        return f"No evaluation of {what} is in the run."
    beside = any(score.task in published() for score in scores)
    headings = ["task", "metric", "score ± standard error", "samples"]
    rows = []
    for score in scores:
        cells = [text(score.task), text(score.metric), str(score), f"{score.samples:,}" if score.samples else "unknown"]
        if beside:
            found = published().get(score.task)
            cells.append(f"{found.score:.4f} ({text(found.note)})" if found else "not published")
        rows.append(cells)
    note = ""
    if beside:
        headings.append("published of SmolLM3-3B")
        note = (
            "\n\nPublished scores: the card of HuggingFaceTB/SmolLM3-3B, without standard errors. Their prompts are "
            "others than those used here, so that the columns tell an order of magnitude and no difference."
        )
    return table(headings, rows, right=(2, 3)) + note


def _measures(lineage: Lineage) -> str:
    """What the stages measured on data that they did not train on."""
    rows = []
    for artifact in lineage.stages:
        for measure in artifact.record["measures"]:
            before, after = number(measure.get("before")), number(measure.get("after"))
            samples = whole(measure.get("samples"))
            rows.append(
                (
                    code(artifact.stage),
                    text(measure["name"]),
                    f"{before:.4f}" if before is not None else "",
                    f"{after:.4f}" if after is not None else "not a number",
                    text(measure["unit"]),
                    f"{samples:,}" if samples is not None else "unknown",
                )
            )
    if not rows:
        return ""
    shown = table(("stage", "on held-out data", "before", "after", "unit", "samples"), rows, right=(2, 3, 5))
    return f"What the stages measured themselves, before and after:\n\n{shown}"


def _limits(
    lineage: Lineage,
    asked: Asked,
    sources: Sequence[Source],
    scores: Sequence[Score],
    config: Mapping[str, Any],
    parameters: int,
) -> Iterator[str]:
    tokens = sum(tokens_of(artifact) or 0 for artifact in lineage.stages)
    if lineage.missing:
        yield (
            f"Not everything behind it is known here: {text(', '.join(lineage.missing))} "
            f"{'is' if len(lineage.missing) == 1 else 'are'} no longer in the run store, so that data and stages may "
            "be missing above."
        )
    if not any(artifact.kind == "pretrained_model" for artifact in lineage.stages):
        if parameters < 100_000_000:
            yield f"With {parameters:,} parameters it is far too small to know or to reason about much."
        if not lineage.missing and tokens < _ENOUGH_TOKENS * parameters:
            yield (
                f"It has seen {tokens / max(parameters, 1):.1f} tokens for each parameter; about {_ENOUGH_TOKENS} make "
                "the best use of a training budget (arXiv:2203.15556), and small models are trained on far more."
            )
    longest = max((row_length(artifact) or 0 for artifact in lineage.stages), default=0)
    positions = whole(config.get("max_position_embeddings"))
    if positions and longest and positions > longest:
        yield f"No row that it was trained on was longer than {longest:,} tokens, and it takes {positions:,}."
    if not scores:
        yield "It was not evaluated."
    few = [score.samples for score in scores if score.samples and score.samples < 1000]
    if few:
        yield f"Scores on as few as {min(few):,} samples: differences within two standard errors say nothing."
    unstated = [source for source in sources if not source.licence]
    if unstated:
        yield f"The recipe states no licence of {len(unstated)} of the {len(sources)} sources above."
    yield "Nothing was measured but what stands above: not whether what it says is true, safe or free of prejudice."


def _licence(asked: Asked) -> str:
    if asked.licence:
        return f"The weights: {text(asked.licence)}. The data have licences of their own, see above."
    return "The recipe states none for the weights. The data have licences of their own, see above."


def _metadata(lineage: Lineage, asked: Asked, sources: Sequence[Source], scores: Sequence[Score]) -> ModelCardData:
    record = lineage.target.record
    bases = [artifact.options.get("id") for artifact in lineage.stages if artifact.kind == "pretrained_model"]
    datasets = dict.fromkeys(source.dataset for source in sources if source.dataset)
    model_type = config_of(lineage.target).get("model_type")
    tags = ["smolrecipe", *([model_type] if isinstance(model_type, str) and is_hub_name(model_type) else [])]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=asked.licence,
        tags=[*tags, f"recipe-{_slug(record['recipe'])}"],
        datasets=list(datasets) or None,
        base_model=[base for base in bases if isinstance(base, str) and is_hub_name(base)] or None,
        model_name=_slug(_title(lineage)) if scores else None,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=_slug(score.task),
                dataset_name=printable(score.task),
                metric_type=_slug(score.metric),
                metric_value=score.value,
                metric_args={"standard_error": score.stderr, "samples": score.samples},
            )
            for score in scores
        ]
        or None,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"
