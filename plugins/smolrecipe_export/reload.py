"""Loading an exported folder as its users will, and checking that what loads is what was meant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from transformers import (  # noqa: TID253
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    set_seed,
)

from smolrecipe import HfConfig, StageError, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB, misfits, stored_tensors
from smolrecipe_export.rotary_formula import attention_factor

SAMPLE_TOKENS = 8
LONGEST_PROMPT = 2**14
"""Tokens of a conversation of one word; a chat template may put a long system message before it."""
ORIGINAL = "original_max_position_embeddings"
STRETCHES = ("yarn", "llama3", "longrope")
"""Kinds of RoPE that are computed from the length that the model was trained on."""


def unlike_its_config(folder: Path) -> str:
    """What keeps a folder's weights from being those of its configuration, found out without taking memory for them.

    Raises:
        StageError: when transformers makes no model of the configuration.
    """
    found, _ = misfits(folder, stored_tensors(folder), _build)
    return "; it ".join(found)


def _build(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises:
        StageError: when it does not load.
    """
    what = f"the tokenizer in {folder} (tokenizer.json, tokenizer_config.json) does not load"
    with untrusted(what, seconds=LONGEST_SECONDS):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return tokenizer


def load_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a folder, whose weights fit, and what transformers noticed while loading it.

    Raises:
        StageError: when it does not load.
    """
    with untrusted(f"transformers does not load the model in {folder}"):
        loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by the caller, with the other misfits
        )
        return loaded


def reload(folder: Path, config: HfConfig) -> dict[str, Any]:
    """Load ``folder`` with plain transformers and generate a few tokens; return what is worth keeping.

    Raises:
        StageError: for weights missing or left over, another RoPE in force than ``config`` says, logits that are not
            finite, or a chat template that does not render.
    """
    if unlike := unlike_its_config(folder):
        raise StageError(f"the weights are not those of the exported configuration ({folder}): it {unlike}")
    model, loading = load_model(folder)
    wrong = {what: keys for what, keys in loading.items() if keys and what != "conversion_errors"}
    if wrong:
        raise StageError(f"the weights are not those of the exported configuration: {wrong}")
    scaling = _check_rope(model, config)
    tokenizer = load_tokenizer(folder)
    if tokenizer.model_max_length != model.config.max_position_embeddings:
        raise StageError(
            f"the exported tokenizer takes {tokenizer.model_max_length} tokens, the model "
            f"{model.config.max_position_embeddings}"
        )
    prompt = _prompt(tokenizer)
    if int(prompt.max()) >= model.config.vocab_size:
        raise StageError(
            f"the tokenizer makes token {int(prompt.max())}, but the model has only {model.config.vocab_size}"
        )
    with torch.inference_mode(), untrusted(f"the model in {folder} does not generate"):
        logits = model(prompt).logits
        if not torch.isfinite(logits).all():
            raise StageError("the exported model's logits are not finite")
        set_seed(0)
        generated = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=SAMPLE_TOKENS,
            num_beams=1,  # of which a configuration may ask for more than fit into memory
            num_return_sequences=1,
        )
    return {
        "rope_type": model.config.rope_parameters["rope_type"] if scaling is not None else "none",
        "attention_scaling": scaling,
        "max_positions": model.config.max_position_embeddings,
        "sample": tokenizer.decode(generated[0, prompt.shape[1] :]),
    }


def _check_rope(model: Any, config: HfConfig) -> float | None:
    """Check the RoPE that the loaded model computes with; return its attention scaling, if it has RoPE at all.

    transformers takes silent defaults: the model class' theta where ``rope_theta`` is missing, the new maximum where
    the original length is, and the older keys ``rope_theta`` and ``rope_scaling`` over the new ones.
    """
    asked = config.get("rope_parameters") or config.get("rope_scaling")
    rotary = [module for module in model.modules() if hasattr(module, "attention_scaling")]
    if asked is None and not rotary:
        return None
    if not rotary:
        raise StageError(f"the configuration asks for RoPE ({asked}), but the loaded model computes none")
    if model.config.max_position_embeddings != config["max_position_embeddings"]:
        raise StageError(
            f"the loaded model allows {model.config.max_position_embeddings} positions, not "
            f"{config['max_position_embeddings']}"
        )
    in_force = dict(model.config.rope_parameters)
    for key, value in {"rope_theta": config.get("rope_theta"), **(asked or {})}.items():
        if value is not None and in_force.get(key) != value:
            raise StageError(f"RoPE: the configuration says {key} {value}, the loaded model {in_force.get(key)}")
    if asked is not None and (asked.get("rope_theta") or config.get("rope_theta")) is None:
        raise StageError(
            f"RoPE: the configuration names no rope_theta, so that of the model class ({in_force['rope_theta']}) holds"
        )
    if asked is not None and asked.get("rope_type") in STRETCHES and ORIGINAL not in asked:
        raise StageError(
            f"RoPE: {asked['rope_type']} without {ORIGINAL}, so that the new maximum would be taken for it"
        )
    expected = attention_factor(in_force)
    for module in rotary:
        if expected is not None and not math.isclose(module.attention_scaling, expected, rel_tol=1e-6):
            raise StageError(f"RoPE: attention scaling {module.attention_scaling} in force, {expected} expected")
    return float(rotary[0].attention_scaling)


def _prompt(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Token ids of a short prompt, shape (1, tokens), through the chat template where there is one."""
    if tokenizer.chat_template:
        with untrusted("the chat template does not render a conversation", seconds=LONGEST_SECONDS, gib=TEMPLATE_GIB):
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer.encode(str(text), add_special_tokens=False)
    else:
        with untrusted("the tokenizer cannot encode a word", seconds=LONGEST_SECONDS):
            ids = tokenizer.encode("Hello")
    if len(ids) > LONGEST_PROMPT:
        raise StageError(f"the chat template makes {len(ids):,} tokens of a conversation of one word")
    return torch.tensor([ids or [tokenizer.eos_token_id]])
