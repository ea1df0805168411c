"""The prompts of a stage, numbered through all of its sources: the same each time they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from smolrecipe import Source, StageError, Use
from smolrecipe.generation import Message
from smolrecipe_synthesize.options import SynthesizeOptions

NO_TURN = "no turn of the user"
"""Why a row of a source is no prompt."""


@frozen(kw_only=True)
class Prompt:
    """One conversation to answer, once or turn by turn."""

    number: int
    """From 0, through all sources, rows that are no prompt included."""
    source: str
    row: int
    """Its number in the source."""
    messages: tuple[Message, ...]
    """Up to the last turn of the user."""
    turns: tuple[int, ...]
    """How many messages there are before each answer; of a row that is no prompt, none."""
    arguments: Mapping[str, Any]
    known_answer: str | None


def read_prompts(options: SynthesizeOptions) -> Iterator[Prompt]:
    """Read the rows of all sources.

    Raises:
        StageError: when a source cannot be read, or a row is not of its shape.
    """
    number = 0
    for name, use in options.prompts.items():
        for row, content in enumerate(_rows(name, use)):
            yield _prompt(number, name, row, use.component.yields(use.options), content, options)
            number += 1


def _rows(name: str, use: Use[Source]) -> Iterator[Mapping[str, Any]]:
    number = -1
    try:
        for number, row in enumerate(use.component.read(use.options)):  # noqa: B007  it is told below
            yield row
    except (OSError, ValueError) as error:
        raise StageError(f"source '{name}' cannot be read beyond its first {number + 1} row(s): {error}") from error


def _prompt(
    number: int, source: str, row: int, shape: str, content: Mapping[str, Any], options: SynthesizeOptions
) -> Prompt:
    messages = _messages(content, shape, f"row {row} of source '{source}'")
    if options.system is not None and messages and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": options.system}, *messages]
    asked = [index + 1 for index, message in enumerate(messages) if message["role"] == "user"]
    if options.turns == "last":
        asked = asked[-1:]
    arguments = {key: value for key, value in (content.get("chat_template_kwargs") or {}).items() if value is not None}
    if options.thinking != "as_prompts":
        arguments["enable_thinking"] = options.thinking == "think"
    answer = content.get("answer")
    return Prompt(
        number=number,
        source=source,
        row=row,
        messages=tuple(messages[: asked[-1]] if asked else messages),
        turns=tuple(asked),
        arguments=arguments,
        known_answer=answer if isinstance(answer, str) else None,
    )


def _messages(content: Mapping[str, Any], shape: str, where: str) -> list[Message]:
    if shape == "text":
        text = content.get("text")
        if not isinstance(text, str):
            raise StageError(f"{where} has no 'text', which would be the prompt; it has {_keys(content)}")
        return [{"role": "user", "content": text}]
    key = "prompt" if shape == "preference" else "messages"
    found = content.get(key)
    if isinstance(found, str):
        found = [{"role": "user", "content": found}]
    if not isinstance(found, list) or not all(_is_message(message) for message in found):
        raise StageError(
            f"{where} has no list of messages, each with the texts 'role' and 'content', as '{key}'; it has "
            f"{_keys(content)}"
        )
    return [{"role": message["role"], "content": message["content"]} for message in found]


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _keys(content: Mapping[str, Any]) -> str:
    return ", ".join(map(str, content)) or "nothing"
