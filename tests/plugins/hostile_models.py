"""Model folders that somebody has made to do harm, or that were damaged: seeded mutants of a small SmolLM3.

A mutant changes one file of a good folder. Beside the folder lies what it must not reach: ``secret.txt``, a model whose
weights and tokenizer are not its own, and nothing called ``pwned``, which code and pickles in the folder would write.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from model_mutant import Mutant
from safetensors.torch import save_file
from settings_mutants import (
    broken_json,
    config_key,
    config_value,
    generation_value,
    some_value,
    template,
    template_file,
    tokenizer_key,
    tokenizer_tree,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM
from weight_mutants import header_length, header_text, index, other_tensors, tensor_entry, weight_bytes

from smolrecipe import StageError

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}<end>{% endfor %}"
LONGEST_SECONDS = 20.0
"""What one mutant may take; the plugins' own bounds are set to seconds by who calls ``trial``."""
_HUNG_SECONDS = 120.0


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


def mutants(seed: int, count: int, folder: Path) -> Iterator[Mutant]:
    """``count`` mutants of a good folder, each kind of change as often as the next."""
    draw = random.Random(seed)
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    for number in range(count):
        yield MAKERS[number % len(MAKERS)](draw, good)


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


MAKERS = (
    header_length, header_text, tensor_entry, tensor_entry, weight_bytes, other_tensors, broken_json, some_value, config_value,
    config_key, tokenizer_key, tokenizer_tree, tokenizer_tree, generation_value, template, template_file, odd_file, more_files, index,
)  # fmt: skip


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
