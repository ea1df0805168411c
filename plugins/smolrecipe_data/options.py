"""The options of the tokenizer stages, of ``tokenize`` and of the packer ``mixture``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from smolrecipe import Source, StageRef, Use, option

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Llama 3's tokenizer cuts text before it merges bytes (its tokenizer.json)."""

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<think>",
    "</think>",
    "<|finetune_right_pad_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_response>",
    "</tool_response>",
    "<tool_call>",
    "</tool_call>",
    "<code>",
    "</code>",
)
"""SmolLM3's named tokens in the order of their ids: 128000-128004 and 128011-128018."""

END_OF_TEXT = "<|end_of_text|>"
PAD = "<|finetune_right_pad_id|>"


@frozen(kw_only=True)
class TrainTokenizerOptions:
    """The options of the ``train_tokenizer`` stage."""

    data: Mapping[str, Use[Source]] = option(
        ordered=False, doc="the text that byte pairs are counted in; rows of any shape"
    )
    vocab_size: int = option(at_least=257, doc="how many tokens in all, special tokens included; reached exactly")
    special_tokens: list[str] = option(
        factory=lambda: list(SPECIAL_TOKENS),
        doc="tokens that stand for themselves; they get the last ids, in this order",
        source="SmolLM3's tokenizer: Llama 3.2's with reserved tokens renamed",
    )
    eos_token: str = option(default=END_OF_TEXT, doc="ends a document", source="SmolLM3 pretraining: 128001")
    pad_token: str = option(default=PAD, doc="fills up short rows of a batch", source="SmolLM3: 128004")
    min_frequency: int = option(default=2, at_least=1, doc="a pair is merged only if it occurs at least this often")
    characters: int | None = option(
        default=None, at_least=1, doc="read about this many characters of each source, whole rows; all without it"
    )
    pattern: str = option(
        default=LLAMA3_PATTERN,
        doc="the regular expression whose matches are the words that merges stay inside",
        source="Llama 3's tokenizer.json",
    )


@frozen(kw_only=True)
class PretrainedTokenizerOptions:
    """The options of the ``pretrained_tokenizer`` stage: give either ``id`` or ``file``."""

    id: str | None = option(default=None, doc="a model on the Hugging Face Hub whose tokenizer.json to take")
    revision: str | None = option(default=None, doc="the commit, tag or branch on the Hub")
    file: Path | None = option(default=None, doc="a local tokenizer.json instead")
    token_names: Mapping[str, str] = option(
        factory=dict,
        ordered=False,
        doc="new names for tokens, id: name; only special and added tokens have names to give away",
        source="SmolLM3 names reserved tokens of Llama 3.2: 128002: <think>, 128011: <|im_start|>, ...",
    )
    eos_token: str = option(default=END_OF_TEXT, doc="ends a document", source="SmolLM3 pretraining: 128001")
    pad_token: str = option(default=PAD, doc="fills up short rows of a batch", source="SmolLM3: 128004")
    bos_token: str | None = option(
        default=None,
        doc="begins every text; without it none does, even where the original tokenizer puts one",
        source="SmolLM3: Llama 3.2's tokenizer without its bos_token",
    )


@frozen(kw_only=True)
class TokenizeOptions:
    """The options of the ``tokenize`` stage."""

    tokenizer: StageRef = option(needs="tokenizer", doc="the stage whose tokenizer is used")
    sources: Mapping[str, Use[Source]] = option(
        ordered=False, doc="the sources, which must yield text rows, by the names they get"
    )
    held_out: float = option(
        default=0.01,
        at_least=0,
        at_most=0.5,
        doc="the share of each source's documents that is never trained on; which ones depends on their content alone, "
        "so that equal documents stay on one side, in every stage",
    )
    end_of_document: str | None = option(
        default=None, doc="the token after each document; without it the tokenizer's eos_token"
    )
    seed: int = option(default=0, at_least=0, doc="the seed of the order of the documents")
    files: int = option(
        default=1,
        at_least=1,
        at_most=1024,
        doc="token files per source. Documents are dealt to them at random and shuffled inside; one worker makes one "
        "file, so large sources want several per worker",
    )
    workers: int = option(default=1, at_least=1, identity=False, doc="processes that tokenise at the same time")


@frozen(kw_only=True)
class MixtureOptions:
    """The options of the ``mixture`` packer."""

    from_: list[StageRef] = option(needs="tokens", doc="the stages whose token files are mixed")
    weights: Mapping[str, float] = option(
        doc="what share of the samples comes from each source; divided by their sum",
        source="SmolLM3: nanotron's dataset weights, whose sums are 1.00005 and 1.00565",
    )
    allow_unused: bool = option(default=False, doc="whether sources may lack a weight and stay unused")
    order_seed: int = option(
        default=0,
        at_least=0,
        doc="the seed of the order of the documents inside each source. It is not the stage's seed, so that a later "
        "stage with a seed of its own continues where an earlier one stopped",
    )
