"""What the variants of a sweep are called: ``loss.use=dpo lr=5e-7``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST = 40
"""Characters of a value in a name; what is longer is cut."""


def name_variants(variants: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """For each variant (swept key -> value): its name, and the part of the name that says each key's value.

    Keys with one value for all are left out, where there are others. Keys are cut to their last parts as far as they
    stay different; a ``use`` keeps what it is the use of. Values whose texts are the same, because they were cut, are
    numbered.
    """
    keys = list(variants[0])
    varied = [key for key in keys if any(values[key] != variants[0][key] for values in variants)] or keys
    short = _short_keys(varied)
    labels = [{key: f"{short[key]}={_short(values[key])}" for key in varied} for values in variants]
    for key in short:
        _tell_apart(labels, key, variants)
    return [(" ".join(label.values()), label) for label in labels]


def value_text(value: Any) -> str:
    """A value as a person would write it: ``5e-7``, ``dpo(beta=0.1)``, ``[0.9, 0.95]``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key}={value_text(item)}" for key, item in value.items() if key != "use")
        if "use" not in value:
            return f"({rest})"
        return f"{value_text(value['use'])}({rest})" if rest else value_text(value["use"])
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)


def number_text(value: float) -> str:
    """A number without the noise: ``1e-6``, not ``1e-06``; ``0.1``."""
    text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    parts = {key: key.split(".") for key in keys}
    lengths = {key: 2 if names[-1] == "use" else 1 for key, names in parts.items()}

    def short(key: str) -> str:
        return ".".join(parts[key][-lengths[key] :])

    while True:
        clashing = [
            key
            for key in keys
            if lengths[key] < len(parts[key]) and [short(other) for other in keys].count(short(key)) > 1
        ]
        if not clashing:
            return {key: short(key) for key in keys}
        for key in clashing:
            lengths[key] += 1


def _short(value: Any) -> str:
    text = value_text(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _tell_apart(labels: Sequence[dict[str, str]], key: str, variants: Sequence[Mapping[str, Any]]) -> None:
    """Number the different values of a key whose texts are the same."""
    spelled = [repr(values[key]) for values in variants]
    for text in {label[key] for label in labels}:
        alike = [index for index, label in enumerate(labels) if label[key] == text]
        different = list(dict.fromkeys(spelled[index] for index in alike))
        if len(different) > 1:
            for index in alike:
                labels[index][key] = f"{text}#{1 + different.index(spelled[index])}"
