"""The built-in chat templates and what can be told of a template without rendering it."""

from __future__ import annotations

import re
from pathlib import Path

TEMPLATES_FOLDER = Path(__file__).parent / "templates"
BUILT_IN = ("chatml", "smollm3", "compact")

_GENERATION = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")


def template_path(choice: str | Path) -> Path:
    """The file of a built-in template's name, or the path itself."""
    return TEMPLATES_FOLDER / f"{choice}.jinja" if isinstance(choice, str) else choice


def template_name(choice: str | Path) -> str:
    """What messages call the template."""
    return choice if isinstance(choice, str) else choice.name


def template_text(choice: str | Path) -> str:
    """The template's source."""
    return template_path(choice).read_text(encoding="utf-8")


def marks_assistant(template: str) -> bool:
    """Whether the template says, with ``{% generation %}``, which part of a conversation is the assistant's."""
    return _GENERATION.search(template) is not None
