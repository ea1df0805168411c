"""Where the rows of each source come from: two sources that share a name may read the same rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from smolrecipe_data.source_options import ArithmeticOptions, FilesOptions, HfDatasetOptions

_SLICE = re.compile(r"\[.*?\]")


def of_hf_dataset(options: HfDatasetOptions) -> Iterator[str]:
    """The data set, its configuration and each split, whichever slice of it; files count apart."""
    part = " ".join(filter(None, (options.config or "", options.data_dir or "", *sorted(options.data_files))))
    for split in _SLICE.sub("", options.split).split("+"):
        yield f"{options.id} {part} {split}"


def of_files(options: FilesOptions) -> Iterator[str]:
    """Each file or glob."""
    for path in options.paths:
        yield str(path)


def of_arithmetic(options: ArithmeticOptions) -> Iterator[str]:
    """The split of the sums, in whatever style: it is the same in every language and order."""
    yield options.split
