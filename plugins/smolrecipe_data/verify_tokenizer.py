"""What ``verify`` finds out about a tokenizer: as two libraries load it, on text that tokenizers stumble over."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub
from tokenizers import Tokenizer  # noqa: TID253
from transformers import AutoTokenizer  # noqa: TID253

from smolrecipe import Proof, StageContext
from smolrecipe.stage import TOKENIZER_FOLDER
from smolrecipe_data.options import PretrainedTokenizerOptions, TrainTokenizerOptions
from smolrecipe_data.tokenizer_folder import TOKENIZER_FILE
from smolrecipe_data.wording import listed

ODD_TEXTS = (
    "", " ", "  \t \n\n\r\n ", "a  b   c    d\t\te", "\u00a0\u2003\u200b\ufeff", "naïve café", "cafe\u0301",
    "Straße, ﬁne, ½, ²", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界", "こんにちは", "안녕",  # noqa: RUF001
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽 🫠", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "\x00\x01\x1f\x7f\x80\x9f", "\ufffd\ufffe\U0010ffff", "1234567890.12e-34",  # noqa: RUF001
    "def f(x):\n\treturn {'a': [x] * 2}  # comment\n", "https://x.y/z?a=b&c=%20#d", "it's IT'S we'Ll don't",
    "<|not_a_token|> <think <|im_start", "ſ K Å ͅ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\n" * 40,  # noqa: RUF001
)  # fmt: skip
"""Empty, white, combining, right to left, without spaces, outside the basic plane, control characters, code."""

_RANDOM_TEXTS = 200
_SURROGATES = range(0xD800, 0xE000)


def verify_trained(options: TrainTokenizerOptions, context: StageContext) -> Iterator[Proof]:
    """Proofs about the tokenizer of a ``train_tokenizer`` stage."""
    folder = context.folder / TOKENIZER_FOLDER
    tokenizer = _load(folder)
    size = tokenizer.get_vocab_size()
    yield Proof.same(
        "the vocabulary has the size asked for",
        abs(size - options.vocab_size),
        options.vocab_size,
        of="tokens",
        note=f"it has {size}",
    )
    first = options.vocab_size - len(options.special_tokens)
    named = {name: first + index for index, name in enumerate(options.special_tokens)}
    yield from _proofs(folder, tokenizer, named, options.eos_token, options.pad_token, None)


def verify_pretrained(options: PretrainedTokenizerOptions, context: StageContext) -> Iterator[Proof]:
    """Proofs about the tokenizer of a ``pretrained_tokenizer`` stage.

    It is compared with the original where that is still on this machine; nothing is downloaded.
    """
    folder = context.folder / TOKENIZER_FOLDER
    tokenizer = _load(folder)
    named = {name: int(token) for token, name in options.token_names.items()}
    original = _original(options)
    if original is not None:
        yield from _compare(tokenizer, Tokenizer.from_file(str(original)), set(named.values()))
    yield from _proofs(folder, tokenizer, named, options.eos_token, options.pad_token, options.bos_token)


def texts() -> list[str]:
    """The odd texts, and random ones of characters from all of Unicode."""
    numbers = random.Random(0)
    drawn = []
    for _ in range(_RANDOM_TEXTS):
        points = (numbers.randrange(0x110000 if numbers.random() < 0.5 else 0x250) for _ in range(20))
        drawn.append("".join(chr(point) for point in points if point not in _SURROGATES))
    return [*ODD_TEXTS, *drawn]


def _proofs(
    folder: Path, tokenizer: Tokenizer, named: Mapping[str, int], eos: str, pad: str, bos: str | None
) -> Iterator[Proof]:
    given = texts()
    lossy = []
    for text in given:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if back != text:
            lossy.append(f"{text[:20]!r} comes back as {back[:20]!r}")
    yield Proof.same("any text survives encoding and decoding", len(lossy), len(given), of="texts", note=listed(lossy))

    names = dict.fromkeys([*named, eos, pad, *([bos] if bos else [])])
    wrong = []
    for name in names:
        ids = tokenizer.encode(f"a{name}b", add_special_tokens=False).ids
        alone = tokenizer.encode(name, add_special_tokens=False).ids
        wanted = named.get(name, tokenizer.token_to_id(name))
        if alone != [wanted] or sum(token == wanted for token in ids) != 1:
            wrong.append(f"{name} is {alone}, not [{wanted}]")
    yield Proof.same("special tokens are one token each", len(wrong), len(names), of="tokens", note=listed(wrong))

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    asked = {"eos_token": eos, "pad_token": pad, "bos_token": bos}
    roles = {role: getattr(loaded, role) for role in asked}
    other = [f"{role} is {roles[role]}, not {name}" for role, name in asked.items() if roles[role] != name]
    yield Proof.same("eos, pad and bos are those asked for", len(other), len(asked), of="roles", note=listed(other))

    before = [] if bos is None else [tokenizer.token_to_id(bos)]
    apart = []
    for text in given:
        ids = tokenizer.encode(text).ids
        wanted_ids = [*before, *tokenizer.encode(text, add_special_tokens=False).ids]
        if not ids == wanted_ids == loaded(text)["input_ids"]:
            apart.append(f"{text[:20]!r} is {ids[:4]}... and in transformers {loaded(text)['input_ids'][:4]}...")
    claim = "transformers agrees, and adds no token" if bos is None else f"transformers agrees; {bos} begins texts"
    yield Proof.same(claim, len(apart), len(given), of="texts", note=listed(apart))


def _original(options: PretrainedTokenizerOptions) -> Path | None:
    if options.file is not None:
        return options.file if options.file.is_file() else None
    found = huggingface_hub.try_to_load_from_cache(str(options.id), TOKENIZER_FILE, revision=options.revision)
    return Path(found) if isinstance(found, str) else None


def _compare(tokenizer: Tokenizer, original: Tokenizer, renamed: set[int]) -> Iterator[Proof]:
    size = max(tokenizer.get_vocab_size(), original.get_vocab_size())
    changed = [
        f"{token}: {original.id_to_token(token)} is now {tokenizer.id_to_token(token)}"
        for token in range(size)
        if token not in renamed and original.id_to_token(token) != tokenizer.id_to_token(token)
    ]
    yield Proof.same(
        "other tokens keep their ids", len(changed), size - len(renamed), of="tokens", note=listed(changed)
    )
    given = texts()
    apart = [
        repr(text[:20])
        for text in given
        if tokenizer.encode(text, add_special_tokens=False).ids != original.encode(text, add_special_tokens=False).ids
    ]
    yield Proof.same("texts are tokenised as by the original", len(apart), len(given), of="texts", note=listed(apart))


def _load(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / TOKENIZER_FILE))
