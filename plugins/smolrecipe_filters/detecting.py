"""The ``language`` filter."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from smolrecipe import Candidate
from smolrecipe_filters.answers import after_reasoning, judged
from smolrecipe_filters.options import LanguageOptions

_SEED = 0
_MOST_CHARACTERS = 10_000
"""What langdetect looks at."""

_NO_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\\\[.*?(?:\\\]|\Z)|\\\(.*?(?:\\\)|\Z)",
    re.DOTALL,  # what has no end goes on to the end of the text: looking for one takes no second pass
)
"""Code and formulas in Markdown: they are the same in every language, and would be taken for one."""


def open_language(options: LanguageOptions) -> Callable[[Candidate], str]:
    """A judge of the language of answers, without their reasoning, code and formulas."""

    def judge(candidate: Candidate) -> str:
        allowed = set(options.allowed)
        if options.same_as_prompt:
            of_prompt = language(_last_of_user(candidate), options.shortest)
            if not of_prompt:
                return "" if options.short == "keep" else "the language of the prompt cannot be told"
            allowed = {of_prompt}
        for called, answer, _ in judged(candidate, options.of, "language"):
            found = language(after_reasoning(answer), options.shortest)
            if not found and options.short == "drop":
                return f"the language of {called} cannot be told"
            if found and found not in allowed:
                return f"{called} is in another language than {'its prompt' if options.same_as_prompt else 'allowed'}"
        return ""

    return judge


def _last_of_user(candidate: Candidate) -> str:
    said = [message.get("content") for message in candidate.prompt if message.get("role") == "user"]
    return said[-1] if said and isinstance(said[-1], str) else ""


@functools.lru_cache(maxsize=16)  # answers to one prompt follow each other
def language(text: str, shortest: int) -> str:
    """The ISO 639-1 code of a text's language by its first 10 000 characters, or nothing where it cannot be told."""
    spoken = _NO_LANGUAGE.sub(" ", text).strip()
    if len(spoken) < shortest:
        return ""
    detector = _factory().create()
    detector.append(spoken[:_MOST_CHARACTERS])
    try:
        found = str(detector.detect())
    except LangDetectException:  # there is no letter in it
        return ""
    return "" if found == detector.UNKNOWN_LANG else found.partition("-")[0]


@functools.cache
def _factory() -> DetectorFactory:
    """A factory of our own with a seed: langdetect's is shared with whoever uses it, and draws anew each time.

    Its profiles are read in the order of their names: in that of the file system, equal numbers would be summed in
    another order on another machine.
    """
    factory = DetectorFactory()
    factory.set_seed(_SEED)
    profiles = sorted(path for path in Path(PROFILES_DIRECTORY).iterdir() if not path.name.startswith("."))
    factory.load_json_profile([path.read_text(encoding="utf-8") for path in profiles])
    return factory
