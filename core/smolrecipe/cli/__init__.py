"""The command line: the one place that puts registry, recipe, plan and run together."""

from smolrecipe.cli.main import main

__all__ = ["main"]
