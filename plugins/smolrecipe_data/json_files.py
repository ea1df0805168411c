"""Small JSON files that others may have written: an object, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smolrecipe import StageError
from smolrecipe_data.steady_files import open_steady
from smolrecipe_data.wording import printable

_LARGEST_FILE = 2**29


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The JSON object in a file; ``where`` names it.

    Raises:
        StageError: when there is no such file, or it holds something else.
    """
    with open_steady(path) as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise StageError(f"{where} has more than {_LARGEST_FILE:,} bytes, far more than any such file needs")
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{where} cannot be read: {printable(error)}") from None
    if not isinstance(found, dict):
        raise StageError(f"{where} cannot be read: it holds {type(found).__name__} where a JSON object belongs")
    return found
