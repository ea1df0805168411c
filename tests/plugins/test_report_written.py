"""The report's folder: files of earlier reports are replaced and removed, everybody else's stay what they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from smolrecipe import UserError
from smolrecipe_report import written
from smolrecipe_report.written import LIST_FILE, put


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def report(out: Path, **files: str) -> None:
    """Put a report of PNG files there that have these contents."""
    made = out.with_name("made")
    made.mkdir(exist_ok=True)
    for file in made.iterdir():
        file.unlink()
    for name, content in files.items():
        (made / f"{name}.png").write_text(content)
    put(made, out)


def contents(out: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in out.iterdir() if file.name != LIST_FILE}


def test_what_only_an_earlier_report_wrote_is_removed(out: Path) -> None:
    (out / "notes.png").write_text("mine")
    report(out, loss="1", mfu="1")
    report(out, loss="2")
    assert contents(out) == {"loss": "2", "notes": "mine"}


def test_what_was_changed_since_is_left_alone(out: Path) -> None:
    report(out, loss="1", mfu="1")
    (out / "mfu.png").write_text("drawn over")
    report(out, loss="2")
    report(out, loss="3")
    assert contents(out) == {"loss": "3", "mfu": "drawn over"}
    with pytest.raises(UserError, match=r"mfu\.png is not what a report has written there, and would be lost"):
        report(out, loss="4", mfu="4")
    assert contents(out) == {"loss": "3", "mfu": "drawn over"}


def test_what_was_deleted_since_is_written_again(out: Path) -> None:
    report(out, loss="1", mfu="1")
    for name in ("loss.png", "mfu.png"):
        (out / name).unlink()
    report(out, loss="1")
    assert contents(out) == {"loss": "1"}


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_no_report_has_written_is_in_the_way(out: Path, kind: str) -> None:
    if kind == "file":
        (out / "loss.png").write_text("mine")
    elif kind == "folder":
        (out / "loss.png").mkdir()
    else:
        (out / "loss.png").symlink_to(out / "nowhere")
    with pytest.raises(UserError, match=r"loss\.png is not what a report"):
        report(out, loss="1")
    assert [file.name for file in out.iterdir()] == ["loss.png"]


@pytest.mark.parametrize("content", ["mine", "[]", '{"files": 3}', "{}"])
def test_a_list_that_is_none_is_in_the_way(out: Path, content: str) -> None:
    (out / LIST_FILE).write_text(content)
    with pytest.raises(UserError, match=f"{LIST_FILE} is not what a report"):
        report(out, loss="1")


def test_a_list_reaches_nothing_but_pages_and_figures_in_its_folder(out: Path) -> None:
    (out.parent / "other.png").write_text("mine")
    (out / "notes.txt").write_text("mine")
    names = ("../other.png", "notes.txt", str(out.parent / "other.png"), "", ".", "x" * 200 + ".png")
    sums = [hashlib.sha256(b"mine").hexdigest()]
    (out / LIST_FILE).write_text(json.dumps({"files": {**dict.fromkeys(names, sums), "odd.png": 3}}))
    report(out, loss="1")
    assert (out.parent / "other.png").exists() and contents(out) == {"loss": "1", "notes": "mine"}


def test_killed_at_any_write_the_next_report_knows_its_files(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(out, loss="1", mfu="1", rates="1")
    (out / "notes.png").write_text("mine")
    honest = {name: getattr(written, name) for name in ("write_whole", "write_json")}
    for at in range(4):
        left = at

        def killed(path: Path, content: object, write: str) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            honest[write](path, content)

        for name in honest:
            monkeypatch.setattr(written, name, lambda path, content, name=name: killed(path, content, name))
        with pytest.raises(KeyboardInterrupt):
            report(out, loss="2", more=str(at))
        for name, write in honest.items():
            monkeypatch.setattr(written, name, write)
    report(out, loss="3")
    assert contents(out) == {"loss": "3", "notes": "mine"}
