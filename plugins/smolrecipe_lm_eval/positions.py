"""Whether models have the positions for what they are asked, before any is loaded."""

from __future__ import annotations

from pathlib import Path

from smolrecipe import StageError
from smolrecipe.checkpoint import CONFIG_FILE
from smolrecipe.strict_json import read_mapping
from smolrecipe_lm_eval.options import EvaluateOptions


def require_positions(name: str, folder: Path, options: EvaluateOptions) -> None:
    """Refuse a model, before any is evaluated, that has not the positions for a context of RULER.

    Raises:
        StageError: naming the length, or the ``config.json`` that does not tell positions.
    """
    if options.ruler is None:
        return
    try:
        config = read_mapping(folder / CONFIG_FILE, most_bytes=2**24)
    except ValueError as error:
        raise StageError(str(error)) from None
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        raise StageError(f"{folder / CONFIG_FILE} does not tell max_position_embeddings, which RULER's contexts need")
    for length in options.ruler.lengths:
        if length > positions:
            raise StageError(
                f"'ruler.lengths' has contexts of {length} tokens, and the model of '{name}' takes {positions}: take "
                "shorter ones, or extend the model (an export with yarn)"
            )
