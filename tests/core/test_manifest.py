"""The manifest of an artifact: what is published with it, and what is made of one that a stranger has written."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.errors import StageError
from smolrecipe.running.manifest import damages, make_manifest, manifest_text, read_manifest
from smolrecipe.verifying.integrity import files_as_published

NOTHING = {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "bytes": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "one-0123456789ab"
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "model" / "manifest.json").write_text("a file of its own")
    (folder / "model" / "deep" / "größe.txt").write_bytes(b"\0" * 300_000)
    (folder / "model.txt").write_text("beside the folder, and sorted before what is in it by its text alone")
    (folder / "empty").touch()
    return folder


def publish(folder: Path) -> Path:
    (folder / "manifest.json").write_text(manifest_text(make_manifest(folder)), encoding="utf-8")
    return folder


def test_every_file_is_in_it_with_its_size_and_checksum(folder: Path) -> None:
    manifest = make_manifest(folder)
    assert list(manifest) == ["empty", "model/deep/größe.txt", "model/manifest.json", "model.txt"]
    assert manifest["empty"] == NOTHING and manifest["model/deep/größe.txt"]["bytes"] == 300_000
    assert damages(publish(folder)) == []
    proof = files_as_published(folder)
    assert proof.holds and proof.measured == "0 of 4 files differ"


def test_what_counts_as_damage_and_what_does_not(folder: Path) -> None:
    publish(folder)
    (folder / "empty-folder").mkdir()
    (folder / "model.txt").chmod(0o600)
    os.utime(folder / "model.txt", (0, 0))
    assert damages(folder) == []
    (folder / "model" / "manifest.json").write_text("another of its own")
    (folder / "model" / "deep" / "größe.txt").write_bytes(b"\0" * 299_999 + b"\1")
    (folder / "empty").unlink()
    (folder / "a\x1b[2Jb").touch()
    assert damages(folder) == [
        "'a\\x1b[2Jb' was added",
        "empty is missing",
        "model/deep/größe.txt was changed",
        "model/manifest.json was changed (it has 18 bytes, not 17)",
    ]
    assert damages(folder, sizes_only=True) == [
        text for text in damages(folder) if not text.endswith("txt was changed")
    ]


def replace_by_link(folder: Path, outside: Path) -> None:
    (folder / "model.txt").unlink()
    (folder / "model.txt").symlink_to(outside / "model.txt")


def replace_by_folder_link(folder: Path, outside: Path) -> None:
    (folder / "model").rename(outside / "model")
    (folder / "model").symlink_to(outside / "model")


def replace_by_pipe(folder: Path, outside: Path) -> None:
    (folder / "empty").unlink()
    os.mkfifo(folder / "empty")


def add_socket(folder: Path, outside: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path is short
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (replace_by_link, ["model.txt is a link"]),
        (
            replace_by_folder_link,
            ["model is a link", "model/deep/größe.txt is missing", "model/manifest.json is missing"],
        ),
        (replace_by_pipe, ["empty is no regular file"]),
        (add_socket, ["socket is no regular file"]),
    ],
)
def test_links_and_pipes_are_damage_through_which_nothing_is_read(
    folder: Path, tmp_path: Path, damage: Callable[[Path, Path], None], said: list[str]
) -> None:
    """What is linked to has the right content: it is not looked at. A pipe is not waited for."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.txt").write_bytes((folder / "model.txt").read_bytes())
    publish(folder)
    damage(folder, outside)
    assert damages(folder) == said
    (folder / "manifest.json").unlink()
    with pytest.raises(StageError, match=rf"{said[0].partition(' ')[2]}: an artifact consists of regular files"):
        make_manifest(folder)


def test_a_manifest_that_is_itself_a_link_or_a_pipe(folder: Path, tmp_path: Path) -> None:
    publish(folder)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert files_as_published(folder).note == "manifest.json is no regular file"


def test_names_that_are_no_text_are_not_published(folder: Path) -> None:
    publish(folder)
    (folder / os.fsdecode(b"\xff.bin")).touch()
    assert damages(folder) == ["'\\udcff.bin' was added"]
    with pytest.raises(StageError, match=r"'\\udcff\.bin' has a name that is no UTF-8 text"):
        make_manifest(folder)


ENTRY = json.dumps(NOTHING)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a name that leads out": (b'{"../secret": %s}', "'../secret' is no file of an artifact"),
    "a name that leads out from within": (b'{"model/../../secret": %s}', "is no file of an artifact"),
    "an absolute name": (b'{"/etc/passwd": %s}', "'/etc/passwd' is no file of an artifact"),
    "the folder itself": (b'{".": %s}', "'.' is no file of an artifact"),
    "no name": (b'{"": %s}', "'' is no file of an artifact"),
    "itself": (b'{"manifest.json": %s}', "'manifest.json' is no file of an artifact"),
    "a name with a zero": (b'{"a\\u0000b": %s}', "is no file of an artifact"),
    "half a character": (b'{"\\ud800": %s}', "is no file of an artifact"),
    "a name that clears the screen": (b'{"\\u001b[2J/..": %s}', "\\x1b[2J/.."),
    "a list": (b"[]", "manifest.json holds no mapping"),
    "null": (b"null", "manifest.json holds no mapping"),
    "a text for an entry": (b'{"a": "b"}', "what it says of a is no checksum with a size"),
    "a number for a checksum": (b'{"a": {"sha256": 5, "bytes": 0}}', "is no checksum with a size"),
    "a short checksum": (b'{"a": {"sha256": "ab", "bytes": 0}}', "is no checksum with a size"),
    "a text for a size": (ENTRY.replace("0}", '"0"}').join(('{"a": ', "}")).encode(), "is no checksum with a size"),
    "a size below zero": (ENTRY.replace("0}", "-1}").join(('{"a": ', "}")).encode(), "is no checksum with a size"),
    "a truth for a size": (ENTRY.replace("0}", "true}").join(('{"a": ', "}")).encode(), "is no checksum with a size"),
    "a size that is no number": (ENTRY.replace("0}", "NaN}").join(('{"a": ', "}")).encode(), "no checksum with a size"),
    "a size without end": (ENTRY.replace("0}", "1e999}").join(('{"a": ', "}")).encode(), "is no checksum with a size"),
    "a size of 20 digits": (
        ENTRY.replace("0}", f"{10**20}}}").join(('{"a": ', "}")).encode(),
        "no checksum with a size",
    ),
    "a size of 10,000 digits": (ENTRY.replace("0}", "1" * 10**4 + "}").join(('{"a": ', "}")).encode(), "is no JSON"),
    "a key too many": (b'{"a": {"sha256": "x", "bytes": 0, "more": 1}}', "is no checksum with a size"),
    "one file twice": (b'{"a": %s, "a": %s}', "the key a is there twice"),
    "brackets to no end": (b"[" * 200_000, "manifest.json is nested too deeply"),
    "mappings to no end": (b'{"a":' * 200_000, "manifest.json is nested too deeply"),
    "no UTF-8": (b'{"\xff": 1}', "manifest.json is not UTF-8 text (byte 2)"),
    "nothing": (b"", "manifest.json is no JSON (line 1, column 1"),
    "zeros, as a crash leaves them": (b"\0" * 4096, "manifest.json is no JSON (line 1, column 1"),
    "a mark of byte order": (b"\xef\xbb\xbf{}", "manifest.json is no JSON"),
    "another order of keys": (b'{\n  "a": {\n    "bytes": 0,\n    "sha256": "%s"\n  }\n}\n', "in another way"),
    "a space at the end": (b"{} \n", "in another way than publishing does"),
    "no line's end": (b"{}", "in another way than publishing does"),
    "letters as numbers": (b'{"\\u0061": %s}', "in another way than publishing does"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_a_claim_that_fails_with_its_reason(folder: Path, tmp_path: Path, case: str) -> None:
    content, said = HOSTILE[case]
    if b"%s" in content:
        part = NOTHING["sha256"].encode() if b'"sha256"' in content else ENTRY.encode()
        content = content.replace(b"%s", part)
    (tmp_path / "secret").touch()
    (folder / "manifest.json").write_bytes(content)
    proof = files_as_published(folder)
    assert not proof.holds and said in proof.note and proof.note.startswith("manifest.json")
    assert proof.note.isprintable() and len(proof.note) < 400


def test_nothing_outside_is_read_whatever_the_manifest_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are found by looking into the folder, never by the names that the manifest has."""
    (tmp_path / "secret").write_text("keys")
    (folder / "manifest.json").write_text(manifest_text({"../secret": NOTHING, "a": NOTHING}))
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *more, **named: opened.append(str(path)) or real(path, *more, **named))
    assert not files_as_published(folder).holds
    assert opened and all(Path(path).is_relative_to(folder) for path in opened)


def test_a_file_that_is_still_written_to_is_read_again_until_it_is_quiet(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log whose writer is a little late is published as it ends; one that never ends is refused."""
    from smolrecipe.running import manifest as module

    log = folder / "log.txt"
    log.write_text("first\n")
    real, late = module._read_durably, threading.Event()

    def read(path: Path) -> object:
        found = real(path)
        if path == log and not late.is_set():
            late.set()
            with log.open("a") as file:
                file.write("last\n")
        return found

    monkeypatch.setattr(module, "_read_durably", read)
    publish(folder)
    assert late.is_set() and damages(folder) == [] and read_manifest(folder)["log.txt"].size == 11

    def never_quiet(path: Path) -> object:
        found = real(path)
        with log.open("a") as file:
            file.write("more\n")
        return found

    monkeypatch.setattr(module, "_read_durably", never_quiet)
    with pytest.raises(StageError, match=r"log\.txt is still being written, though the stage is done"):
        make_manifest(folder)
