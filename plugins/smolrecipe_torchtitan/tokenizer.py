"""What a pretraining stage needs to know of a tokenizer, read from its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe import StageError

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token")


@frozen(kw_only=True)
class TokenizerFacts:
    """``size`` is one more than the largest token id; ``special`` has the ids of bos, eos and pad token, where set."""

    size: int
    special: Mapping[str, int | None]


def read_tokenizer(folder: Path) -> TokenizerFacts:
    """Read a tokenizer's folder as ``AutoTokenizer`` saves it.

    Raises:
        StageError: when there is no tokenizer in it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return _ask_transformers(folder)
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"].get("vocab", {})
    if isinstance(vocabulary, list):  # unigram models list (token, score) in the order of their ids
        ids = {entry[0]: number for number, entry in enumerate(vocabulary)}
    else:
        ids = dict(vocabulary)
    ids.update((token["content"], token["id"]) for token in content.get("added_tokens", ()))
    if not ids:
        raise StageError(f"the tokenizer in {folder} has no vocabulary")
    settings = _read_settings(folder)
    return TokenizerFacts(
        size=max(ids.values()) + 1,
        special={name: ids.get(_text_of(settings.get(name))) for name in SPECIAL_TOKENS},
    )


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy a tokenizer's files (chat template among them) beside a model's."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def _read_settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings.update(json.loads((folder / name).read_text(encoding="utf-8")))
    return settings


def _text_of(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _ask_transformers(folder: Path) -> TokenizerFacts:
    """For tokenizers that are code rather than a file."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise StageError(f"there is no tokenizer in {folder}: {error}") from None
    return TokenizerFacts(
        size=max(tokenizer.get_vocab().values()) + 1,
        special={name: getattr(tokenizer, f"{name}_id") for name in SPECIAL_TOKENS},
    )
