"""The ``tokenizer/`` folder that both tokenizer stages write: what AutoTokenizer and datatrove load."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from attrs import frozen
from tokenizers import AddedToken, Tokenizer, processors  # noqa: TID253
from transformers import PreTrainedTokenizerFast  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_data.json_files import read_json
from smolrecipe_data.tokenizer_files import load_tokenizer
from smolrecipe_data.wording import printable

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_CONTROL = ("<|", "|>")
_LARGEST_16_BIT_VOCABULARY = 2**16
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def added_token(name: str) -> AddedToken:
    """A token that stands for itself.

    Control tokens (``<|im_end|>``) disappear from decoded text with ``skip_special_tokens``; tags that are part of what
    a model says (``<think>``, ``<tool_call>``) stay.
    """
    control = name.startswith(_CONTROL[0]) and name.endswith(_CONTROL[1])
    return AddedToken(name, special=control, normalized=False)


def save(tokenizer: Tokenizer, folder: Path, *, eos_token: str, pad_token: str, bos_token: str | None = None) -> None:
    """Write the tokenizer so that ``AutoTokenizer.from_pretrained(folder)`` and ``Tokenizer.from_file`` load it.

    It neither truncates nor pads, and puts ``bos_token`` before a text if there is one, and nothing else. What an
    attempt that was cut short has left in the folder is deleted.

    Raises:
        StageError: for an eos, pad or bos token that is no token.
        OSError: when the folder cannot be written.
    """
    for role, name in (("eos_token", eos_token), ("pad_token", pad_token), ("bos_token", bos_token)):
        if name is not None and tokenizer.token_to_id(name) is None:
            raise StageError(
                f"'{role}' is {name}, which is no token of this tokenizer: add it to its special tokens or name another"
            )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos_token is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos_token} $A",
            pair=f"{bos_token} $A {bos_token} $B",
            special_tokens=[(bos_token, tokenizer.token_to_id(bos_token))],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos_token,
        pad_token=pad_token,
        bos_token=bos_token,
        clean_up_tokenization_spaces=False,
    )
    if folder.exists():
        shutil.rmtree(folder)
    try:
        fast.save_pretrained(folder)
    except Exception as error:
        if found := _OS_ERROR.search(str(error)):  # Rust's, of which nothing but its text gets here
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder / TOKENIZER_FILE)) from error
        raise


@frozen(kw_only=True)
class TokenizerFacts:
    """What token files need to know of their tokenizer."""

    file: Path
    sha256: str
    vocab_size: int
    end_of_document: str
    end_of_document_id: int
    control_tokens: tuple[str, ...]
    """Tokens that steer a model. A document in which one is written holds its letters, not the token."""

    @property
    def token_bytes(self) -> int:
        """Bytes of a token in datatrove's files."""
        return 2 if self.vocab_size <= _LARGEST_16_BIT_VOCABULARY else 4


def facts(folder: Path, end_of_document: str | None) -> TokenizerFacts:
    """What a tokenizer folder holds; ``end_of_document`` ``None`` stands for its eos_token.

    Raises:
        StageError: when the folder has no fast tokenizer or no such token.
    """
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise StageError(f"{folder} has no {TOKENIZER_FILE}: only fast tokenizers can be used")
    tokenizer = load_tokenizer(file)
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        raise StageError(f"{file} truncates or pads texts, which would lose or add tokens: save it without that")
    if end_of_document is None:
        end_of_document = eos_token(folder)
    token_id = tokenizer.token_to_id(end_of_document)
    if token_id is None:
        raise StageError(
            f"'end_of_document' is {printable(end_of_document)}, which is no token of the tokenizer in {folder}"
        )
    return TokenizerFacts(
        file=file,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        vocab_size=tokenizer.get_vocab_size(),
        end_of_document=end_of_document,
        end_of_document_id=token_id,
        control_tokens=tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special),
    )


def eos_token(folder: Path) -> str:
    """The token that a tokenizer folder names as its end of text.

    Raises:
        StageError: when it names none.
    """
    named = read_json(folder / CONFIG_FILE, printable(folder / CONFIG_FILE)).get("eos_token")
    if isinstance(named, dict):
        named = named.get("content")
    if not isinstance(named, str):
        raise StageError(f"the tokenizer in {folder} has no eos_token: name a token as 'end_of_document'")
    return named
