"""What a recipe may name as a path: nothing that no file system takes, and nothing that never ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smolrecipe.recipe.paths import located


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\0b", "holds U+0000"),
        ("x" * 256, "names a file of 256 characters"),
        ("a/" * 2100, "is a path of"),
        ("~nobody-of-that-name/x", "names the home of ~nobody-of-that-name"),
        ("/proc/kmsg", "lies in /proc"),
        ("/dev/../proc/self/mem", "lies in /proc"),
        ("link/kernel", "lies in /sys"),
    ],
)
def test_what_is_no_place_for_data_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/sys")
    with pytest.raises(ValueError, match=re.escape(said)):
        located(text, tmp_path)


def test_other_paths_start_from_the_file_that_names_them(tmp_path: Path) -> None:
    assert located("../x", tmp_path) == tmp_path / "../x"
    assert located("/dev/shm/x", tmp_path) == Path("/dev/shm/x")
    assert located("/processed", tmp_path) == Path("/processed")
