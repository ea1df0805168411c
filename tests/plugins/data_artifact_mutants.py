"""Tokenizer files and token files as nobody should write them, by seed."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data_mutants import ODD, damaged
from data_tokens import write_tokens

VOCABULARY = 300
_SPECIAL = ("<|end_of_text|>", "<|finetune_right_pad_id|>", "<think>")


def tokenizer_file() -> bytes:
    """A good ``tokenizer.json``: bytes, some merges, special tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, and the hat on that cat, as cats do"] * 9, trainer=trainer)
    tokenizer.add_tokens([AddedToken(name, special=name != "<think>", normalized=False) for name in _SPECIAL])
    return tokenizer.to_str().encode()


def tokenizer_mutant(good: bytes, seed: int) -> bytes:
    """The mutant of that number of a ``tokenizer.json``."""
    numbers = random.Random(seed)
    if numbers.random() < 0.3:
        return damaged(good, numbers)
    content = json.loads(good)
    for _ in range(numbers.choice([1, 1, 1, 2, 4])):
        _change(content, numbers)
    if numbers.random() < 0.1:
        content["auto_map"] = {"AutoTokenizer": ["code.Tokenizer", None]}
    encoding = numbers.choice(["utf-8"] * 9 + ["utf-16"])
    return json.dumps(content, ensure_ascii=numbers.random() < 0.5).encode(encoding, errors="surrogatepass")


def _change(content: Any, numbers: random.Random) -> None:
    """Put something else at some place of a JSON value, take it away, double it, or let it point elsewhere."""
    place = content
    for _ in range(numbers.randrange(6)):
        inner = [
            item
            for item in (place.values() if isinstance(place, dict) else place)
            if item and isinstance(item, (dict, list))
        ]
        if not inner:
            break
        place = numbers.choice(inner)
    value = copy.deepcopy(
        numbers.choice([*ODD, 2**31, 2**32 - 1, 2**40, 5, "a", "th", "<think>", ["a", "b"], {"type": "Custom"}])
    )
    how = numbers.randrange(4)
    if isinstance(place, dict):
        key = numbers.choice(list(place)) if place else "type"
        if how == 0:
            place.pop(key, None)
        elif how == 1:
            place[key.upper()] = place.pop(key, None)
        elif how == 2 and len(place) > 1:
            place[key] = place[numbers.choice(list(place))]
        else:
            place[key] = value
        return
    index = numbers.randrange(len(place) + 1)
    if how == 0 and index < len(place):
        del place[index]
    elif how == 1 and index < len(place):
        place.append(place[index])
    elif index < len(place):
        place[index] = value
    else:
        place.append(value)


def write_good_tokens(folder: Path) -> None:
    """The ``tokens`` folder of a ``tokenize`` stage with two sources."""
    for name, lengths in (("web", [7, 30, 12, 9, 21] * 4), ("code", [15, 6, 40] * 3)):
        for split, documents in (("train", lengths), ("held_out", lengths[:3])):
            write_tokens(folder / name / split, documents, files=2 if split == "train" else 1, size=2)
            for path in (folder / name / split).glob("*.ds"):
                (np.fromfile(path, "<u2") % VOCABULARY).astype("<u2").tofile(path)
        counts = {"tokens": sum(lengths), "documents": len(lengths), "held_out_tokens": sum(lengths[:3])}
        (folder / name / "source.json").write_text(json.dumps({**counts, "held_out_documents": 3}))
    (folder / "tokens.json").write_text(json.dumps({"sha256": "0" * 64, "vocab_size": VOCABULARY}))


def damage_tokens(folder: Path, seed: int) -> Path:
    """Do what that number says to one of the files of ``write_good_tokens``, and say to which."""
    numbers = random.Random(seed)
    path = numbers.choice(sorted(each for each in folder.rglob("*") if each.is_file()))
    if numbers.random() < 0.4:
        path.write_bytes(damaged(path.read_bytes(), numbers))
    elif numbers.random() < 0.1:
        path.unlink()
    else:
        _WRITERS[path.suffix](path, numbers)
    return path


def _other_json(path: Path, numbers: random.Random) -> None:
    content = json.loads(path.read_text())
    key = numbers.choice(list(content))
    content[key] = numbers.choice([*ODD, -1, 2**62, content[key] + type(content[key])("1")])
    path.write_text(json.dumps(content))


def _other_tokens(path: Path, numbers: random.Random) -> None:
    tokens = np.fromfile(path, "<u2")
    tokens[numbers.randrange(len(tokens))] = numbers.choice([VOCABULARY, 65535, VOCABULARY + 1])
    tokens.tofile(path)


def _other_index(path: Path, numbers: random.Random) -> None:
    ends = list(struct.unpack(f"<{path.stat().st_size // 8}q", path.read_bytes()))
    place = numbers.randrange(len(ends))
    ends[place] = numbers.choice([0, -1, 2**62, -(2**63), ends[-1] + 1, ends[0], ends[place] + 2**32])
    path.write_bytes(struct.pack(f"<{len(ends)}q", *ends))


def _other_metadata(path: Path, numbers: random.Random) -> None:
    lines: list[str] = path.read_text().split("\n")
    place = numbers.randrange(2)
    odd = [
        "",
        "|",
        "x|3",
        "x|4",
        "x|-2",
        f"x|{10**30}",
        "-1",
        str(10**30),
        "9" * 5000,
        "1.5",
        "nan",
        "\0",
        lines[1] + "0",
    ]
    lines[place] = numbers.choice(odd)
    path.write_text("\n".join(lines))


_WRITERS: dict[str, Callable[[Path, random.Random], None]] = {
    ".json": _other_json,
    ".ds": _other_tokens,
    ".index": _other_index,
    ".metadata": _other_metadata,
}
