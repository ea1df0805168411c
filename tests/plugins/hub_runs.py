"""A run as the stages of a small pipeline leave it, with a real model, written without training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe.running.manifest import make_manifest, manifest_text

WORDS = ("<pad>", "<eos>", "user", "assistant", "What", "is", "three", "plus", "four", "?", "seven", "The", "language")
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    "{% if enable_thinking %}four {% endif %}{% if add_generation_prompt %}assistant {% endif %}"
)


def save_model(folder: Path, *, template: bool = True) -> None:
    torch.manual_seed(0)
    config = SmolLM3Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    SmolLM3ForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    if template:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


class Run:
    """``runs/<recipe>``, to which artifacts are added by hand."""

    def __init__(self, root: Path, recipe: str = "toy") -> None:
        self.folder = root / "runs" / recipe
        self.recipe = recipe
        self.digests: dict[str, str] = {}

    def add(
        self,
        stage: str,
        options: Mapping[str, Any],
        *,
        parents: tuple[str, ...] = (),
        model: Path | None = None,
        files: Mapping[str, str] | None = None,
        checkpoints: tuple[str, ...] = (),
        **record: Any,
    ) -> Path:
        """Publish an artifact; ``model`` is copied into it, and into each of ``checkpoints``."""
        digest = hashlib.sha256(json.dumps([stage, options, record], default=str).encode()).hexdigest()
        self.digests[stage] = digest
        folder = self.folder / f"{stage}-{digest[:12]}"
        folder.mkdir(parents=True)
        if model is not None:
            for place in ("model", *(f"checkpoints/{name}/model" for name in checkpoints)):
                (folder / place).mkdir(parents=True)
                for file in model.iterdir():
                    (folder / place / file.name).write_bytes(file.read_bytes())
        for name, text in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        told = {
            "recipe": self.recipe,
            "stage": stage,
            "kind": options["use"],
            "digest": digest,
            "parents": {parent: self.digests[parent] for parent in parents},
            "options": options,
            "plugins": {},
            "smolrecipe": {"version": "0.1.0", "source": "5" * 64},
            "git": {"commit": "c" * 40, "dirty": False, "remote": ""},
            "packages": {"torch": "2.14.1"},
            "host": {"cpu": "a processor", "cores": 2, "gpus": []},
            "started": "2026-11-26T20:00:00+00:00",
            "seconds": 60.0,
            "measures": [],
            "summary": {},
            **record,
        }
        (folder / "stage.json").write_text(json.dumps(told))
        self.seal(folder)
        return folder

    @staticmethod
    def seal(folder: Path) -> None:
        """Write the manifest of what lies in an artifact."""
        (folder / "manifest.json").unlink(missing_ok=True)
        (folder / "manifest.json").write_text(manifest_text(make_manifest(folder)))


def pretrain(length: int, before: str | None = None) -> dict[str, Any]:
    return {
        "use": "pretrain",
        "from": before,
        "data": {"use": "mixture", "from": ["tokens"], "weights": {"web": 3, "mine": 1}},
        "sequence_length": length,
        "optimizer": {"use": "adamw", "lr": 0.001},
        "model": {"rope": {"use": "rope", "theta": 50000.0}},
    }


def whole_run(root: Path, model: Path) -> Run:
    """Tokens, three pretraining stages, preference alignment, export, and an evaluation of what was exported."""
    run = Run(root)
    web = {"use": "hf_dataset", "id": "org/web", "config": "en", "license": "odc-by"}
    mine = {"use": "files", "paths": ["/home/somebody/private/mine.jsonl"], "license": None}
    run.add("tokens", {"use": "tokenize", "sources": {"web": web, "mine": mine}}, summary={"tokens": 5000})
    steps = {"first_step": 1, "steps": 40, "tokens": 40 * 64 * 8}
    held_out = {"name": "held-out loss", "before": 8.0, "after": 5.0, "better": "lower", "unit": "nats/token"}
    run.add(
        "pretrain-1",
        pretrain(64),
        parents=("tokens",),
        model=model,
        checkpoints=("step-20",),
        files={"checkpoints/step-40/process-0.safetensors": "optimizer state", "log.txt": "a log"},
        measures=[{**held_out, "samples": 16}],
        summary=steps,
    )
    later = {**steps, "first_step": 41, "steps": 10}
    run.add("pretrain-2", pretrain(64, "pretrain-1"), parents=("tokens", "pretrain-1"), model=model, summary=later)
    run.add("long", pretrain(2048, "pretrain-2"), parents=("tokens", "pretrain-2"), model=model, summary=steps)
    pairs = {"a": {"use": "files", "paths": ["pairs.jsonl"], "license": "mit"}}
    run.add(
        "apo",
        {
            "use": "preference",
            "from": "long",
            "data": pairs,
            "max_length": 64,
            "loss": {"use": "apo_zero", "beta": 0.05},
        },
        parents=("long",),
        model=model,
        checkpoints=("0.5",),
        summary={"pairs": 100, "passes": 1.0, "steps": 30, "kept": {"0.5": 15}},
    )
    run.add("export", {"use": "export", "from": "apo"}, parents=("apo",), model=model, files={"log.txt": "a log"})
    score = {"metric": "acc_norm", "score": 0.25, "stderr": 0.01, "samples": 1000}
    own = {"metric": "exact_match", "score": 0.5, "stderr": None, "samples": 120}
    run.add(
        "evaluate",
        {"use": "evaluate", "models": ["export"]},
        parents=("export",),
        summary={"scores": {"export": {"hellaswag": score, "sums": own}, "apo": {"hellaswag": own}}},
    )
    return run
