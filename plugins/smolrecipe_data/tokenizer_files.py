"""Reading a ``tokenizer.json``, whoever wrote it: a tokenizer that does what its file says, or a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_data.json_files import read_json
from smolrecipe_data.wording import printable

_PROBE = "It's 12345 o'clock,\n\n  said Émile: 中文 😀\t<|x|> "
_LONGEST_REASON = 200


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        StageError: when it cannot be read, or is none that ``require_usable`` takes.
    """
    content = read_json(path, printable(path))
    return tokenizer_from(content, printable(path))


def tokenizer_from(content: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that a ``tokenizer.json`` describes; ``where`` names it.

    Raises:
        StageError: when it describes none, one that needs code of its own, or one that ``require_usable`` refuses.
    """
    if "auto_map" in content:
        raise StageError(f"{where} asks for code of its own ('auto_map'), which is never run")
    with rust_errors(f"{where} cannot be read"):
        tokenizer = Tokenizer.from_str(json.dumps(content))
    _require_usable(tokenizer, added_tokens(content, where), where)
    return tokenizer


def added_tokens(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The entries of ``added_tokens``, each with an ``id`` and a ``content``.

    Raises:
        StageError: when they are something else.
    """
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("content"), str)
        for entry in entries
    ):
        raise StageError(f"{where} cannot be read: its 'added_tokens' are no list of tokens with 'id' and 'content'")
    return entries


@contextmanager
def rust_errors(what: str) -> Iterator[None]:
    """Put what the library tokenizers raises into a sentence that begins with ``what``.

    It raises plain ``Exception``, and where its Rust code panics something that is no ``Exception`` at all and that no
    other process can unpickle.

    Raises:
        StageError: for either.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = printable(str(error).strip().partition("\n")[0])
        raise StageError(f"{what}: {reason[:_LONGEST_REASON]}") from None


def _require_usable(tokenizer: Tokenizer, added: list[dict[str, Any]], where: str) -> None:
    """Ids count from 0, names and ids belong together, and the same text always gives the same tokens."""
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if ids != list(range(size)):
        wrong = next((token for place, token in enumerate(ids) if token != place), size)
        raise StageError(
            f"{where} has {size:,} tokens whose ids do not count from 0 to {size - 1:,} (look at id {wrong:,}): an id "
            "is a row of the model's embedding, and each of them must be there once"
        )
    for entry in added:
        name, token = entry["content"], entry["id"]
        if tokenizer.token_to_id(name) != token or tokenizer.id_to_token(token) != name:
            raise StageError(
                f"{where} adds '{printable(name)[:60]}' as token {token:,}, and a tokenizer made of it has it as "
                f"{tokenizer.token_to_id(name)}: two tokens want the same id or name"
            )
    if getattr(tokenizer.model, "dropout", None):
        raise StageError(
            f"{where} drops merges at random ('dropout'), so that the same text gives other tokens each time"
        )
    with rust_errors(f"{where} cannot be used: it fails on a plain text"):
        tokenizer.encode(_PROBE)
