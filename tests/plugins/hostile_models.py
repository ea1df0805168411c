"""Model folders that somebody has made to do harm, or that were damaged: seeded mutants of a small SmolLM3.

A mutant changes one file of a good folder. Beside the folder lies what it must not reach: ``secret.txt``, a model whose
weights and tokenizer are not its own, and nothing called ``pwned``, which code and pickles in the folder would write.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import os
import pickle
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import StageError

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}<end>{% endfor %}"
LONGEST_SECONDS = 20.0
"""What one mutant may take; the plugins' own bounds are set to seconds by who calls ``trial``."""
_HUNG_SECONDS = 120.0

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 10**6, 10**9, 10**18, -(10**18), 10**40, 0.5, -0.5, 1e300, float("nan"),
    float("inf"), "", "x", "../../secret.txt", "/etc/passwd", "\x1b[2J", "\ud83d\ude00", "float32", "load", "__class__",
    [], [0], [1] * 5000, [[]], ["x"], {}, {"x": 1}, {"": {}}, {"__class__": "os.system"}, {"0": None},
    {"__type": "AddedToken", "content": "x"}, {"content": 5}, "{{ x }}", "a" * 100_000,
)  # fmt: skip


def save_model(folder: Path, *, shard: str = "5GB", seed: int = 0) -> Path:
    """Save a small SmolLM3 with a byte-level tokenizer, whole or in shards."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = SmolLM3Config(
        vocab_size=300, num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=None,
        eos_token_id=257, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **sizes,
    )  # fmt: skip
    SmolLM3ForCausalLM(config).save_pretrained(folder, max_shard_size=shard)
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, **{letter: 1 + number for number, letter in enumerate(alphabet)}}
    words = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    words.pre_tokenizer = ByteLevel(add_prefix_space=False)
    words.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", model_max_length=512
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


class Bomb:
    """Unpickled, it writes ``pwned``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@frozen
class Mutant:
    """A change to one file of a model folder."""

    kind: str
    file: str
    apply: Callable[[Path], object] = field(repr=False)
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.file}) {self.detail}"


def mutants(seed: int, count: int, folder: Path) -> Iterator[Mutant]:
    """``count`` mutants of a good folder, each kind of change as often as the next."""
    draw = random.Random(seed)
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    for number in range(count):
        yield MAKERS[number % len(MAKERS)](draw, good)


def _replace(kind: str, name: str, content: bytes, detail: str = "") -> Mutant:
    return Mutant(kind, name, lambda folder: (folder / name).write_bytes(content), detail)


# --- safetensors -------------------------------------------------------------------------------------------------


def _weights(good: dict[str, bytes]) -> tuple[str, dict[str, Any], bytes]:
    """The first weight file: its name, its header, its data."""
    name = min(name for name in good if name.endswith(".safetensors"))
    length = struct.unpack("<Q", good[name][:8])[0]
    return name, json.loads(good[name][8 : 8 + length]), good[name][8 + length :]


def _packed(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", (len(header) if length is None else length) % 2**64) + header + data


def header_length(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, header, data = _weights(good)
    text = json.dumps(header).encode()
    length = draw.choice(
        [0, 1, 2, len(text) - 1, len(text) + 1, len(text) + len(data) + 1, 10**8 + 1, 2**63, 2**64 - 1, -8]
    )
    return _replace("header length", name, _packed(text, data, length), str(length))


def header_text(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, header, data = _weights(good)
    text = json.dumps(header).encode()
    key = next(key for key in header if key != "__metadata__")
    twice = text[:-1] + b", " + json.dumps(key).encode() + b": " + json.dumps(header[key]).encode() + b"}"
    other = text[:-1] + b", " + json.dumps(key).encode() + b': {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    broken = [
        b"", b"[]", b"null", b"3", b"{", text[:-1], b"\xff" + text, b"[" * 50_000, b'{"a":' * 50_000, twice, other,
        text.replace(b'"', b"'"), text + b"x", text + b"\0", b" " * 10 + text, text + b" " * 8, text.decode().encode("utf-16"),
        text.replace(b'"dtype"', b'"type"', 1), text.replace(b"[0, ", b"[NaN, ", 1), text.replace(b"[0, ", b"[" + b"9" * 5000 + b", ", 1),
    ]  # fmt: skip
    return _replace("header text", name, _packed(draw.choice(broken), data))


def tensor_entry(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, header, data = _weights(good)
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
    return _replace(f"tensor's {part}", name, _packed(json.dumps(header).encode(), data), key)


def weight_bytes(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name, _, _ = _weights(good)
    content = good[name]
    place = draw.choice([draw.randrange(8), draw.randrange(len(content) // 2), draw.randrange(len(content))])
    flipped = content[:place] + bytes([content[place] ^ draw.randrange(1, 256)]) + content[place + 1 :]
    what = draw.choice(["flip", "cut", "more", "empty", "zeros", "noise", "head twice"])
    changed = {
        "flip": flipped, "cut": content[:place], "more": content + b"\0" * draw.choice([1, 8]), "empty": b"",
        "zeros": b"\0" * len(content), "noise": draw.randbytes(4000), "head twice": content[:place] + content,
    }[what]  # fmt: skip
    return _replace(f"bytes: {what}", name, changed, str(place))


def other_tensors(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """A whole file with other tensors in it than the configuration's model has."""
    name, _, _ = _weights(good)
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


# --- JSON files --------------------------------------------------------------------------------------------------


def _broken_json(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    place = draw.randrange(len(content))
    flipped = content[:place] + bytes([content[place] ^ draw.randrange(1, 256)]) + content[place + 1 :]
    first = content[: content.index(b",")] + b"," + content.strip()[1:]
    return draw.choice(
        [
            ("cut", content[:place]), ("flip", flipped), ("empty", b""), ("zeros", b"\0" * 100), ("a list", b"[1, 2]"),
            ("a text", b'"x"'), ("deep", b'{"a": ' * 30_000), ("deep list", b"[" * 90_000 + b"]" * 90_000),
            ("utf-16", content.decode().encode("utf-16")), ("mark", b"\xef\xbb\xbf" + content), ("latin", content + b"\xe9"),
            ("a key twice", first), ("noise", draw.randbytes(300)), ("yaml", b"a: 1\n"), ("pickle", pickle.dumps({"a": 1})),
        ]
    )  # fmt: skip


def broken_json(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    name = draw.choice(sorted(name for name in good if name.endswith(".json")))
    what, content = _broken_json(draw, good[name])
    return _replace(f"JSON: {what}", name, content)


def some_value(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """One value, anywhere in a JSON file, is another."""
    name = draw.choice(sorted(name for name in good if name.endswith(".json")))
    content = json.loads(good[name])
    holder, key = draw.choice(places(content))
    holder[key] = copy.deepcopy(draw.choice(VALUES))
    return _replace("JSON value", name, json.dumps(content).encode(), f"{key}: {str(holder[key])[:60]}")


def places(value: Any) -> list[tuple[Any, Any]]:
    """All places in a JSON value, those deep in a long list no oftener than the others."""
    found: list[tuple[Any, Any]] = []
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, item in items[:40]:
        found += [(value, key), *places(item)]
    return found


def config_value(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    content = json.loads(good["config.json"])
    key = draw.choice(sorted(content))
    content[key] = copy.deepcopy(draw.choice(VALUES))
    return _replace("config value", "config.json", json.dumps(content).encode(), f"{key}: {str(content[key])[:60]}")


CONFIG_KEYS: tuple[dict[str, Any], ...] = (
    {"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}},
    {"auto_map": {"AutoConfig": "code.Config"}, "model_type": "mine"},
    {"auto_map": {"AutoModelForCausalLM": "evil/repository--code.Model"}},
    {"auto_map": "code.Config"}, {"auto_map": ["code.Config"]}, {"auto_map": {"AutoConfig": 3}},
    {"attn_implementation": "evil/kernels"}, {"_attn_implementation": "kernels-community/flash-attn"},
    {"experts_implementation": {"": "evil/kernels"}}, {"_attn_implementation_internal": "evil/kernels"},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"quantization_config": {"quant_method": "torchao"}},
    {"transformers_weights": "../elsewhere/model.safetensors"}, {"transformers_weights": "pytorch_model.bin"},
    {"transformers_weights": 3}, {"_name_or_path": "../elsewhere"}, {"architectures": ["../../x"]}, {"architectures": [None]},
    {"model_type": "gpt2"}, {"model_type": "mamba"}, {"model_type": "bert"}, {"model_type": "whisper"}, {"model_type": "llava"},
    {"model_type": None}, {"model_type": "../x"}, {"model_type": "mixtral", "num_local_experts": 10**6},
    {"num_hidden_layers": 10**7, "no_rope_layers": None, "layer_types": None}, {"hidden_size": 10**18}, {"vocab_size": 2**62},
    {"head_dim": 10**9, "num_attention_heads": 10**9}, {"intermediate_size": 10**12}, {"max_position_embeddings": 10**18},
    {"text_config": {"num_hidden_layers": 10**9}}, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 0, "factor": 0}},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 1e300}}, {"rope_scaling": {"type": "../x"}},
    {"rope_parameters": {"rope_type": "longrope", "long_factor": [], "short_factor": []}}, {"dtype": "load"}, {"dtype": "nn"},
    {"torch_dtype": "__class__"}, {"tokenizer_class": "PreTrainedModel"}, {"tokenizer_class": "os.system"}, {"tokenizer_class": 3},
    {"id2label": {"x": "y"}}, {"num_labels": 10**12}, {"pruned_heads": {"0": [1]}}, {"layer_types": ["x"]}, {"layer_types": []},
    {"tie_word_embeddings": "x"}, {"problem_type": "x"}, {"use_bfloat16": 1}, {"torchscript": True}, {"hidden_act": "../x"},
)  # fmt: skip


def config_key(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    change = draw.choice(CONFIG_KEYS)
    content = {**json.loads(good["config.json"]), **copy.deepcopy(change)}
    return _replace("config key", "config.json", json.dumps(content).encode(), str(change)[:80])


TOKENIZER_KEYS: tuple[dict[str, Any], ...] = (
    {"auto_map": {"AutoTokenizer": ["code.Slow", "code.Fast"]}}, {"auto_map": ["code.Slow", None]}, {"auto_map": 3},
    {"auto_map": {"AutoTokenizer": "code.Slow"}}, {"auto_map": {"AutoTokenizer": ["evil/repository--code.Slow", None]}},
    {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Slow", "code.Fast"]}}, {"tokenizer_class": "GPT2Tokenizer"},
    {"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "T5Tokenizer"},
    {"tokenizer_class": "../x"}, {"tokenizer_class": 3}, {"tokenizer_class": "AutoTokenizer"}, {"tokenizer_class": "PythonBackend"},
    {"tokenizer_file": "../elsewhere/tokenizer.json"}, {"vocab_file": "../secret.txt"}, {"init_inputs": ["../secret.txt"]},
    {"fast_tokenizer_files": ["../elsewhere/tokenizer.1.0.0.json"]}, {"fast_tokenizer_files": "x"}, {"init_inputs": 3},
    {"model_max_length": "x"}, {"model_max_length": -1}, {"model_max_length": 1e300}, {"extra_special_tokens": 3},
    {"extra_special_tokens": {"a": 3}}, {"extra_special_tokens": [[]]}, {"added_tokens_decoder": {"x": {}}},
    {"added_tokens_decoder": {"99999999999999": {"content": "x"}}}, {"added_tokens_decoder": [1]}, {"eos_token": {"content": []}},
    {"eos_token": None}, {"eos_token": 3}, {"pad_token": "not there"}, {"chat_template": 3}, {"chat_template": [{"name": "x"}]},
    {"chat_template": {"default": 5}}, {"backend": "evil"}, {"tokenizer_object": "x"}, {"padding_side": "up"}, {"cls": 1},
    {"name_or_path": "../elsewhere"}, {"local_files_only": False}, {"trust_remote_code": True}, {"_from_auto": 1}, {"self": 1},
)  # fmt: skip


def tokenizer_key(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    change = draw.choice(TOKENIZER_KEYS)
    content = {**json.loads(good["tokenizer_config.json"]), **copy.deepcopy(change)}
    return _replace("tokenizer key", "tokenizer_config.json", json.dumps(content).encode(), str(change)[:80])


def tokenizer_tree(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """One part of tokenizer.json is something else, or the model's vocabulary and merges do not fit."""
    content = json.loads(good["tokenizer.json"])
    what = draw.choice(["value", "value", "ids", "merges", "model", "regex", "added"])
    if what == "value":
        holder, key = draw.choice(
            [
                place
                for place in places(content)
                if not isinstance(place[0].get("<pad>") if isinstance(place[0], dict) else 0, str)
            ]
        )
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    elif what == "ids":
        vocabulary = content["model"]["vocab"]
        vocabulary[draw.choice(sorted(vocabulary))] = draw.choice([2**32 - 1, 2**31, 5, 299, 300, 10**6])
    elif what == "merges":
        content["model"]["merges"] = draw.choice(
            [["x y"], [["x", "y"]], ["a"], "x", [["a", "b", "c"]], [["a", "b"]] * 3]
        )
    elif what == "model":
        content["model"]["type"] = draw.choice(["WordPiece", "Unigram", "WordLevel", "Evil", None, 3])
    elif what == "regex":
        pattern = draw.choice(["(a+)+$", "(" * 500, "[", "(?R)", "a{1,100000}", "\\", ""])
        content["pre_tokenizer"] = {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
    else:
        content["added_tokens"] = draw.choice(
            [[], [{}], [{"id": 2**32, "content": "x"}], 3, [{**content["added_tokens"][0], "id": 10**9}]]
        )
    return _replace(f"tokenizer's {what}", "tokenizer.json", json.dumps(content).encode())


def generation_value(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    content = json.loads(good["generation_config.json"])
    key = draw.choice(
        [*content, "num_beams", "num_return_sequences", "temperature", "top_k", "max_length", "max_new_tokens", "cache_implementation",
         "penalty_alpha", "dola_layers", "custom_generate", "stop_strings", "watermarking_config", "assistant_confidence_threshold",
         "guidance_scale", "forced_eos_token_id", "bad_words_ids", "compile_config", "num_beam_groups", "constraints", "eta_cutoff"]
    )  # fmt: skip
    content[key] = copy.deepcopy(draw.choice(VALUES))
    return _replace(
        "generation value", "generation_config.json", json.dumps(content).encode(), f"{key}: {str(content[key])[:60]}"
    )


# --- chat templates ----------------------------------------------------------------------------------------------

TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch PWNED') }}", "{{ lipsum.__globals__['os'].popen('touch PWNED').read() }}",
    "{{ self.__init__.__globals__ }}", "{{ messages|map(attribute='__class__')|list }}", "{{ ''|attr('__class__') }}",
    "{{ namespace.__init__.__globals__['__builtins__'].open('PWNED', 'w') }}", "{{ raise_exception.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "{{ strftime_now.__globals__ }}", "{{ config.items() }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'x' %}", "{% do messages.append(1) %}", "{{ x() }}",
    "{% for a in range(10**12) %}{% endfor %}", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 'a' * 10**13 }}", "{{ [0] * 10**13 }}", "{{ 2 ** (2 ** 40) }}",
    "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "{{ 10 ** 100000 }}",
    "{{ '%9999999999d' % 1 }}", "{{ 'x'|center(10**13) }}", "{{ messages|tojson(indent=10**12) }}", "{{ raise_exception('no') }}",
    "{{ messages[7].content.upper() }}", "{% for %}", "{{", "{% endfor %}", "{{ messages|nothing }}", "{{ 1 / 0 }}", "{{ messages + 1 }}",
    "{{ strftime_now('%' * 100000) }}", "{{ strftime_now(3) }}", "{% generation %}{{ x }}", "{% break %}", "", "\n", "plain text", "{{ none }}",
    "{{ range(10**6)|list|length }}", "{% for a in messages recursive %}{{ loop([a]) }}{% endfor %}", "{{ '\\ud800' }}", "{{ '\\0' }}",
)  # fmt: skip


def template(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    text = draw.choice(TEMPLATES)
    if draw.random() < 0.3:
        content = {**json.loads(good["tokenizer_config.json"]), "chat_template": text}

        def change(folder: Path) -> None:
            (folder / "chat_template.jinja").unlink()
            (folder / "tokenizer_config.json").write_text(
                json.dumps(content).replace("PWNED", str(folder.parent / "pwned"))
            )

        return Mutant("template in the tokenizer's config", "tokenizer_config.json", change, text[:80])
    return Mutant(
        "template",
        "chat_template.jinja",
        lambda folder: (folder / "chat_template.jinja").write_text(text.replace("PWNED", str(folder.parent / "pwned"))),
        text[:80],
    )


def template_file(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    content = draw.choice([b"\xff\xfe", b"{{ messages }}\xe9", b"x" * (2**20 + 1), b"{{ '" + b"(" * 10**5 + b"' }}", b"{{ " + b"(" * 10**4 + b" }}",
                           b"{% if x %}" * 3000, b"\0" * 50, pickle.dumps([1])])  # fmt: skip
    return _replace("template file", "chat_template.jinja", content)


# --- files -------------------------------------------------------------------------------------------------------


def odd_file(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """A file is missing, or a folder, a pipe, a link to somewhere else, a loop."""
    name = draw.choice(sorted(good))
    what = draw.choice(["missing", "folder", "pipe", "link out", "loop", "dangling"])

    def change(folder: Path) -> None:
        (folder / name).unlink()
        if what == "folder":
            (folder / name).mkdir()
        elif what == "pipe":
            os.mkfifo(folder / name)
        elif what == "link out":
            elsewhere = folder.parent / "elsewhere" / name
            (folder / name).symlink_to(elsewhere if elsewhere.exists() else folder.parent / "secret.txt")
        elif what == "loop":
            (folder / name).symlink_to(folder / name)
        elif what == "dangling":
            (folder / name).symlink_to(folder / "nowhere")

    return Mutant(f"file: {what}", name, change)


def more_files(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """Pickles, code, adapters and other weights beside, or instead of, the model's own."""
    what = draw.choice(
        [
            "pickle",
            "pickle instead",
            "pickle in the index",
            "adapter",
            "code",
            "generate",
            "weights",
            "templates",
            "vocab",
        ]
    )
    name = {
        "pickle": "pytorch_model.bin", "pickle instead": "pytorch_model.bin", "pickle in the index": "model.safetensors.index.json",
        "adapter": "adapter_config.json", "code": "code.py", "generate": "custom_generate/generate.py", "weights": "other.safetensors",
        "templates": "additional_chat_templates/x.jinja", "vocab": "vocab.txt",
    }[what]  # fmt: skip

    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        pwned = folder.parent / "pwned"
        if what.startswith("pickle"):
            for pickled in ("pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00001.bin", "training_args.bin"):
                (folder / pickled).write_bytes(pickle.dumps({"model.norm.weight": Bomb(pwned)}))
        if what == "pickle instead":
            for weights in folder.glob("*.safetensors*"):
                weights.unlink()
        elif what == "pickle in the index":
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
            path.write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}))
        elif what == "adapter":
            path.write_text(json.dumps({"base_model_name_or_path": "../elsewhere", "peft_type": "LORA"}))
        elif what in ("code", "generate"):
            path.write_text(
                f"import pathlib\npathlib.Path({str(pwned)!r}).touch()\nclass Config: pass\ndef generate(*a, **k): pass\n"
            )
        elif what == "weights":
            save_file({"model.norm.weight": torch.zeros(16)}, path)
        elif what == "templates":
            path.write_text("{{ ''.__class__ }}")
        elif what == "vocab":
            path.write_bytes(b"\xff\0\n" * 100)

    return Mutant(f"more files: {what}", name, change)


def index(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """The index of a model in shards; made up where the model is in one file."""
    name = "model.safetensors.index.json"
    weights, header, _ = _weights(good)
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
    return _replace(f"index: {what}", name, json.dumps(content).encode(), f"{key}: {where.get(key)}")


MAKERS = (
    header_length, header_text, tensor_entry, tensor_entry, weight_bytes, other_tensors, broken_json, some_value, config_value,
    config_key, tokenizer_key, tokenizer_tree, tokenizer_tree, generation_value, template, template_file, odd_file, more_files, index,
)  # fmt: skip


# --- trials ------------------------------------------------------------------------------------------------------


@frozen
class Trials:
    """What came of mutants, by kind."""

    refused: Counter[str] = field(factory=Counter)
    accepted: Counter[str] = field(factory=Counter)

    def __str__(self) -> str:
        return f"{sum(self.refused.values())} refused, {sum(self.accepted.values())} accepted: {dict(self.accepted)}"


def try_all(
    root: Path, seed: int, count: int, consume: Callable[[Path, Path], object], *, template_is_read: bool = True
) -> Trials:
    """Give ``consume(model, work)`` one mutant after the other, of a model in one file and in shards by turns.

    Each is refused in a sentence that names the file, or its folder, or is used; in time, without anything that is
    written but in ``work``, and without code or pickles that are run.

    Args:
        root: an empty folder.
        seed: of the mutants.
        count: how many there are.
        consume: uses a model folder that is not its own to change, and writes in ``work``, which is empty.
        template_is_read: whether it renders chat templates.
    """
    goods = [save_model(root / "good"), save_model(root / "sharded", shard="8KB")]
    elsewhere = save_model(root / "place" / "elsewhere", seed=1)
    (elsewhere.parent / "secret.txt").write_text("the keys of the house")
    found = Trials()
    plans = [mutants(seed + number, count, good) for number, good in enumerate(goods)]
    for number in range(count):
        good = goods[number % 2]
        mutant = next(plans[number % 2])
        model, work = root / "place" / "model", root / "place" / "work"
        shutil.copytree(good, model)
        work.mkdir()
        mutant.apply(model)
        before = _listing(root)
        begin = time.monotonic()
        faulthandler.dump_traceback_later(_HUNG_SECONDS, exit=True)  # what no Python code can interrupt
        try:
            consume(model, work)
            found.accepted[mutant.kind] += 1
        except StageError as error:
            _check_sentence(mutant, str(error), model)
            found.refused[mutant.kind] += 1
        except BaseException as error:
            raise AssertionError(f"mutant {number}, {mutant}: {type(error).__name__}: {error}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - begin < LONGEST_SECONDS, f"mutant {number}, {mutant}: it took too long"
        after = _listing(root)
        changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        outside = [path for path in changed if work not in path.parents and path != work]
        assert not outside, f"mutant {number}, {mutant}: {outside} was written"
        shutil.rmtree(model)
        shutil.rmtree(work)
    return found


def _check_sentence(mutant: Mutant, text: str, model: Path) -> None:
    named = mutant.file in text or str(model) in text or "chat template" in text or "'bad'" in text
    assert named, f"{mutant}: the sentence names no file: {text}"
    assert "Traceback" not in text and all(line.isprintable() for line in text.splitlines()), f"{mutant}: {text!r}"
    assert len(text) < 3000, f"{mutant}: {text}"


def _listing(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Everything below a folder, with size, time of change and place on the disk."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            status = os.lstat(Path(folder, name))
            directory = name in folders
            found[Path(folder, name)] = (0, 0, 0) if directory else (status.st_size, status.st_mtime_ns, status.st_ino)
    return found
