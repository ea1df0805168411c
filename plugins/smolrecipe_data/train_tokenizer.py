"""The ``train_tokenizer`` stage: byte-level byte-pair encoding with Llama 3's pre-tokenisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: TID253

from smolrecipe import Artifact, Source, StageContext, StageError, Use
from smolrecipe.stage import TOKENIZER_FOLDER
from smolrecipe_data.options import TrainTokenizerOptions
from smolrecipe_data.rows import row_texts, valid_unicode
from smolrecipe_data.tokenizer_files import rust_errors
from smolrecipe_data.tokenizer_folder import added_token, save


def train_tokenizer(options: TrainTokenizerOptions, context: StageContext) -> Artifact:
    """Count byte pairs in the data and write the tokenizer.

    Ids are laid out as Llama 3's: first the 256 bytes, then merges by rank, at the end the special tokens. The same
    data gives the same file.

    Raises:
        StageError: when the text has too few different byte pairs for the wanted size.
    """
    counts: dict[str, dict[str, int]] = {}
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    with rust_errors("'pattern' is no regular expression"):
        words = Regex(options.pattern)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    learned = options.vocab_size - len(options.special_tokens)
    trainer = trainers.BpeTrainer(
        vocab_size=learned,
        min_frequency=options.min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    with rust_errors("byte pairs cannot be counted"):
        tokenizer.train_from_iterator(_texts(options.data, options.characters, counts, context), trainer=trainer)
    characters = sum(count["characters"] for count in counts.values())
    reached = tokenizer.get_vocab_size()
    if reached != learned:
        raise StageError(
            f"vocab_size {options.vocab_size} cannot be reached: {characters:,} characters of text gave {reached} "
            f"tokens besides {len(options.special_tokens)} special ones, where {learned} are needed. Give more text, a "
            "smaller vocab_size or a smaller min_frequency"
        )
    tokenizer.add_tokens([added_token(name) for name in options.special_tokens])
    if tokenizer.get_vocab_size() != options.vocab_size:
        learned_too = [name for name in options.special_tokens if (tokenizer.token_to_id(name) or 0) < learned]
        raise StageError(f"these special tokens were learned from the text as well: {', '.join(learned_too)}")
    save(tokenizer, context.folder / TOKENIZER_FOLDER, eos_token=options.eos_token, pad_token=options.pad_token)
    context.say(f"learned {learned} tokens from {characters:,} characters")
    return Artifact(summary={"vocab_size": options.vocab_size, "characters": characters, "sources": counts})


def _texts(
    data: Mapping[str, Use[Source]], most: int | None, counts: dict[str, dict[str, int]], context: StageContext
) -> Iterator[str]:
    for number, (name, use) in enumerate(data.items(), start=1):
        count = counts[name] = {"rows": 0, "characters": 0, "repaired_rows": 0}
        for row in _rows_within(use, most, count):
            yield from row
        if count["characters"] == 0:
            raise StageError(f"source '{name}' has no text")
        context.progress(number, len(data), characters=sum(each["characters"] for each in counts.values()))


def _rows_within(use: Use[Source], most: int | None, count: dict[str, int]) -> Iterator[list[str]]:
    row: Any
    for row in use.component.read(use.options):
        given = list(row_texts(row))
        texts = [valid_unicode(text) for text in given]
        count["rows"] += 1
        count["repaired_rows"] += texts != given
        count["characters"] += sum(map(len, texts))
        yield texts
        if most is not None and count["characters"] >= most:
            return
