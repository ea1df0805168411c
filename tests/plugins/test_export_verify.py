"""What ``verify`` says of an exported model: that a good one holds, and where a damaged one is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.smollm3 import modeling_smollm3

from smolrecipe import HfConfig, ModelComponent, Proof, StageContext, StageRef, Use, option
from smolrecipe_export import ExportOptions, GenerationOptions, run, smolrecipe_stages
from smolrecipe_export.rotary_formula import attention_factor, frequencies

(EXPORT,) = smolrecipe_stages()
LENGTH = 64
LAYER = "model.layers.2.mlp.up_proj.weight"
WORDS = ("<pad>", "<eos>", "<end>", "<user>", "<assistant>", "Hello", "Fine", "How", "are", "you", ".", "?")
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"


@frozen(kw_only=True)
class StretchOptions:
    factor: float = option(doc="how many times longer")


def stretch(config: HfConfig, options: StretchOptions) -> None:
    config["rope_parameters"] = {
        "rope_type": "yarn",
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "factor": options.factor,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }
    config["max_position_embeddings"] = int(options.factor * config["max_position_embeddings"])


STRETCH = ModelComponent(
    name="stretch", summary="", options=StretchOptions, apply=lambda draft, options: None, to_hf=stretch
)
OPTIONS = ExportOptions(
    from_=StageRef("merge"),
    components={"long": Use(STRETCH, StretchOptions(factor=2.0))},
    generation=GenerationOptions(temperature=0.6, top_p=0.95),
)


@pytest.fixture(scope="module")
def merge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random SmolLM3 with the pretraining end of sequence in its configuration, as a stage publishes it."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("merge")
    config = SmolLM3Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        use_cache=False,
    )
    SmolLM3ForCausalLM(config).save_pretrained(root / "model")
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = Whitespace()
    words.add_special_tokens(["<pad>", "<eos>", "<end>", "<user>", "<assistant>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", model_max_length=LENGTH
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "model")
    return root


def context(folder: Path, merge: Path) -> StageContext:
    return StageContext(recipe="r", stage="export", folder=folder, inputs={"merge": merge})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, merge: Path) -> Path:
    folder = tmp_path_factory.mktemp("export")
    run(OPTIONS, context(folder, merge))
    return folder


@pytest.fixture
def copy(tmp_path: Path, exported: Path) -> Path:
    shutil.copytree(exported, tmp_path / "export")
    return tmp_path / "export"


def verify(folder: Path, merge: Path, options: ExportOptions = OPTIONS) -> dict[str, Proof]:
    found = list(EXPORT.verify(options, context(folder, merge)))
    assert len({proof.claim for proof in found}) == len(found)
    return {proof.claim: proof for proof in found}


def failing(found: dict[str, Proof]) -> dict[str, str]:
    return {claim: f"{proof.measured} {proof.note}" for claim, proof in found.items() if not proof.holds}


WEIGHTS = "weights are the source's"
CONFIG = "the config is the source's with long"
WHOLE = "plain transformers loads it as a whole"
PAPER = "YaRN's frequencies are the paper's"
FACTOR = "YaRN's attention factor is in force"
NOPE = "3 layers rotate, 1 do not (NoPE)"
LENGTHS = "model and tokenizer take equal lengths"
SETTINGS = "generation settings are those asked for"
CHAT_END = "generation ends where the chat template does"
STOPS = "generation stops at its end token"


def test_a_good_export_holds(exported: Path, merge: Path) -> None:
    found = verify(exported, merge)
    assert not failing(found)
    assert set(found) == {WEIGHTS, CONFIG, WHOLE, PAPER, FACTOR, NOPE, LENGTHS, SETTINGS, CHAT_END, STOPS}
    assert found[FACTOR].measured == "1.0693147"


def test_an_export_without_components_or_in_another_dtype_holds(merge: Path, tmp_path: Path) -> None:
    options = ExportOptions(from_=StageRef("merge"), dtype="bfloat16")
    run(options, context(tmp_path, merge))
    found = verify(tmp_path, merge, options)
    assert not failing(found)
    assert {"weights are the source's, rounded to bfloat16", "RoPE's frequencies are the paper's"} < set(found)
    assert "weights are the source's" in failing(verify(tmp_path, merge, ExportOptions(from_=StageRef("merge"))))


def edit(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    file.unlink()  # it is a link to the source's
    save_file(tensors, file, metadata={"format": "pt"})


def flip_a_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensors[LAYER].view(torch.int32)[3, 5] ^= 1


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model" / "config.json", **changes)


def generation(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model" / "generation_config.json", **changes)


YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": LENGTH}


def stay_short(folder: Path) -> None:
    edit(folder / "model" / "tokenizer_config.json", model_max_length=LENGTH)


def other_end_of_chat(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE.replace("<end>", "<eos>"))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "the last bit of a weight": (
        lambda folder: edit_tensors(folder, flip_a_bit),
        WEIGHTS,
        f"{LAYER} in 1 values",
    ),
    "a tensor left out": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors.pop(LAYER)),
        WHOLE,
        f"it lacks {LAYER}",
    ),
    "another factor": (config(rope_parameters={**YARN, "factor": 4.0}), CONFIG, "rope_parameters"),
    "YaRN forgotten": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}),
        CONFIG,
        "rope_parameters",
    ),
    "no original length, so that the new one is taken": (
        config(rope_parameters={key: YARN[key] for key in ("rope_type", "rope_theta", "factor")}),
        "RoPE in force is that of the config",
        "names no original_max_position_embeddings",
    ),
    "no base, so that the class' own is taken": (
        config(rope_parameters={key: value for key, value in YARN.items() if key != "rope_theta"}),
        "RoPE in force is that of the config",
        "names no rope_theta",
    ),
    "older keys that win": (
        config(rope_scaling={**YARN, "factor": 8.0}),
        PAPER,
        "in force",
    ),
    "NoPE's polarity": (config(no_rope_layers=[0, 0, 0, 1]), CONFIG, "no_rope_layers"),
    "a length that is not raised": (stay_short, LENGTHS, "the tokenizer: 64"),
    "settings of another model": (generation(temperature=1.0), SETTINGS, "temperature is 1.0, not 0.6"),
    "a cache left off": (generation(use_cache=False), SETTINGS, "use_cache is False"),
    "the end of pretraining": (generation(eos_token_id=1), CHAT_END, "<eos> end it"),
    "an end that stops nothing": (generation(eos_token_id=1), STOPS, "4 of 4 tokens after <end>"),
    "a template with another end": (other_end_of_chat, CHAT_END, "names another end"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_its_place_named(copy: Path, merge: Path, damage: str) -> None:
    plant, claim, place = DAMAGES[damage]
    plant(copy)
    wrong = failing(verify(copy, merge))
    assert claim in wrong, wrong
    assert place in wrong[claim], wrong[claim]


def no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchtitan's own YaRN: the right frequencies, and cosines and sines as they are."""
    true = ROPE_INIT_FUNCTIONS["yarn"]
    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "yarn", lambda *args, **rest: (true(*args, **rest)[0], 1.0))


def other_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frequency divided by the factor (position interpolation), which is not YaRN."""
    plain = 1 / (2 * 10_000.0 ** (torch.arange(0, 16, 2) / 16))
    true = ROPE_INIT_FUNCTIONS["yarn"]
    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "yarn", lambda *args, **rest: (plain, true(*args, **rest)[1]))


def swap_polarity(monkeypatch: pytest.MonkeyPatch) -> None:
    true = modeling_smollm3.SmolLM3Attention.__init__

    def init(self: Any, *args: Any, **rest: Any) -> None:
        true(self, *args, **rest)
        self.use_rope = not self.use_rope

    monkeypatch.setattr(modeling_smollm3.SmolLM3Attention, "__init__", init)


@pytest.mark.parametrize(
    ("plant", "claim", "place"),
    [
        (no_factor, FACTOR, "1.0000000"),
        (other_ramp, PAPER, "pair 0: 0.5 in force, 1 expected"),
        (
            swap_polarity,
            NOPE,
            "layer 0 does not rotate, layer 1 does not rotate, layer 2 does not rotate, layer 3 rotates",
        ),
    ],
)
def test_a_library_that_computes_otherwise_is_found(
    exported: Path,
    merge: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    claim: str,
    place: str,
) -> None:
    plant(monkeypatch)
    wrong = failing(verify(exported, merge))
    assert claim in wrong, wrong
    assert place in wrong[claim], wrong[claim]


def test_a_chat_template_that_was_not_shipped_is_found(exported: Path, merge: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jinja"
    asked.write_text("{{ messages }}")
    options = ExportOptions(
        from_=OPTIONS.from_, components=OPTIONS.components, generation=OPTIONS.generation, chat_template=asked
    )
    assert list(failing(verify(exported, merge, options))) == ["the chat template is the one asked for"]


def test_the_formula_gives_smollm3_s_published_yarn() -> None:
    """theta 5e6, heads 128 wide, 65,536 positions doubled: pairs up to 24 stay, from 39 on they are halved."""
    rope = {"rope_type": "yarn", "rope_theta": 5e6, "factor": 2.0, "original_max_position_embeddings": 65536}
    found = frequencies(rope, 128)
    plain = frequencies({"rope_type": "default", "rope_theta": 5e6}, 128)
    assert found is not None and plain is not None and len(found) == len(plain) == 64
    kept = [pair for pair in range(64) if found[pair] == plain[pair]]
    halved = [pair for pair in range(64) if found[pair] == pytest.approx(plain[pair] / 2, rel=1e-12)]
    assert (kept[-1], halved[0]) == (24, 39) and len(kept) == 25 and len(halved) == 25
    assert attention_factor(rope) == pytest.approx(1.0693147, abs=1e-7)
    config = SmolLM3Config(
        hidden_size=2048, num_attention_heads=16, max_position_embeddings=131072, rope_parameters=rope, pad_token_id=0
    )
    theirs, factor = ROPE_INIT_FUNCTIONS["yarn"](config)
    expected = torch.tensor(found).double()
    assert float(((theirs.double() - expected) / expected).abs().max()) < 1e-6  # float32 powers of the base
    assert factor == pytest.approx(1.0693147, abs=1e-7)
