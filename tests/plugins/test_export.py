"""The exported folder: what plain transformers makes of it, and what is refused before it is called done."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import HfConfig, ModelComponent, NoOptions, StageContext, StageError, StageRef, Use, option
from smolrecipe_export import ExportOptions, GenerationOptions, check, missing, run, smolrecipe_stages

WORDS = ("<pad>", "<eos>", "<end>", "user", "Hello", "assistant")
THETA = 10000.0
LENGTH = 64


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


def component(to_hf: Any, options: Any = None) -> Use[ModelComponent]:
    made = ModelComponent(
        name="stretch", summary="", options=type(options), apply=lambda draft, options: None, to_hf=to_hf
    )
    return Use(made, options or NoOptions())


STRETCHED = {"long": component(stretch, StretchOptions(factor=2.0))}


def publish(root: Path, eos: int = 2, **changes: Any) -> Path:
    """Publish a small random SmolLM3 as training leaves it: no cache, the pretraining end, a short tokenizer."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 16,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": LENGTH,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "use_cache": False,
    }
    folder = root / "merge" / "model"
    SmolLM3ForCausalLM(SmolLM3Config(**{**settings, **changes})).save_pretrained(folder)
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token=WORDS[eos], model_max_length=LENGTH
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("about the training run")
    return folder


def context(root: Path, said: list[str] | None = None) -> StageContext:
    folder = root / "export.partial"
    folder.mkdir(exist_ok=True)
    return StageContext(
        recipe="test",
        stage="export",
        folder=folder,
        inputs={"merge": root / "merge"},
        report=lambda event: said.append(str(event["message"])) if said is not None else None,
    )


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


FROM = StageRef("merge")


def yarn(factor: float, dim: int) -> torch.Tensor:
    """YaRN's inverse frequencies, shape (dim / 2,), written down from arXiv:2309.00071, section 3.2."""

    def pair(rotations: float) -> float:
        return dim * math.log(LENGTH / (rotations * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), dim - 1)
    frequencies = []
    for index in range(dim // 2):
        plain = THETA ** (-2 * index / dim)
        ramp = min(max((index - low) / (high - low), 0.0), 1.0)
        frequencies.append(plain / factor * ramp + plain * (1 - ramp))
    return torch.tensor(frequencies)


def test_a_component_s_rope_is_in_force_in_the_loaded_model(tmp_path: Path) -> None:
    publish(tmp_path)
    artifact = run(ExportOptions(from_=FROM, components=STRETCHED), context(tmp_path))
    folder = tmp_path / "export.partial" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    rotary = model.model.rotary_emb
    assert rotary.attention_scaling == pytest.approx(0.1 * math.log(2) + 1, rel=1e-9)
    torch.testing.assert_close(rotary.inv_freq, yarn(2.0, 16), atol=0, rtol=1e-6)  # float32 powers
    assert model.config.max_position_embeddings == 2 * LENGTH
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 2 * LENGTH
    assert artifact.summary["attention_scaling"] == pytest.approx(1.0693147, abs=1e-7)
    assert artifact.summary["changed"]["max_position_embeddings"] == 2 * LENGTH
    assert not (folder / "README.md").exists()


def test_without_components_the_model_is_the_stage_s_bit_for_bit(tmp_path: Path) -> None:
    source = publish(tmp_path)
    said: list[str] = []
    run(ExportOptions(from_=FROM), context(tmp_path, said))
    folder = tmp_path / "export.partial" / "model"
    tokens = torch.arange(12).unsqueeze(0)
    with torch.inference_mode():
        ours, theirs = (AutoModelForCausalLM.from_pretrained(path)(tokens).logits for path in (folder, source))
    assert torch.equal(ours, theirs)
    assert (folder / "model.safetensors").samefile(source / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    assert json.loads((source / "generation_config.json").read_text())["use_cache"] is False
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.use_cache is True
    assert any("use_cache was off" in line for line in said)
    assert json.loads((source / "config.json").read_text())["use_cache"] is False, "the source is published: hands off"


def test_generation_settings_and_the_chat_s_end_of_sequence(tmp_path: Path) -> None:
    publish(tmp_path)
    said: list[str] = []
    options = ExportOptions(from_=FROM, generation=GenerationOptions(temperature=0.6, top_p=0.95))
    run(options, context(tmp_path, said))
    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "export.partial" / "model").generation_config
    assert (settings.temperature, settings.top_p, settings.do_sample) == (0.6, 0.95, True)
    assert settings.eos_token_id == 2
    assert settings.pad_token_id == 0
    assert any("end-of-sequence 1 is not the tokenizer's: written as 2" in line for line in said)


def test_a_list_of_ends_that_has_the_tokenizer_s_stays(tmp_path: Path) -> None:
    edit(publish(tmp_path) / "generation_config.json", eos_token_id=[1, 2])
    run(ExportOptions(from_=FROM), context(tmp_path))
    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "export.partial" / "model").generation_config
    assert settings.eos_token_id == [1, 2]


def test_weights_are_rounded_to_another_dtype(tmp_path: Path) -> None:
    source = publish(tmp_path)
    run(ExportOptions(from_=FROM, dtype="bfloat16"), context(tmp_path))
    folder = tmp_path / "export.partial" / "model"
    exported, original = load_file(folder / "model.safetensors"), load_file(source / "model.safetensors")
    assert exported.keys() == original.keys()
    for key, tensor in exported.items():
        assert torch.equal(tensor, original[key].to(torch.bfloat16)), key
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16


def test_a_chat_template_of_one_s_own_is_shipped(tmp_path: Path) -> None:
    publish(tmp_path)
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0].content }} assistant")
    options = ExportOptions(from_=FROM, chat_template=template)
    assert not [*check(options), *missing(options)]
    run(options, context(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export.partial" / "model")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False) == "Hello assistant"


def test_a_template_that_does_not_render_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    template = tmp_path / "broken.jinja"
    template.write_text("{{ messages[7].content.upper() }}")
    with pytest.raises(StageError, match="does not render a conversation"):
        run(ExportOptions(from_=FROM, chat_template=template), context(tmp_path))


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, "names no rope_theta, so that of the model class"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "RoPE: the configuration says"),
        ({"num_hidden_layers": 5, "no_rope_layers": None, "layer_types": None}, "weights are not those"),
        ({"tie_word_embeddings": False}, r"weights are not those .*lm_head\.weight"),
        ({"vocab_size": 4}, r"weights are not those .*model\.embed_tokens\.weight"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, edits: dict[str, Any], message: str) -> None:
    edit(publish(tmp_path) / "config.json", **edits)
    with pytest.raises(StageError, match=message):
        run(ExportOptions(from_=FROM), context(tmp_path))


def test_a_component_that_forgets_the_original_length_is_found_out(tmp_path: Path) -> None:
    """transformers then takes the new maximum for the original: the frequencies would be stretched from there."""

    def forget(config: HfConfig, options: NoOptions) -> None:
        stretch(config, StretchOptions(factor=2.0))
        del config["rope_parameters"]["original_max_position_embeddings"]

    publish(tmp_path)
    with pytest.raises(StageError, match="original_max_position_embeddings"):
        run(ExportOptions(from_=FROM, components={"long": component(forget)}), context(tmp_path))


def test_a_model_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    file = publish(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(StageError, match="logits are not finite"):
        run(ExportOptions(from_=FROM), context(tmp_path))


def test_what_is_wrong_with_the_options_is_said_before_anything_runs(tmp_path: Path) -> None:
    options = ExportOptions(
        from_=FROM,
        components={"sinks": component(None)},
        chat_template=tmp_path / "nowhere.jinja",
        generation=GenerationOptions(do_sample=False, temperature=0.6),
    )
    problems = list(check(options))
    assert len(problems) == 2
    assert "'sinks' (stretch) has no counterpart in transformers" in problems[0]
    assert "temperature would have no effect" in problems[1]
    assert list(missing(options)) == [f"'chat_template': there is no file {tmp_path / 'nowhere.jinja'}"]


def test_the_stage_is_offered() -> None:
    (kind,) = smolrecipe_stages()
    assert kind.name == "export"
