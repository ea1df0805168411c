"""Tokenizers: learned ones round-trip, repeat and have Llama 3's layout; pretrained ones get SmolLM3's names."""

import json
import subprocess
import sys
from collections.abc import Iterable

import pytest
import regex
from attrs import frozen
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

import smolrecipe_data
from smolrecipe import Source, StageContext, StageError, Use, option
from smolrecipe_data.options import LLAMA3_PATTERN, SPECIAL_TOKENS

STAGES = {stage.name: stage for stage in smolrecipe_data.smolrecipe_stages()}
SOURCES = {source.name: source for source in smolrecipe_data.smolrecipe_sources()}
VOCABULARY = 600

TRICKY = [
    "It's 12345 o'clock,\n\n  said Émile — ¿qué? 中文 😀\t\u200b end  ",
    "def f(x):\r\n    return x ** 2\r\n",
    "\x00\x7f\ufeff \u2028 a\u0301",
    "",
]


def use(name, **options):
    return Use(SOURCES[name], SOURCES[name].options(**options))


def options(**changes):
    data = {
        "text": use("arithmetic", style="text", split="train"),
        "think": use("arithmetic", style="think", split="train"),
        "code": use("python_code", rows=3),
    }
    return STAGES["train_tokenizer"].options(**{"data": data, "vocab_size": VOCABULARY, **changes})


def train(folder, **changes):
    events = []
    context = StageContext(recipe="r", stage="s", folder=folder, report=events.append)
    return STAGES["train_tokenizer"].run(options(**changes), context), events


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    train(root)
    return root / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_vocabulary_has_its_size_and_llama3s_layout(tokenizer):
    assert tokenizer.get_vocab_size() == VOCABULARY
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(VOCABULARY))
    assert {token for token, index in vocabulary.items() if index < 256} == set(pre_tokenizers.ByteLevel.alphabet())
    names = [tokenizer.id_to_token(index) for index in range(VOCABULARY - len(SPECIAL_TOKENS), VOCABULARY)]
    assert names == list(SPECIAL_TOKENS)


@pytest.mark.parametrize("text", TRICKY)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", TRICKY)
def test_words_are_llama3s(tokenizer, text):
    """Against the regular expression itself, run by another engine, on the original text."""
    words = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert words == regex.findall(LLAMA3_PATTERN, text)


def test_special_tokens_stand_for_themselves(tokenizer):
    text = "<|im_start|>user\nhi<|im_end|><think>\n</think>"
    tokens = tokenizer.encode(text).tokens
    assert tokens[0] == "<|im_start|>" and "<|im_end|>" in tokens and "<think>" in tokens and "</think>" in tokens
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    # What a model says stays visible, what only steers it does not.
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nhi<think>\n</think>"


def test_transformers_loads_it_with_its_roles_and_adds_nothing(folder, tokenizer):
    loaded = AutoTokenizer.from_pretrained(folder)
    assert len(loaded) == VOCABULARY
    assert loaded.eos_token == "<|end_of_text|>" and loaded.pad_token == "<|finetune_right_pad_id|>"
    assert loaded.eos_token_id == tokenizer.token_to_id("<|end_of_text|>") and loaded.bos_token is None
    for text in TRICKY:
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_the_same_text_gives_the_same_file_in_another_process(folder, tmp_path):
    """With another hash seed and one thread."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from test_data_tokenizer import train
train(Path(sys.argv[1]))
"""
    environment = {"PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (folder / name).read_bytes()


def test_it_reports_and_can_read_less(tmp_path):
    artifact, events = train(tmp_path, characters=3000, vocab_size=300)
    counts = artifact.summary["sources"]
    assert all(3000 <= counts[name]["characters"] < 40_000 for name in ("text", "think", "code"))
    assert artifact.summary["characters"] == sum(count["characters"] for count in counts.values())
    assert counts["code"]["rows"] == 1
    assert [event["step"] for event in events if "step" in event] == [1, 2, 3]


def test_too_little_text_is_refused_with_how_much_there_was(tmp_path):
    with pytest.raises(
        StageError, match=r"vocab_size 60000 cannot be reached: [\d,]+ characters of text gave \d+ tokens"
    ):
        train(tmp_path, vocab_size=60_000)


@frozen
class ListedOptions:
    rows: list = option(doc="the rows")


def listed(*rows):
    source = Source(
        name="listed",
        summary="rows given in options",
        options=ListedOptions,
        read=lambda options: options.rows,
        yields=lambda options: "text",
    )
    return Use(source, ListedOptions(list(rows)))


def test_a_source_without_text_is_refused(tmp_path):
    with pytest.raises(StageError, match="source 'nothing' has no text"):
        train(tmp_path, data={"nothing": listed({"text": ""})})


def test_worked_sums_are_short(tokenizer):
    """Rows of the default run: under 60 tokens in ChatML, with a vocabulary this small."""
    longest = 0
    for row in SOURCES["arithmetic"].read(SOURCES["arithmetic"].options(style="think", split="train")):
        turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"])
        longest = max(longest, len(tokenizer.encode(turns).ids))
    assert longest < 60


# Pretrained tokenizers


def llama_like(path, reserved: Iterable[int]):
    """A tokenizer.json laid out as Llama 3.2's: bytes, then special tokens, some of them reserved; it adds bos."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"]
    names += [f"<|reserved_special_token_{index}|>" for index in reserved]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 256)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.save(str(path))
    return path


def pretrained(tmp_path, **changes):
    stage = STAGES["pretrained_tokenizer"]
    file = llama_like(tmp_path / "original.json", range(4))
    context = StageContext(recipe="r", stage="s", folder=tmp_path)
    artifact = stage.run(stage.options(file=file, **changes), context)
    return artifact, AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), Tokenizer.from_file(str(file))


def test_reserved_tokens_get_names_and_keep_their_ids(tmp_path):
    names = {"259": "<think>", "260": "</think>", "262": "<|im_end|>"}
    artifact, renamed, original = pretrained(tmp_path, token_names=names)
    assert artifact.summary == {"vocab_size": 263, "renamed": 3, "eos_token_id": 257, "pad_token_id": 258}
    assert renamed.convert_tokens_to_ids(list(names.values())) == [259, 260, 262]
    assert renamed.convert_ids_to_tokens(261) == original.id_to_token(261) == "<|reserved_special_token_2|>"
    assert renamed("<think>a</think><|im_end|>")["input_ids"] == [259, original.token_to_id("a"), 260, 262]
    assert renamed.convert_tokens_to_ids("<|reserved_special_token_0|>") in (None, renamed.unk_token_id)
    assert renamed.decode([259, 262], skip_special_tokens=True) == "<think>"


def test_bos_is_dropped_unless_asked_for_and_nothing_is_truncated(tmp_path):
    text = "longer than eight tokens"
    _, without, original = pretrained(tmp_path)
    plain = original.encode(text[:7], add_special_tokens=False).ids
    assert without(text)["input_ids"][:7] == plain and len(without(text)["input_ids"]) == len(text)
    assert original.truncation and not Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json")).truncation
    (tmp_path / "with").mkdir()
    _, with_bos, _ = pretrained(tmp_path / "with", bos_token="<|begin_of_text|>")
    assert with_bos(text)["input_ids"] == [256, *without(text)["input_ids"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_names": {"12": "<think>"}}, "names 12, which are no special or added tokens.*those are 256 to 262"),
        (
            {"token_names": {"259": "<|end_of_text|>"}},
            "calls token 259 <|end_of_text|>, which is the name of token 257",
        ),
        ({"token_names": {"259": "<x>", "260": "<x>"}}, "which is the name of token 259 already"),
        ({"eos_token": "<|eot|>"}, "'eos_token' is <|eot|>, which is no token"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(StageError, match=message.replace("|", r"\|")):
        pretrained(tmp_path, **changes)


def test_names_may_be_swapped(tmp_path):
    names = {"259": "<|reserved_special_token_1|>", "260": "<|reserved_special_token_0|>"}
    _, swapped, _ = pretrained(tmp_path, token_names=names)
    assert swapped.convert_ids_to_tokens([259, 260]) == list(names.values())


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    stage = STAGES["pretrained_tokenizer"]
    file = tmp_path / "tokenizer.json"
    for content in ("nonsense", json.dumps({"model": {"type": "Nonsense"}})):
        file.write_text(content)
        with pytest.raises(StageError, match=r"tokenizer\.json cannot be read"):
            stage.run(stage.options(file=file), StageContext(recipe="r", stage="s", folder=tmp_path))
    (problem,) = stage.missing(stage.options(file=tmp_path / "none.json"))
    assert problem.startswith("no file at")
