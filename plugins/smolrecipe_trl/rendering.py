"""From messages to token ids and the tokens that are learned.

Rows are rendered and tokenised here and not by TRL: it would drop ``tool_calls``, list-form content and template
arguments without a word, and score tool results in preference pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy
from attrs import frozen
from jinja2 import meta, nodes
from transformers import BatchEncoding, PreTrainedTokenizerBase  # noqa: TID253
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_trl.chat_templates import marks_assistant
from smolrecipe_trl.conversations import Conversation, Message, Pair, UnusableRowError

_FLAGS = re.compile("/no_think|/think|/system_override")
_MARKER_TAGS = re.compile(r"{%([-+]?)\s*(?:end)?generation\s*([-+]?)%}")


@frozen
class Rendered:
    """A conversation as text, and the character spans of it between the template's generation markers."""

    text: str
    spans: Sequence[tuple[int, int]]


@frozen
class RenderedPair:
    """Two conversations that start with one prompt. Their spans lie in the answers after it."""

    chosen: Rendered
    rejected: Rendered


@frozen
class Tokens:
    """A conversation's token ids and which of them lie wholly in its spans; both of the shape (tokens,)."""

    ids: numpy.ndarray
    marked: numpy.ndarray


class ChatRenderer:
    """Renders conversations through one template, and refuses those of which the template would drop a part."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.unread: Counter[str] = Counter()
        """How many rows gave an argument that the template does not read, by argument."""
        self._special_tokens = tokenizer.special_tokens_map
        self._template = template
        self._marked = marks_assistant(template)
        self._variables, self._attributes = _names_read(template)
        self._roles_seen: dict[tuple[str, ...], int | None] = {}

    def conversation(self, conversation: Conversation) -> Rendered:
        """Render a whole conversation.

        Raises:
            UnusableRowError: when the template refuses it or when part of it does not show in the text.
        """
        for name in conversation.arguments:
            if name not in self._variables:
                self.unread[name] += 1
        return self._render(conversation.messages, conversation.arguments)

    def pair(self, pair: Pair) -> RenderedPair:
        """Render a pair. The prompt ends where generation would start.

        Raises:
            UnusableRowError: also when an answer is rendered after something else than the generation prompt.
        """
        prompt = self._text(pair.prompt, pair.arguments, add_generation_prompt=True)[0]
        chosen = self.conversation(Conversation(messages=(*pair.prompt, *pair.chosen), arguments=pair.arguments))
        rejected = self._render((*pair.prompt, *pair.rejected), pair.arguments)
        for answer in (chosen, rejected):
            if not answer.text.startswith(prompt):
                raise UnusableRowError("has a prompt that the template renders differently once an answer follows it")
        return RenderedPair(_after(len(prompt), chosen), _after(len(prompt), rejected))

    def _render(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> Rendered:
        for number, message in enumerate(messages):
            dropped = [key for key, value in message.items() if value and key not in self._attributes]
            if dropped:
                raise UnusableRowError(
                    f"has {' and '.join(repr(key) for key in dropped)} in message {number} (role '{message['role']}'), "
                    "which the chat template does not render"
                )
        text, spans = self._text(messages, arguments)
        lost = self._lost_turn(messages, arguments)
        if lost is not None:
            raise UnusableRowError(
                f"has a turn of '{messages[lost]['role']}' (message {lost}) that the template leaves out"
            )
        _check_all_is_there(messages, text)
        return Rendered(text, spans)

    def _lost_turn(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> int | None:
        """The first message that a conversation with these roles loses, found with contents that occur nowhere else."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._roles_seen:
            marks = [f"[[{number} of {len(roles)}]]" for number in range(len(roles))]
            probe = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
            switches = {name: value for name, value in arguments.items() if isinstance(value, bool)}
            text = self._text(probe, switches)[0]
            self._roles_seen[roles] = next((number for number, mark in enumerate(marks) if mark not in text), None)
        return self._roles_seen[roles]

    def _text(
        self, messages: Sequence[Message], arguments: Mapping[str, Any], **how: bool
    ) -> tuple[str, Sequence[tuple[int, int]]]:
        values = {**self._special_tokens, **arguments, **how}
        try:
            texts, spans = render_jinja_template(
                [[dict(message) for message in messages]],
                chat_template=self._template,
                return_assistant_tokens_mask=self._marked,
                **values,
            )
        except jinja2.TemplateError as error:
            raise UnusableRowError(f"is refused by the chat template: {error}") from None
        except (TypeError, ValueError) as error:
            raise UnusableRowError(f"makes the chat template fail: {error}") from None
        return texts[0], spans[0] if self._marked else ()


def _after(start: int, rendered: Rendered) -> Rendered:
    """The same text with its spans from the character ``start`` on."""
    return Rendered(rendered.text, [(max(begin, start), end) for begin, end in rendered.spans if end > start])


def tokenise(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered]) -> list[Tokens]:
    """Tokenise conversations, all at once: the tokenizer shares a batch out over its threads."""
    encoded = tokenizer([item.text for item in rendered], add_special_tokens=False)
    result = []
    for number, item in enumerate(rendered):
        ids = numpy.asarray(encoded["input_ids"][number], dtype=numpy.int32)
        marked = numpy.zeros(len(ids), dtype=bool)
        for start, end in item.spans:
            marked[_first_from(encoded, number, start, item.text) : _first_at(encoded, number, end, item.text)] = True
        result.append(Tokens(ids, marked))
    return result


def _first_at(encoded: BatchEncoding, number: int, character: int, text: str) -> int:
    """The first token of text ``number`` that holds the character or, for one that no token holds, a later one."""
    for place in range(character, len(text)):
        token = encoded.char_to_token(number, place)
        if token is not None:
            return int(token)
    return len(encoded["input_ids"][number])


def _first_from(encoded: BatchEncoding, number: int, character: int, text: str) -> int:
    """The first token that starts at the character or after it."""
    token = _first_at(encoded, number, character, text)
    at_end = token == len(encoded["input_ids"][number])
    return token if at_end or encoded.token_to_chars(number, token).start >= character else token + 1


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, template: str, end_of_turn: str) -> None:
    """Check that what a template writes between turns are tokens of their own.

    Raises:
        StageError: for a tokenizer without offsets, or one that spells ``<|im_start|>`` or the end of a turn in pieces.
    """
    if not tokenizer.is_fast:
        raise StageError("the model's tokenizer has no tokenizer.json, which is needed to tell what each token covers")
    control = {end_of_turn, *re.findall(r"<\|\w+\|>", template)}
    pieces = [token for token in sorted(control) if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
    if pieces:
        raise StageError(
            f"the model's tokenizer spells {', '.join(pieces)} in several tokens, so turns would have no clear ends: "
            "add them to the special tokens of the tokenizer that the model was trained with"
        )


def _check_all_is_there(messages: Iterable[Message], text: str) -> None:
    """Find every message's content in the text, in order; a system message may lose its flags and outer white space."""
    at = 0
    for number, message in enumerate(messages):
        content = message["content"]
        pieces = _FLAGS.split(content) if number == 0 and message["role"] == "system" else [content]
        for piece in pieces:
            found = text.find(piece.strip(), at)
            if found < 0:
                raise UnusableRowError(
                    f"has content in message {number} (role '{message['role']}') that the chat template leaves out"
                )
            at = found + len(piece.strip())


def _names_read(template: str) -> tuple[set[str], set[str]]:
    """The variables and the attributes (``message.role``, ``message["role"]``) that a template reads."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    tree = environment.parse(_MARKER_TAGS.sub("", template))
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            attributes.add(item.arg.value)
    return meta.find_undeclared_variables(tree), attributes
