"""Whether RULER's texts fit their length: lm-eval shrinks them until they do, for ever where the shortest does not."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from lm_eval.tasks.ruler import vt_utils  # noqa: TID253
from transformers import PreTrainedTokenizerBase  # noqa: TID253

_WORKED_EXAMPLE = 500
"""Tokens that lm-eval gives the worked example of ``vt``, with its answer."""


def chains_fit(tokenizer: PreTrainedTokenizerBase, length: int) -> bool:
    """Whether ``vt`` has room for its shortest worked example and its shortest text.

    Asked before, since lm-eval's loop over texts without any room asks no tokenizer. Names and numbers are drawn, so
    the longest of some draws is taken, with a twentieth to spare.
    """
    state = random.getstate()
    random.seed(0)
    try:
        example, text = (
            max(
                len(tokenizer(f"{made} {' '.join(names)}")["input_ids"])
                for made, names in (vt_utils.generate_input_output(noises, 1, 4, is_icl=worked) for _ in range(10))
            )
            for noises, worked in ((5, True), (10, False))
        )
    finally:
        random.setstate(state)
    answer = vt_utils.CONFIG["variable_tracking"]["tokens_to_generate"]
    return 1.05 * example + answer < _WORKED_EXAMPLE and 1.05 * (text + example) + answer < length


class PatientTokenizer:
    """Counts tokens as the tokenizer does, for so many calls; then it has given up, and makes every loop end.

    Some of lm-eval's loops swallow every exception. So once the calls are spent, it raises and counts nothing by turns:
    the one ends loops that make texts longer, the other those that make them shorter.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, calls: int) -> None:
        self._tokenizer = tokenizer
        self._left = calls

    @property
    def gave_up(self) -> bool:
        """Whether the calls were not enough: what was made since is of no use."""
        return self._left < 0

    def __call__(self, text: str) -> Any:
        """What the tokenizer makes of the text: its ``input_ids``."""
        self._left -= 1
        if self._left >= 0:
            return self._tokenizer(text)
        if self._left % 2:
            return SimpleNamespace(input_ids=[])
        raise ValueError("no text of this task is short enough for this tokenizer")
