"""The ``pretrained_tokenizer`` stage: an existing tokenizer, with names for its reserved tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import huggingface_hub.errors as hub_errors

from smolrecipe import Artifact, StageContext, StageError
from smolrecipe.stage import TOKENIZER_FOLDER
from smolrecipe_data.json_files import read_json
from smolrecipe_data.options import PretrainedTokenizerOptions
from smolrecipe_data.tokenizer_files import added_tokens, tokenizer_from
from smolrecipe_data.tokenizer_folder import TOKENIZER_FILE, added_token, save
from smolrecipe_data.wording import printable


def pretrained_tokenizer(options: PretrainedTokenizerOptions, context: StageContext) -> Artifact:
    """Fetch the tokenizer, rename its tokens, set the roles of eos, pad and bos, and write it.

    Raises:
        StageError: when there is no such tokenizer, the Hub cannot be reached, or a token to be renamed is not there.
    """
    if options.file is not None:
        path, origin = options.file, str(options.file)
    else:
        path, origin = _download(str(options.id), options.revision), str(options.id)
    where = f"the {TOKENIZER_FILE} of {printable(origin)}"
    content = read_json(path, where)
    tokenizer_from(content, where)
    _rename(content, {int(token): name for token, name in options.token_names.items()}, where)
    tokenizer = tokenizer_from(content, f"{where}, with its new names,")
    save(
        tokenizer,
        context.folder / TOKENIZER_FOLDER,
        eos_token=options.eos_token,
        pad_token=options.pad_token,
        bos_token=options.bos_token,
    )
    return Artifact(
        summary={
            "vocab_size": tokenizer.get_vocab_size(),
            "renamed": len(options.token_names),
            "eos_token_id": tokenizer.token_to_id(options.eos_token),
            "pad_token_id": tokenizer.token_to_id(options.pad_token),
        }
    )


def _rename(content: dict[str, Any], names: dict[int, str], where: str) -> None:
    """Give added tokens new names. Their ids stay, so a model's embeddings keep their meaning."""
    added = {entry["id"]: entry for entry in added_tokens(content, where)}
    missing = sorted(set(names) - set(added))
    if missing:
        raise StageError(
            f"'token_names' names {', '.join(map(str, missing))}, which are no special or added tokens of {where}; "
            f"those are {min(added, default='none')} to {max(added, default='none')}"
        )
    vocabulary = content["model"].get("vocab")
    if not isinstance(vocabulary, dict):  # a Unigram model's list, which has no added tokens in it
        vocabulary = {}
    old_names = {added[token]["content"] for token in names}
    taken = {entry["content"]: token for token, entry in added.items() if token not in names}
    taken |= {name: token for name, token in vocabulary.items() if name not in old_names}
    moved = {}
    for token, name in names.items():
        old = added[token]["content"]
        if name in taken:
            raise StageError(
                f"'token_names' calls token {token} {name}, which is the name of token {taken[name]} already"
            )
        taken[name] = token
        added[token] |= {"content": name, "special": added_token(name).special}
        if old in vocabulary:
            moved[name] = vocabulary.pop(old)
    vocabulary.update(moved)


def _download(name: str, revision: str | None) -> Path:
    where = f"'{name}'" + (f" at revision '{revision}'" if revision else "")
    try:
        return Path(huggingface_hub.hf_hub_download(name, TOKENIZER_FILE, revision=revision))
    except hub_errors.GatedRepoError:
        raise StageError(
            f"{where} is gated: ask for access on https://huggingface.co/{name} and run 'hf auth login'"
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise StageError(f"the Hugging Face Hub has '{name}', but not revision '{revision}'") from None
    except hub_errors.RemoteEntryNotFoundError:
        raise StageError(f"{where} has no {TOKENIZER_FILE}: only fast tokenizers can be used") from None
    except hub_errors.RepositoryNotFoundError:
        raise StageError(f"the Hugging Face Hub has no model {where}, or not for you: check 'id'") from None
    except hub_errors.HFValidationError as error:
        raise StageError(f"'id' is no name of a model on the Hub: {str(error).splitlines()[0]}") from None
    except (OSError, httpx.HTTPError) as error:
        raise StageError(
            f"the tokenizer of {where} is not on this machine and the Hugging Face Hub could not be reached "
            f"({type(error).__name__}). Connect this machine, copy the cache (HF_HOME) of one that has it, or give a "
            "local tokenizer.json as 'file'"
        ) from None
