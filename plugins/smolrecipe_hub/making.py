"""The card's account of how a model was made: its shape, its stages, their components, and with what they ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smolrecipe_hub.facts import amount, config_of, count, mapping, number, row_length, steps_of, theta_of, whole
from smolrecipe_hub.lineage import Lineage, Published
from smolrecipe_hub.markdown import code, table, text

_ENGINES = ("torch", "transformers", "torchtitan", "trl", "mergekit", "datatrove", "lm-eval")
_COMPONENTS = ("optimizer", "schedule", "loss", "model", "components", "models", "method", "packing", "chat_template",
               "loss_on", "carry", "global_batch", "max_grad_norm", "precision", "seed", "epochs", "mode", "thinking",
               "turns", "teacher", "rejected", "filters")  # fmt: skip
"""Options that tell how a stage worked; its data are told elsewhere, and where its processes ran nowhere."""

_TEACHERS = ("teacher", "rejected")
_OF_A_TEACHER = ("use", "model", "revision", "temperature", "top_p", "top_k", "max_new_tokens", "precision")
"""What is told of a model that wrote data: not where it was served, and not who paid."""


def shape(config: Mapping[str, Any], parameters: int) -> str:
    """What the model is, as a list."""
    rotary = mapping(config.get("rope_parameters"))
    theta = theta_of(config)
    heads, groups = whole(config.get("num_attention_heads")), whole(config.get("num_key_value_heads"))
    turned = config.get("no_rope_layers")
    flags = turned if isinstance(turned, list) else []
    without = [str(index) for index, rotates in enumerate(flags) if not rotates]
    lines = [
        f"{parameters:,} parameters, {code(config.get('model_type', 'unknown'))} architecture, "
        f"weights in {code(config.get('dtype') or config.get('torch_dtype') or 'unknown')}",
        f"{count(config.get('num_hidden_layers'))} layers of width {count(config.get('hidden_size'))}, "
        f"{count(heads)} attention heads, {count(groups)} key-value heads",
        f"a vocabulary of {count(config.get('vocab_size'))} tokens",
        f"up to {count(config.get('max_position_embeddings'))} positions"
        + (f", RoPE theta {theta:,.0f}" if theta is not None else "")
        + (f", {text(rotary['rope_type'])} scaling" if rotary.get("rope_type") not in (None, "default") else "")
        + (f" by {number(rotary['factor']):g}" if number(rotary.get("factor")) is not None else ""),
    ]
    if without:
        lines.append(f"no position encoding in {len(without)} of {len(flags)} layers ({', '.join(without)}, from 0)")
    return "\n".join(f"- {line}" for line in lines)


def stages(lineage: Lineage) -> str:
    """The stages as a table, in the order in which they were made."""
    rows = []
    for artifact in lineage.stages:
        config = config_of(artifact) if artifact.has_model else {}
        theta, length = theta_of(config), row_length(artifact)
        rows.append(
            (
                code(artifact.stage),
                code(artifact.kind),
                ", ".join(code(parent) for parent in _parents(artifact)),
                count(steps_of(artifact)),
                amount(artifact),
                count(length),
                f"{theta:,.0f}" if theta is not None else "",
                f"`{artifact.digest[:12]}`",
            )
        )
    headings = ("stage", "kind", "made from", "steps", "tokens", "row length", "RoPE theta", "digest")
    return table(headings, rows, right=(3, 4, 5, 6))


def components(lineage: Lineage) -> str:
    """What each stage worked with, one line a stage; of the model what a stage changes."""
    lines: list[str] = []
    told: dict[str, Any] = {}
    for artifact in lineage.stages:
        shown = []
        for key in _COMPONENTS:
            value = artifact.options.get(key)
            if value in (None, {}, [], ""):
                continue
            if key in _TEACHERS and isinstance(value, dict):
                value = {name: value[name] for name in _OF_A_TEACHER if value.get(name) not in (None, "")}
            if key == "model" and isinstance(value, dict):
                value = {name: component for name, component in value.items() if told.get(name) != component}
                told |= value
                if not value:
                    continue
            shown.append(f"{text(key)} {_words(value)}")
        if shown:
            lines.append(f"- {code(artifact.stage)}: {'; '.join(shown)}")
    return "\n".join(lines)


def provenance(lineage: Lineage) -> str:
    """Recipe, versions, commit and machine, as a list."""
    record = lineage.target.record
    core, git = mapping(record.get("smolrecipe")), mapping(record.get("git"))
    lines = [
        f"recipe {code(record['recipe'])}, stage {code(record['stage'])}, digest `{lineage.target.digest}`",
        f"smolrecipe {text(core.get('version', 'unknown'))}, source `{_hash(core.get('source'))}`",
    ]
    commit = _hash(git.get("commit"))
    if commit:
        dirty = ", with changes that were not committed" if git.get("dirty") else ""
        lines.append(f"commit `{commit}` of the recipe's repository{dirty}")
    versions = {
        name: version
        for artifact in lineage.stages
        for name, version in mapping(artifact.record.get("packages")).items()
        if name in _ENGINES
    }
    if versions:
        lines.append(", ".join(f"{name} {text(versions[name])}" for name in _ENGINES if name in versions))
    hosts = [mapping(artifact.record.get("host")) for artifact in lineage.stages]
    machines = {_machine(host) for host in hosts if host}
    seconds = sum(number(artifact.record["seconds"]) or 0.0 for artifact in lineage.stages)
    lines.append(f"{seconds / 3600:.2f} hours of all stages together, on {'; '.join(sorted(machines)) or 'unknown'}")
    return "\n".join(f"- {line}" for line in lines)


def _parents(artifact: Published) -> Iterable[str]:
    """What it was made from, with the checkpoint where that is not the stage's last."""
    ref = str(artifact.options.get("from"))
    return [ref if ref.startswith(f"{parent}@") else parent for parent in artifact.record["parents"]]


def _hash(value: Any) -> str:
    """A hash as it stands in a record, nothing for what is none."""
    return value if isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= 64 else ""


def _machine(host: Mapping[str, Any]) -> str:
    gpus = host.get("gpus")
    if isinstance(gpus, list) and gpus:
        return f"{len(gpus)} GPUs, {text(gpus[0])}"
    return f"{count(host.get('cores'))} cores of {text(host.get('cpu') or 'an unknown processor')}"


def _words(value: Any) -> str:
    """An option's value in one line: components by name with their numbers, lists and mappings by their entries."""
    return ", ".join(_pieces(value)) if isinstance(value, (dict, list)) and not _is_use(value) else next(_pieces(value))


def _pieces(value: Any) -> Iterator[str]:
    if _is_use(value):
        given = [
            f"{text(key)} {text(item)}"
            for key, item in value.items()
            if key != "use" and item is not None and not isinstance(item, (dict, list))
        ]
        yield code(value["use"]) + (f" ({', '.join(given)})" if given else "")
    elif isinstance(value, dict):
        for key, item in value.items():
            if item in (None, {}, []):
                continue
            yield next(_pieces(item)) if _is_use(item) else f"{text(key)} {_words(item)}"
    elif isinstance(value, list):
        for item in value:
            yield " ".join(_pieces(item)) if isinstance(item, dict) else text(item)
    else:
        yield text(value)


def _is_use(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("use"), str)
