"""Fetching a model's files from the Hugging Face Hub, or from the cache of an earlier time."""

from __future__ import annotations

from pathlib import Path

import httpx
import huggingface_hub
import huggingface_hub.errors as hub_errors

from smolrecipe import StageError

FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""Weights, configurations, tokenizers and chat templates. No pickles and no code: nothing fetched is ever executed."""


def download(name: str, revision: str | None) -> tuple[Path, str]:
    """The folder with the files of a model, and the commit that they are.

    Raises:
        StageError: when there is no such model or revision, access is refused, or the Hub cannot be reached.
    """
    model = f"'{name}'" + (f" at revision '{revision}'" if revision else "")
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=FILES)
    except hub_errors.GatedRepoError:
        raise StageError(
            f"the model {model} is gated: accept its terms on https://huggingface.co/{name}, then run 'hf auth login'"
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise StageError(f"the model '{name}' has no revision '{revision}' on the Hugging Face Hub") from None
    except hub_errors.RepositoryNotFoundError:
        raise StageError(
            f"there is no model {model} on the Hugging Face Hub, or it is private: check its name, or run "
            "'hf auth login'"
        ) from None
    except hub_errors.HFValidationError:
        raise StageError(
            f"'{name}' is no name of a model on the Hugging Face Hub: those are 'organisation/model'"
        ) from None
    except (OSError, httpx.HTTPError, hub_errors.HfHubHTTPError) as error:
        raise StageError(
            f"the model {model} is not on this machine, and the Hugging Face Hub did not answer "
            f"({type(error).__name__}): connect this machine, copy the cache (HF_HOME) of one that has the model, or "
            "name a folder that holds it"
        ) from None
    return Path(folder), Path(folder).name
