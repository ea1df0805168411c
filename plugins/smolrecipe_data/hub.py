"""Reading the ``hf_dataset`` source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import datasets  # noqa: TID253
import httpx
import huggingface_hub.errors

from smolrecipe import StageError
from smolrecipe_data.rows import shape_rows
from smolrecipe_data.source_options import HfDatasetOptions

_UNREACHABLE = (ConnectionError, TimeoutError, httpx.HTTPError, huggingface_hub.errors.HfHubHTTPError)


def read(options: HfDatasetOptions) -> Iterator[Mapping[str, Any]]:
    """The rows of the split, by ``datasets.load_dataset``.

    Raises:
        StageError: when the Hub cannot be reached, or has no such data set, configuration, split or column.
    """
    data = _load(options)
    if options.fraction is not None:
        data = data.shuffle(seed=options.seed).select(range(int(len(data) * options.fraction)))
    yield from shape_rows(_records(data, options), options.yields, options.columns, options.rows, _title(options))


def _load(options: HfDatasetOptions) -> Any:
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            options.id,
            name=options.config,
            split=options.split,
            revision=options.revision,
            data_dir=options.data_dir,
            data_files=options.data_files or None,
            streaming=options.streaming,
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        raise StageError(
            f"{_title(options)} was not found: {_first_line(error)}. Check 'id' and 'revision'; for a private or gated "
            "data set ask for access on its page and log in with 'hf auth login'"
        ) from None
    except _UNREACHABLE as error:
        raise _unreachable(options, error) from None
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        raise StageError(f"{_title(options)} could not be loaded: {_first_line(cause or error)}") from None


def _records(data: Any, options: HfDatasetOptions) -> Iterator[Mapping[str, Any]]:
    try:
        yield from data
    except _UNREACHABLE as error:
        raise _unreachable(options, error) from None


def _unreachable(options: HfDatasetOptions, error: BaseException) -> StageError:
    return StageError(
        f"{_title(options)} is not on this machine and the Hugging Face Hub could not be reached "
        f"({_first_line(error)}). Connect this machine, or load the data set once where there is a connection and copy "
        "the cache (HF_HOME) here, or name local files with 'use: files'"
    )


def _title(options: HfDatasetOptions) -> str:
    parts = [f"data set '{options.id}'"]
    if options.config:
        parts.append(f"configuration '{options.config}'")
    parts.append(f"split '{options.split}'")
    if options.revision:
        parts.append(f"revision '{options.revision}'")
    return ", ".join(parts)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
