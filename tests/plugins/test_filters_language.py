"""The language of answers: told by what is said in words, the same every time, or not at all."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import langdetect
import pytest
from langdetect import detector_factory

from smolrecipe import Candidate, StageContext
from smolrecipe_filters import smolrecipe_filters
from smolrecipe_filters.detecting import language
from smolrecipe_filters.languages import LANGUAGES
from smolrecipe_filters.options import LanguageOptions

(LANGUAGE,) = (component for component in smolrecipe_filters() if component.name == "language")
CONTEXT: StageContext = None  # type: ignore[assignment]  # it asks for nothing of the stage
SAID = {
    "en": "The bridge was closed in winter because of the ice, and we took the longer way home.",
    "fr": "Le pont était fermé en hiver à cause de la glace, et nous avons pris le chemin le plus long.",
    "es": "El puente estaba cerrado en invierno por el hielo, y tomamos el camino más largo a casa.",
    "de": "Die Brücke war im Winter wegen des Eises gesperrt, und wir nahmen den längeren Weg nach Hause.",
    "it": "Il ponte era chiuso in inverno a causa del ghiaccio e abbiamo preso la strada più lunga per casa.",
    "pt": "A ponte estava fechada no inverno por causa do gelo, e nós fizemos o caminho mais longo para casa.",
    "ru": "Зимой мост был закрыт из-за льда, и мы пошли домой более длинной дорогой.",
    "ar": "كان الجسر مغلقا في الشتاء بسبب الجليد فسلكنا الطريق الأطول إلى البيت.",
    "zh": "冬天桥因为结冰而关闭了，所以我们走了比较远的另一条路回到自己的家里。",  # noqa: RUF001
}
"""SmolLM3's six languages, and the three that it has seen less of."""


def verdict(*answers: str, prompt: tuple[str, ...] = ("Why?",), **options: Any) -> str:
    chosen = LanguageOptions(**options)
    assert not list(LANGUAGE.check(chosen))
    turns = tuple({"role": "user", "content": content} for content in prompt)
    row = Candidate(prompt=turns, answers=answers, ends=("stop",) * len(answers))
    return LANGUAGE.open(chosen, CONTEXT)(row)


@pytest.mark.parametrize("code", SAID)
def test_an_answer_is_in_an_allowed_language(code: str) -> None:
    others = [other for other in SAID if other != code]
    assert verdict(SAID[code], allowed=[code]) == verdict(SAID[code], allowed=["ja", code]) == ""
    assert verdict(SAID[code], allowed=others) == "the answer is in another language than allowed"


@pytest.mark.parametrize("code", SAID)
def test_an_answer_is_in_the_language_of_the_last_message(code: str) -> None:
    other = "de" if code != "de" else "en"
    prompt = (SAID[other], SAID[code])
    assert verdict(SAID[code], prompt=prompt, same_as_prompt=True) == ""
    assert verdict(SAID[other], prompt=prompt, same_as_prompt=True) == (
        "the answer is in another language than its prompt"
    )


def test_reasoning_code_and_formulas_have_no_language() -> None:
    english = {"allowed": ["en"]}
    assert verdict(f"<think>\n{SAID['fr'] * 3}\n</think>\n{SAID['en']}", **english) == ""
    assert "another language" in verdict(f"<think>\n{SAID['en'] * 3}\n</think>\n{SAID['fr']}", **english)
    for noise in (f"```python\n{SAID['de'] * 3}\n```", f"`{SAID['de']}`", f"\\[{SAID['de']}\\]", f"$${SAID['de']}$$"):
        assert verdict(f"{SAID['en']} {noise}", **english) == verdict(noise, **english) == ""
    assert verdict(f"It costs $$$. {SAID['en']}", allowed=["fr"]) != ""


def test_texts_that_are_too_short_to_tell_are_kept_or_dropped() -> None:
    for answer in ("4", "", "Oui.", "7 8 9 10 11 12 13 14 15 16 17 18", f"<think>{SAID['fr']}"):
        assert verdict(answer, allowed=["en"]) == ""
        assert verdict(answer, allowed=["en"], short="drop") == "the language of the answer cannot be told"
    asked = {"prompt": ("Why?",), "same_as_prompt": True}
    assert verdict(SAID["fr"], **asked) == ""
    assert verdict(SAID["fr"], short="drop", **asked) == "the language of the prompt cannot be told"
    assert verdict(SAID["fr"][:30], allowed=["en"], shortest=31) == ""
    assert verdict(SAID["fr"][:30], allowed=["en"], shortest=30) != ""


def test_in_pairs_both_answers_are_judged_unless_one_is_named() -> None:
    pair = (SAID["en"], SAID["fr"])
    assert verdict(*pair, allowed=["en"]) == "the rejected answer is in another language than allowed"
    assert verdict(*pair, allowed=["fr"]) == "the chosen answer is in another language than allowed"
    assert verdict(*pair, allowed=["en"], of="chosen") == verdict(*pair, allowed=["fr"], of="rejected") == ""


def test_a_verdict_is_the_same_every_time_and_langdetect_is_left_as_it_was() -> None:
    mixed = "hotel restaurant taxi radio museum piano"  # without a seed, langdetect says now one language, now another
    drawn = {langdetect.detect(mixed) for _ in range(300)}
    assert len(drawn) > 1
    shared = detector_factory._factory
    verdicts = set()
    for seed in range(100):
        random.seed(seed)
        language.cache_clear()
        verdicts.add(language(mixed, 1))
    assert len(verdicts) == 1
    assert detector_factory._factory is shared and shared.seed is None
    assert detector_factory.DetectorFactory.seed is None


def test_hostile_texts_take_no_time() -> None:
    started = time.perf_counter()
    for piece in ("\\[", "\\(", "$$", "`", "```", "```\\[$$", "a@", "http://"):
        verdict(piece * 50_000, allowed=["en"])
    assert time.perf_counter() - started < 20


def test_every_language_that_langdetect_tells_has_a_name() -> None:
    profiles = [path.name for path in Path(detector_factory.PROFILES_DIRECTORY).iterdir()]
    assert {name.partition("-")[0] for name in profiles if not name.startswith(".")} == set(LANGUAGES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "nothing says which languages"),
        ({"allowed": ["en"], "same_as_prompt": True}, "both say"),
        ({"allowed": ["en", "english"]}, "'english', which is no ISO 639-1 code .*; did you mean 'en' .English.?"),
        ({"allowed": ["frensh"]}, "did you mean 'fr'"),
        ({"allowed": ["en-US"]}, "did you mean 'en'"),
        ({"allowed": ["zh-cn"]}, "did you mean 'zh'"),
        ({"allowed": ["DE"]}, "did you mean 'de'"),
        ({"allowed": ["eng"]}, "did you mean 'en'"),
        ({"allowed": ["qq"]}, "there are af, ar"),
        ({"allowed": [""]}, "there are af, ar"),
    ],
)
def test_languages_that_cannot_be_told_are_refused(options: dict[str, Any], says: str) -> None:
    (said,) = LANGUAGE.check(LanguageOptions(**options))
    assert re.search(says, said)
