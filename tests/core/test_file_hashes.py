"""Hashes of files: made once, remembered for large ones, and made anew as soon as a file may be another."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolrecipe import file_hashes
from smolrecipe.file_hashes import MEMORY_FOLDER, file_hash, remember_in


@pytest.fixture(autouse=True)
def another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process with nothing hashed yet, for which a few bytes are a large file that has settled at once."""
    monkeypatch.setattr(file_hashes, "_memory", None)
    monkeypatch.setattr(file_hashes, "_LARGE", 4)
    monkeypatch.setattr(file_hashes, "_SETTLED", 0.0)
    remember_in(tmp_path / "runs")
    file_hashes._hash.cache_clear()
    yield
    file_hashes._hash.cache_clear()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    read = file_hashes._read

    def counted(file: Path) -> str:
        names.append(file.name)
        return read(file)

    monkeypatch.setattr(file_hashes, "_read", counted)
    return names


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    time.sleep(0.01)  # a later clock reading than the file's time of change
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_large_file_is_read_once_for_all_processes(tmp_path: Path, reads: list[str]) -> None:
    file = write(tmp_path / "a", b"large")
    assert file_hash(file) == file_hash(file) == sha256(b"large")
    file_hashes._hash.cache_clear()
    assert file_hash(file) == sha256(b"large")
    assert reads == ["a"]


def test_a_small_or_empty_file_is_not_remembered(tmp_path: Path) -> None:
    assert file_hash(write(tmp_path / "a", b"tea")) == sha256(b"tea")
    assert file_hash(write(tmp_path / "b", b"")) == sha256(b"")
    assert not (tmp_path / "runs").exists()


def test_other_content_of_the_same_size_and_time_is_read(tmp_path: Path, reads: list[str]) -> None:
    file = write(tmp_path / "a", b"large")
    before = file.stat()
    file_hash(file)
    write(file, b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_hash(file) == sha256(b"other")
    file_hashes._hash.cache_clear()
    assert file_hash(file) == sha256(b"other")
    assert reads == ["a", "a"]


def test_another_file_in_its_place_is_read(tmp_path: Path) -> None:
    file, other = write(tmp_path / "a", b"large"), write(tmp_path / "b", b"other")
    file_hash(file)
    other.replace(file)
    assert file_hash(file) == sha256(b"other")


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED", 60.0)
    assert file_hash(write(tmp_path / "a", b"large")) == sha256(b"large")
    assert not (tmp_path / "runs").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a", b"large")
    read = file_hashes._read

    def disturbed(path: Path) -> str:
        digest = read(path)
        write(path, b"later")
        return digest

    monkeypatch.setattr(file_hashes, "_read", disturbed)
    file_hash(file)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", [b"", b"0" * 63, b"\xff" * 64, b"0" * 64 + b"\n"])
def test_a_damaged_memory_is_no_hash(tmp_path: Path, damage: bytes) -> None:
    file = write(tmp_path / "a", b"large")
    file_hash(file)
    (remembered,) = (tmp_path / "runs" / MEMORY_FOLDER).iterdir()
    remembered.write_bytes(damage)
    file_hashes._hash.cache_clear()
    assert file_hash(file) == sha256(b"large")
    assert remembered.read_text() == sha256(b"large")


def test_a_store_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    assert file_hash(write(tmp_path / "a", b"large")) == sha256(b"large")


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_hash(tmp_path / "none")
