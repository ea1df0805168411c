"""Names in a recipe: which keys can be told apart by eye, and which names may become those of folders."""

from __future__ import annotations

import re
import unicodedata

from smolrecipe.recipe.wording import character_name, cut, spelled_out

_LONGEST_KEY = 200
_LONGEST_NAME = 100
"""Of a recipe or a stage: with the digest and an ending it is the name of a folder, of 255 bytes at most."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_ALPHABETS = ("LATIN", "GREEK", "CYRILLIC")
"""Alphabets with letters that look like another's."""


def key_problem(key: str) -> str | None:
    """What is wrong with a key, whatever it is a key of: it could be taken for another one."""
    shown = f"key '{spelled_out(cut(key, 60))}'"
    if not key:
        return "a key is empty: give it a name"
    if len(key) > _LONGEST_KEY:
        return f"{shown} has {len(key):,} characters: {_LONGEST_KEY} are the most"
    unseen = next((character for character in key if not character.isprintable()), None)
    if unseen is not None:
        return f"{shown} holds {character_name(unseen)}, which is not seen: take it out"
    if key != key.strip():
        return f"{shown} begins or ends with a space: take it away"
    plain = unicodedata.normalize("NFKC", key)
    if key != plain:
        odd = next((character for character in key if unicodedata.normalize("NFKC", character) != character), None)
        what = character_name(odd) if odd else "letters in parts"
        return f"{shown} holds {what}, which looks like something else: write '{plain}'"
    alphabets = {alphabet: letter for letter in key if (alphabet := _alphabet(letter))}
    if len(alphabets) > 1:
        odd = next(letter for alphabet, letter in alphabets.items() if alphabet != "LATIN")
        return f"{shown} mixes letters of several alphabets ('{odd}' is {character_name(odd)}): write it in one"
    return None


def name_problem(name: str, what: str) -> str | None:
    """What keeps the name of ``what``, a recipe or a stage, from being that of a folder, on any machine."""
    shown = f"{what} name '{spelled_out(cut(name, 60))}'"
    wrong = _NOT_IN_NAMES.search(name)
    if wrong is not None or not name:
        which = f"; {character_name(wrong.group())} is none of these" if wrong and not wrong.group().isascii() else ""
        return f"{shown} may hold letters, digits, '-', '_' and '.' only{which}"
    if name[0] in "-.":
        return f"{shown} begins with '{name[0]}': let a letter, a digit or '_' come first"
    if len(name) > _LONGEST_NAME:
        return f"{shown} has {len(name):,} characters: {_LONGEST_NAME} are the most"
    return None


def folder_name(text: str) -> str:
    """The text made into a name that ``name_problem`` has nothing against."""
    name = _NOT_IN_NAMES.sub("-", text).lstrip(".-")
    return name[: _LONGEST_NAME - 10]  # a number may come behind it


def _alphabet(letter: str) -> str:
    word = unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""
    return word if word in _ALPHABETS else ""
