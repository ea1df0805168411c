"""Chat templates, a stranger's among them: what they read, their mistakes, and running out of time."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen
from jinja2 import TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smolrecipe import StageError

READ_SECONDS = 10.0
"""How long a template may take to be read: what is constant in it is computed then."""

RENDER_SECONDS = 60.0
"""How long a template may take for one row. A row of ten megabytes takes a second."""

_MARKER_TAGS = re.compile(r"{%([-+]?)\s*(?:end)?generation\s*([-+]?)%}")


class TimeUpError(BaseException):
    """Raised inside of a template that takes too long; no ``Exception``, which the template's engine would handle."""


@frozen
class NamesRead:
    """The variables and the attributes (``message.role``, ``message["role"]``) that a template reads."""

    variables: set[str]
    attributes: set[str]


def read_template(template: str) -> NamesRead:
    """What a template reads; it is parsed and compiled, not run.

    Raises:
        StageError: for one that is no template.
    """
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        with time_limit(READ_SECONDS):
            tree = environment.parse(_MARKER_TAGS.sub("", template))
            environment.compile(tree)  # finds filters and tests that there are not
    except TemplateSyntaxError as error:
        raise StageError(f"the chat template has a mistake in line {error.lineno}: {error.message}") from error
    except TimeUpError as error:
        raise StageError(f"the chat template cannot be read within {READ_SECONDS:g} seconds") from error
    except (ArithmeticError, MemoryError, RecursionError) as error:
        raise StageError(f"the chat template cannot be read ({type(error).__name__}: {error})") from error
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            attributes.add(item.arg.value)
    return NamesRead(meta.find_undeclared_variables(tree), attributes)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what runs here after so many seconds; in another thread than the main one, nothing can.

    Raises:
        TimeUpError: when the time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise TimeUpError

    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
