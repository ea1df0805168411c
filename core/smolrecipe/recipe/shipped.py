"""The recipes that ship with smolrecipe, by name."""

from __future__ import annotations

from pathlib import Path


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with smolrecipe, by name."""
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):  # installed, or an editable checkout
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def shipped_recipe(reference: str) -> Path | None:
    """The shipped recipe that is meant by ``smollm3``, ``smollm3.yaml`` or ``recipes/smollm3.yaml``."""
    path = Path(reference)
    if path.parent not in (Path(), Path("recipes")):
        return None
    return shipped_recipes().get(path.name.removesuffix(".yaml"))
