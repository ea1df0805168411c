"""Token files for the tests of how they are read: every token tells where it was."""

import random
import struct

import numpy as np


def write_tokens(folder, lengths, first=0, files=1, size=4):
    """Token files as datatrove writes them, but with the tokens first, first + 1, ...: each tells where it was."""
    folder.mkdir(parents=True)
    token = first
    for number, part in enumerate(np.array_split(np.array(lengths), files)):
        count = int(part.sum())
        path = folder / f"{number:05d}_00000_doc_shuffled.ds"
        path.write_bytes(struct.pack(f"<{count}{'I' if size == 4 else 'H'}", *range(token, token + count)))
        (folder / f"{path.name}.index").write_bytes(struct.pack(f"<{len(part)}Q", *np.cumsum(part).tolist()))
        (folder / f"{path.name}.metadata").write_text(f"some|name|{size}\n{count}\n{count} T")
        token += count
    return folder


def document_lengths(documents, seed=0, longest=40):
    return [random.Random(f"{seed} {number}").randint(1, longest) for number in range(documents)]


def firsts(lengths, first=0):
    """The tokens that start a document."""
    return {first, *(first + int(end) for end in np.cumsum(lengths)[:-1])}


def naive_positions(tokens, starts):
    """Count up, from 0 at the row's start and at each token that starts a document."""
    positions = []
    for index, token in enumerate(tokens):
        positions.append(0 if index == 0 or token in starts else positions[-1] + 1)
    return positions
