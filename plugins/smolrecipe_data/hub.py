"""Reading the ``hf_dataset`` source."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets  # noqa: TID253
import httpx
import huggingface_hub.errors
import pyarrow
import yaml
from huggingface_hub import DatasetCard

from smolrecipe import StageError
from smolrecipe_data.rows import shape_rows
from smolrecipe_data.source_options import HfDatasetOptions
from smolrecipe_data.wording import printable

_UNREACHABLE = (ConnectionError, TimeoutError, httpx.HTTPError, huggingface_hub.errors.HfHubHTTPError)
_UNREADABLE = (pyarrow.ArrowException, ValueError, OSError, EOFError, LookupError, TypeError, RuntimeError, zlib.error)

_FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""The library's readers that may be used. Others unpickle what they read, or make no rows of text."""

_FROM_CACHE = "cache"
"""The library's reader of what it has read before, for a data set of the Hub while that cannot be reached."""


def read(options: HfDatasetOptions) -> Iterator[Mapping[str, Any]]:
    """The rows of the split, by ``datasets.load_dataset``.

    Raises:
        StageError: when the Hub cannot be reached, or has no such data set, configuration, split or column.
    """
    data = _load(options)
    if options.fraction is not None:
        data = data.shuffle(seed=options.seed).select(range(int(len(data) * options.fraction)))
    title = _title(options)
    yield from shape_rows(
        _records(data, options),
        options.yields,
        options.columns,
        options.rows,
        place=lambda number: f"{title}, row {number}",
    )


def _load(options: HfDatasetOptions) -> Any:
    datasets.disable_progress_bars()
    try:
        if Path(options.id).is_dir():
            _require_local(options)
        builder = datasets.load_dataset_builder(
            options.id,
            name=options.config,
            revision=options.revision,
            data_dir=options.data_dir,
            data_files=options.data_files or None,
        )
        _require_format(builder, options)
        _require_own_files(builder, options)
        if options.streaming:
            return builder.as_streaming_dataset(split=options.split)
        builder.download_and_prepare()
        return builder.as_dataset(split=options.split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise StageError(
            f"{_title(options)} was not found: {_first_line(error)}. Check 'id' and 'revision'; for a private or gated "
            "data set ask for access on its page and log in with 'hf auth login'"
        ) from None
    except _UNREACHABLE as error:
        raise _unreachable(options, error) from None
    except datasets.exceptions.DatasetGenerationError as error:
        raise _unreadable(options, error.__cause__ or error) from error
    except _UNREADABLE as error:
        raise _unreadable(options, error) from error


def _require_local(options: HfDatasetOptions) -> None:
    """A folder's own description may name files of the network, which the recipe does not."""
    for name, describe in (("README.md", _card), (".huggingface.yaml", _yaml)):
        file = Path(options.id) / name
        described = describe(file).get("configs") if file.is_file() else None
        if remote := next((text for text in _texts(described) if "://" in text or "::" in text), None):
            raise StageError(
                f"{_title(options)}: its {name} names '{printable(remote)}', which is not in its folder: name in the "
                "recipe what is to be read, with 'data_files'"
            )


def _card(file: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = DatasetCard.load(file).data.to_dict()
    return found


def _yaml(file: Path) -> Mapping[str, Any]:
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _texts(value: Any) -> Iterator[str]:
    """All text in a value of YAML; each list or mapping once, however often it is referred to."""
    left, seen = [value], set()
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, dict)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value if isinstance(value, list) else [*value.keys(), *value.values()])


def _require_format(builder: Any, options: HfDatasetOptions) -> None:
    reader = type(builder).__module__.split(".")[-1]
    if reader not in (*_FORMATS, _FROM_CACHE):
        raise StageError(
            f"{_title(options)} is read by '{reader}' of the library datasets, which is not allowed here: it may hold "
            f"code, or no rows of text. Formats are {', '.join(_FORMATS)}"
        )


def _require_own_files(builder: Any, options: HfDatasetOptions) -> None:
    """A data set may not describe itself as files that lie elsewhere on this machine."""
    if options.data_files:
        return
    folder = Path(options.id)
    own = f"{folder.expanduser().resolve().as_posix()}/" if folder.is_dir() else "hf://"
    for files in (builder.config.data_files or {}).values():
        if strange := next((file for file in files if not str(file).startswith(own)), None):
            raise StageError(
                f"{_title(options)}: it names '{printable(strange)}', which is none of its own files: name in the "
                "recipe what is to be read, with 'data_files'"
            )


def _records(data: Any, options: HfDatasetOptions) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        yield from enumerate(data)
    except _UNREACHABLE as error:
        raise _unreachable(options, error) from None
    except _UNREADABLE as error:
        raise _unreadable(options, error) from error


def _unreachable(options: HfDatasetOptions, error: BaseException) -> StageError:
    return StageError(
        f"{_title(options)} is not on this machine and the Hugging Face Hub could not be reached "
        f"({_first_line(error)}). Connect this machine, or load the data set once where there is a connection and copy "
        "the cache (HF_HOME) here, or name local files with 'use: files'"
    )


def _unreadable(options: HfDatasetOptions, error: BaseException) -> StageError:
    return StageError(f"{_title(options)} could not be loaded: {_first_line(error)}")


def _title(options: HfDatasetOptions) -> str:
    parts = [f"data set '{printable(options.id)}'"]
    if options.config:
        parts.append(f"configuration '{options.config}'")
    parts.append(f"split '{options.split}'")
    if options.revision:
        parts.append(f"revision '{options.revision}'")
    return ", ".join(parts)


def _first_line(error: BaseException) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."))
