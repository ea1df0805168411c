"""Mutants of a model's safetensors files and of their index."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import torch
from model_mutant import VALUES, Mutant, replaced
from safetensors.torch import load_file, save_file


def first_weights(good: dict[str, bytes]) -> tuple[str, dict[str, Any], bytes]:
    """The first weight file: its name, its header, its data."""
    name = min(name for name in good if name.endswith(".safetensors"))
    length = struct.unpack("<Q", good[name][:8])[0]
    return name, json.loads(good[name][8 : 8 + length]), good[name][8 + length :]


def _packed(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", (len(header) if length is None else length) % 2**64) + header + data


def header_length(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, header, data = first_weights(good)
    text = json.dumps(header).encode()
    length = draw.choice(
        [0, 1, 2, len(text) - 1, len(text) + 1, len(text) + len(data) + 1, 10**8 + 1, 2**63, 2**64 - 1, -8]
    )
    return replaced("header length", name, _packed(text, data, length), str(length))


def header_text(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, header, data = first_weights(good)
    text = json.dumps(header).encode()
    key = next(key for key in header if key != "__metadata__")
    twice = text[:-1] + b", " + json.dumps(key).encode() + b": " + json.dumps(header[key]).encode() + b"}"
    other = text[:-1] + b", " + json.dumps(key).encode() + b': {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    broken = [
        b"", b"[]", b"null", b"3", b"{", text[:-1], b"\xff" + text, b"[" * 50_000, b'{"a":' * 50_000, twice, other,
        text.replace(b'"', b"'"), text + b"x", text + b"\0", b" " * 10 + text, text + b" " * 8, text.decode().encode("utf-16"),
        text.replace(b'"dtype"', b'"type"', 1), text.replace(b"[0, ", b"[NaN, ", 1), text.replace(b"[0, ", b"[" + b"9" * 5000 + b", ", 1),
    ]  # fmt: skip
    return replaced("header text", name, _packed(draw.choice(broken), data))


def tensor_entry(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, header, data = first_weights(good)
    key = draw.choice([key for key in header if key != "__metadata__"])
    entry = header[key]
    begin, end = entry["data_offsets"]
    part = draw.choice(["dtype", "shape", "data_offsets", "name", "metadata", "gone", "any"])
    if part == "dtype":
        entry["dtype"] = draw.choice(
            ["F31", "f32", "I64", "F64", "BF16", "F8_E4M3", "STRING", "", None, 4, ["F32"], "PICKLE"]
        )
    elif part == "shape":
        shape = entry["shape"]
        entry["shape"] = draw.choice(
            [[], shape[::-1], [*shape, 1], [-size for size in shape], [0], [2**62, 4], [1.5], ["3"], None, shape * 40_000,
             [10**30], [True], {"0": 1}, [[*shape]], [1] * 100_000, [2**31, 2**31, 2**31, 2**31]]
        )  # fmt: skip
    elif part == "data_offsets":
        entry["data_offsets"] = draw.choice(
            [[end, begin], [-begin - 4, end], [begin, end + 4], [begin + 4, end], [0, end], [begin], [begin, end, end],
             [str(begin), end], [begin + 0.5, end], None, [2**64, 2**64 + 4], [begin, len(data) + 10**9], {}, [True, end]]
        )  # fmt: skip
    elif part == "name":
        new = draw.choice(
            [
                "",
                "../../x",
                "a\0b",
                "\x1b[2J",
                "x" * 10_000,
                key + ".extra",
                key.upper(),
                "lm_head.weight",
                "__metadata_",
            ]
        )
        header = {new if old == key else old: value for old, value in header.items()}
    elif part == "metadata":
        header["__metadata__"] = draw.choice(
            [None, [], 3, {"format": 3}, {"format": "pickle"}, {"format": None}, {}, {"a": {"b": "c"}}]
        )
    elif part == "gone":
        del header[key]
    else:
        header[key] = copy.deepcopy(draw.choice(VALUES))
    return replaced(f"tensor's {part}", name, _packed(json.dumps(header).encode(), data), key)


def weight_bytes(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, _, _ = first_weights(good)
    content = good[name]
    place = draw.choice([draw.randrange(8), draw.randrange(len(content) // 2), draw.randrange(len(content))])
    flipped = content[:place] + bytes([content[place] ^ draw.randrange(1, 256)]) + content[place + 1 :]
    what = draw.choice(["flip", "cut", "more", "empty", "zeros", "noise", "head twice"])
    changed = {
        "flip": flipped, "cut": content[:place], "more": content + b"\0" * draw.choice([1, 8]), "empty": b"",
        "zeros": b"\0" * len(content), "noise": draw.randbytes(4000), "head twice": content[:place] + content,
    }[what]  # fmt: skip
    return replaced(f"bytes: {what}", name, changed, str(place))


def other_tensors(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """A whole file with other tensors in it than the configuration's model has."""
    name, _, _ = first_weights(good)
    what = draw.choice(["one less", "one more", "other shape", "transposed", "other dtype", "none", "tied twice"])
    which, dtype = draw.random(), draw.choice([torch.int64, torch.bool, torch.float64, torch.float16])

    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        key = sorted(tensors)[int(which * len(tensors))]
        if what == "one less":
            del tensors[key]
        elif what == "one more":
            tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(3, 3)
        elif what == "other shape":
            tensors[key] = torch.zeros(*(size + 1 for size in tensors[key].shape))
        elif what == "transposed":
            tensors[key] = tensors[key].T.contiguous()
        elif what == "other dtype":
            tensors[key] = tensors[key].to(dtype)
        elif what == "none":
            tensors = {}
        else:
            tensors["lm_head.weight"] = torch.zeros(300, 16)
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return Mutant(f"tensors: {what}", name, change)


def index(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """The index of a model in shards; made up where the model is in one file."""
    name = "model.safetensors.index.json"
    weights, header, _ = first_weights(good)
    content = json.loads(good.get(name, b"{}")) or {
        "metadata": {"total_size": 1},
        "weight_map": dict.fromkeys(sorted(header), weights),
    }
    where = content["weight_map"]
    where.pop("__metadata__", None)
    key = draw.choice(sorted(where))
    what = draw.choice(["name", "name", "name", "gone", "extra", "map", "all elsewhere", "metadata"])
    if what == "name":
        where[key] = draw.choice(
            ["../elsewhere/model.safetensors", "/etc/passwd", "../secret.txt", "nowhere.safetensors", "", ".", "..", None, 3, [], "pytorch_model.bin",
             "config.json", weights + "/", "./" + weights, "a\0.safetensors", "x" * 5000 + ".safetensors", "\x1b[2J.safetensors"]
        )  # fmt: skip
    elif what == "gone":
        del where[key]
    elif what == "extra":
        where[draw.choice(["lm_head.weight", "x", "", "../x"])] = weights
    elif what == "map":
        content["weight_map"] = draw.choice([None, [], {}, 3, "x", [[key, weights]], {key: {key: weights}}])
    elif what == "all elsewhere":
        content["weight_map"] = dict.fromkeys(where, "../elsewhere/model.safetensors")
    else:
        content["metadata"] = draw.choice([None, [], 3, {"total_size": "x"}, {"total_size": 10**30}])
    return replaced(f"index: {what}", name, json.dumps(content).encode(), f"{key}: {where.get(key)}")
