"""What masking documents costs on a CPU: attention document by document, under a dense mask, and with no mask at all.

    python benchmarks/masking.py

Forward and backward of one layer's attention alone, on one thread in float32: rows of 1k to 32k tokens in documents of
one length. The dense mask is what ``docmask`` used before, and what ``transformers`` and TRL hand to torch for packed
rows; no mask is torchtitan's attention over the whole row. Masks and lengths are made anew each time, as in training.
Each measurement has a process of its own, which says how much memory it took beyond its imports.
"""

from __future__ import annotations

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"

import subprocess
import sys
import time
from statistics import median

from measuring import keep, memory_from_now_on, peak_memory

HEADS, KV_HEADS, HEAD_DIM = 4, 1, 32
ROWS = (1024, 4096, 8192, 16384, 32768)
DOCUMENTS = (32, 128, 512, 2048)
WAYS = ("by document", "dense mask", "no mask")
DENSE_AT_MOST = 16384
"""Tokens of a row under a dense mask: at 32,768 it takes a minute and 6 GiB each time."""


def main() -> None:
    """Measure and print."""
    rows = []
    for length in ROWS:
        unmasked = _measured("no mask", length, length)
        dense = _measured("dense mask", length, length // 8) if length <= DENSE_AT_MOST else None
        for document in [each for each in DOCUMENTS if each < length] + [length]:
            ours = _measured("by document", length, document)
            ratios = [ours[0] / other[0] if other else "" for other in (dense, unmasked)]
            memory = [other[1] if other else "" for other in (ours, dense, unmasked)]
            rows.append((length, document, ours[0], *ratios, *memory))
    head = ("row", "documents of", "ms", "of the dense mask's", "of no mask's", "MiB", "dense mask's", "no mask's")
    keep("masking", "Attention within documents, forward and backward, one thread", head, rows)


def _measured(way: str, length: int, document: int) -> tuple[float, float]:
    """Milliseconds of processor, the median, and MiB."""
    command = [sys.executable, __file__, way, str(length), str(document)]
    milliseconds, mebibytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return milliseconds, mebibytes


def _measure(way: str, length: int, document: int) -> None:
    import torch

    from smolrecipe_docmask.documentwise import DocumentwiseAttention
    from smolrecipe_torchtitan.decoder import CausalAttention

    positions = (torch.arange(length) % document)[None]
    if way == "no mask":
        attention, prepare = CausalAttention.Config().build(), lambda positions: None
    else:
        attention = DocumentwiseAttention.Config().build()
        prepare = DocumentwiseAttention.document_lengths if way == "by document" else DocumentwiseAttention.build_mask
    inputs = [torch.randn(1, length, heads, HEAD_DIM).requires_grad_() for heads in (HEADS, KV_HEADS, KV_HEADS)]

    def step() -> float:
        start = time.process_time()
        out = attention(*inputs, attention_masks=prepare(positions), enable_gqa=True)
        out.sum().backward()
        return 1e3 * (time.process_time() - start)

    before = memory_from_now_on()
    step()
    memory = peak_memory() - before
    print(json.dumps((median(step() for _ in range(3)), memory)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main()
