"""From messages to text and the parts of it that are learned.

Rows are rendered and tokenised here and not by TRL: it would drop ``tool_calls``, list-form content and template
arguments without a word, and score tool results in preference pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from attrs import evolve, frozen
from transformers import PreTrainedTokenizerBase  # noqa: TID253
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_trl import template_reading
from smolrecipe_trl.chat_templates import marks_assistant
from smolrecipe_trl.control_tokens import ControlTokens, Rendered
from smolrecipe_trl.conversations import Conversation, Message, Pair
from smolrecipe_trl.row_values import EndlessRowError, UnusableRowError, shown

_FLAGS = re.compile("/no_think|/think|/system_override")
_NOT_THE_ROWS = (
    *("messages", "conversations", "chat_template"),
    *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
)
"""What a row's arguments must not say: the stage says it when it calls the template."""
_NOTHING: tuple[Any, ...] = (None, "", [], (), {})
"""Values of a message's key that say nothing. A number does: a ``weight`` of 0 asks not to learn the message."""


@frozen
class RenderedPair:
    """Two conversations that start with one prompt. Their spans lie in the answers after it."""

    chosen: Rendered
    rejected: Rendered

    @property
    def characters(self) -> int:
        """How long both are together."""
        return self.chosen.characters + self.rejected.characters


class ChatRenderer:
    """Renders conversations through one template, and refuses those of which the template would drop a part."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.unread: Counter[str] = Counter()
        """How many rows gave an argument that the template does not read, by argument."""
        self._special_tokens = tokenizer.special_tokens_map
        self._template = template
        self._marked = marks_assistant(template)
        self._reads = template_reading.read_template(template)
        self._control_tokens = ControlTokens(tokenizer)
        self._roles_seen: dict[tuple[str, ...], int | None] = {}

    def conversation(self, conversation: Conversation) -> Rendered:
        """Render a whole conversation.

        Raises:
            UnusableRowError: when the template refuses it or when part of it does not show in the text.
        """
        self._check_arguments(conversation.arguments)
        for name in conversation.arguments:
            if name not in self._reads.variables:
                self.unread[name] += 1
        return self._render(conversation.messages, conversation.arguments)

    def pair(self, pair: Pair) -> RenderedPair:
        """Render a pair. The prompt ends where generation would start.

        Raises:
            UnusableRowError: also when an answer is rendered after something else than the generation prompt.
        """
        self._check_arguments(pair.arguments)
        prompt = self._text(pair.prompt, pair.arguments, add_generation_prompt=True).text
        chosen = self.conversation(Conversation(messages=(*pair.prompt, *pair.chosen), arguments=pair.arguments))
        rejected = self._render((*pair.prompt, *pair.rejected), pair.arguments)
        for answer in (chosen, rejected):
            if not answer.text.startswith(prompt):
                raise UnusableRowError("has a prompt that the template renders differently once an answer follows it")
        return RenderedPair(_after(len(prompt), chosen), _after(len(prompt), rejected))

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        for name in arguments:
            if name in _NOT_THE_ROWS or name in self._special_tokens:
                raise UnusableRowError(f"has '{shown(name)}' among its template arguments, which is not a row's to say")

    def _render(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> Rendered:
        for number, message in enumerate(messages):
            dropped = [
                key for key, value in message.items() if value not in _NOTHING and key not in self._reads.attributes
            ]
            if dropped:
                raise UnusableRowError(
                    f"has {' and '.join(repr(shown(key, 30)) for key in dropped[:3])} in message {number} (role "
                    f"'{message['role']}'), which the chat template does not render"
                )
        rendered = self._text(messages, arguments)
        lost = self._lost_turn(messages, arguments)
        if lost is not None:
            raise UnusableRowError(
                f"has a turn of '{messages[lost]['role']}' (message {lost}) that the template leaves out"
            )
        _check_all_is_there(messages, rendered.text)
        return rendered

    def _lost_turn(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> int | None:
        """The first message that a conversation with these roles loses, found with contents that occur nowhere else."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._roles_seen:
            marks = [f"[[{number} of {len(roles)}]]" for number in range(len(roles))]
            probe = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
            switches = {name: value for name, value in arguments.items() if isinstance(value, bool)}
            text = self._text(probe, switches).text
            self._roles_seen[roles] = next((number for number, mark in enumerate(marks) if mark not in text), None)
        return self._roles_seen[roles]

    def _text(self, messages: Sequence[Message], arguments: Mapping[str, Any], **how: bool) -> Rendered:
        given: Any = ([dict(message) for message in messages], dict(arguments))
        spells = self._control_tokens.spelled_in(given)
        if spells:
            if (token := self._control_tokens.unspellable_in(given)) is not None:
                raise UnusableRowError(f"spells '{token}', which the tokenizer has no other tokens for")
            if (mark := self._control_tokens.marks_in(given)) is not None:
                raise UnusableRowError(
                    f"spells a control token and has U+{ord(mark):X}, which marks these: leave one out"
                )
        text, spans = self._call({**self._special_tokens, **given[1], **how}, given[0])
        if not spells:
            return Rendered(text, spans)
        given = self._control_tokens.marked(given)
        marked = self._control_tokens.unmarked(*self._call({**self._special_tokens, **given[1], **how}, given[0]))
        if marked.text != text:
            raise UnusableRowError("spells a control token where the chat template takes its text apart: leave it out")
        return marked

    def _call(
        self, values: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
    ) -> tuple[str, Sequence[tuple[int, int]]]:
        """Run the template, which may be a stranger's: in transformers' sandbox, and not for ever."""
        seconds = template_reading.RENDER_SECONDS
        try:
            with template_reading.time_limit(seconds):
                texts, spans = render_jinja_template(
                    [messages],
                    chat_template=self._template,
                    return_assistant_tokens_mask=self._marked,
                    **values,
                )
        except jinja2.TemplateSyntaxError as error:
            raise StageError(f"the chat template has a mistake in line {error.lineno}: {error.message}") from error
        except template_reading.TimeUpError:
            raise EndlessRowError(f"takes the chat template more than {seconds:g} seconds") from None
        except jinja2.TemplateError as error:
            raise UnusableRowError(f"is refused by the chat template: {error}") from None
        except Exception as error:  # a template is code: it can fail in every way that code can
            raise UnusableRowError(f"makes the chat template fail: {type(error).__name__}: {error}") from None
        return texts[0], spans[0] if self._marked else ()


def _after(start: int, rendered: Rendered) -> Rendered:
    """The same text with its spans from the character ``start`` on."""
    return evolve(rendered, spans=[(max(begin, start), end) for begin, end in rendered.spans if end > start])


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
