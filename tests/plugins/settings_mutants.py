"""Mutants of what lies beside a model's weights: its JSON files and its chat template."""

from __future__ import annotations

import copy
import json
import pickle
import random
from pathlib import Path
from typing import Any

from model_mutant import VALUES, Mutant, replaced


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
    return replaced(f"JSON: {what}", name, content)


def some_value(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    """One value, anywhere in a JSON file, is another."""
    name = draw.choice(sorted(name for name in good if name.endswith(".json")))
    content = json.loads(good[name])
    holder, key = draw.choice(places(content))
    holder[key] = copy.deepcopy(draw.choice(VALUES))
    return replaced("JSON value", name, json.dumps(content).encode(), f"{key}: {str(holder[key])[:60]}")


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
    return replaced("config value", "config.json", json.dumps(content).encode(), f"{key}: {str(content[key])[:60]}")


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
    return replaced("config key", "config.json", json.dumps(content).encode(), str(change)[:80])


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
    return replaced("tokenizer key", "tokenizer_config.json", json.dumps(content).encode(), str(change)[:80])


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
    return replaced(f"tokenizer's {what}", "tokenizer.json", json.dumps(content).encode())


def generation_value(draw: random.Random, good: dict[str, bytes]) -> Mutant:
    content = json.loads(good["generation_config.json"])
    key = draw.choice(
        [*content, "num_beams", "num_return_sequences", "temperature", "top_k", "max_length", "max_new_tokens", "cache_implementation",
         "penalty_alpha", "dola_layers", "custom_generate", "stop_strings", "watermarking_config", "assistant_confidence_threshold",
         "guidance_scale", "forced_eos_token_id", "bad_words_ids", "compile_config", "num_beam_groups", "constraints", "eta_cutoff"]
    )  # fmt: skip
    content[key] = copy.deepcopy(draw.choice(VALUES))
    return replaced(
        "generation value", "generation_config.json", json.dumps(content).encode(), f"{key}: {str(content[key])[:60]}"
    )


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
    return replaced("template file", "chat_template.jinja", content)
