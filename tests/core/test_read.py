"""Strict YAML: what is read, and what is refused with which place."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolrecipe.errors import RecipeError
from smolrecipe.recipe.nodes import PlacedText, plain
from smolrecipe.recipe.read import read_file, read_text


def read(text: str) -> object:
    return plain(read_text(text, "r.yaml"))


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_text(text, "r.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("5e-4", 5e-4),
        ("2.0e6", 2e6),
        (".5", 0.5),
        ("4_720_000", 4720000),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("1e", "1e"),
        ("012", "012"),
        ("-0.0", 0.0),
        (".inf", ".inf"),
        ("1.2.3", "1.2.3"),
        ("2025-07-08", "2025-07-08"),
        ("'1e-6'", "1e-6"),
        ('"true"', "true"),
        ("''", ""),
        ("/think", "/think"),
        ("12:30", "12:30"),
    ],
)
def test_scalars_are_what_a_person_means(text: str, value: object) -> None:
    result = read(f"key: {text}")
    assert result == {"key": value}
    assert type(result["key"]) in (type(value), PlacedText) and isinstance(result["key"], type(value))


def test_duplicate_keys_name_both_places() -> None:
    assert problems("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        "r.yaml:4:3: duplicate key 'c', first given on line 3",
        "r.yaml:5:1: duplicate key 'a', first given on line 1",
    ]


def test_anchors_merge_keys_and_tags_are_refused() -> None:
    (alias,) = problems("a: &x {b: 1}\nc: *x\n")
    assert alias.startswith("r.yaml:1:4: anchors and aliases")
    assert "merge keys" in problems("a: &x {b: 1}\nc: {<<: *x}\n")[1]
    assert "python/object" in problems("a: !!python/object:os.system x")[0]
    assert "'!env'" in problems("a: !env HOME")[0]


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert "aliases" in problems("\n".join(lines))[0]


def test_deep_nesting_is_refused() -> None:
    assert "nested more than" in problems("[" * 200 + "]" * 200)[0]
    assert problems("[" * 100_000)


def test_syntax_errors_have_a_place() -> None:
    (problem,) = problems("a: [1, 2\nb: 3\n")
    assert problem.startswith("r.yaml:2:")
    assert problems("")[0] == "r.yaml:1:1: the file is empty"
    assert "a key must be plain text" in problems("? [1, 2]\n: 3\n")[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no file"):
        read_file(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="is no regular file"):
        read_file(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="looks like UTF-16"):
        read_file(binary)
