"""Keeping the engines to themselves: no telemetry, no progress bars in the log."""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL's trainers report their use when they are built
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "true",  # rows are tokenised before any process is forked
}


def be_quiet() -> None:
    """Set the variables that the engines read when they are imported; what is set already stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
