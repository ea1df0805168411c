"""What strangers may have written: checkpoints, model folders, templates. Nothing of it runs, and it is said."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trl_toys
from trl_rows import byte_tokenizer, chat, make_rows, rows_of
from trl_rows import sft_options as row_options
from trl_toys import (
    context,
    equal,
    run,
    sft_options,
    stopped_after,
    write_base,
)

from smolrecipe import StageError
from smolrecipe_trl import run_sft, template_reading
from smolrecipe_trl.checkpoints import last_sealed_step
from smolrecipe_trl.engine import load_model, load_tokenizer
from smolrecipe_trl.seals import damage, seal

pytest_plugins = ["trl_fixtures"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def interrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted") / "stage"
    stopped_after(4, sft_options(), folder, base)
    return folder


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self._mark,))


def plant(path: Path, mark: Path) -> None:
    """Put the bomb where the checkpoint has, or might have, a file, as torch saves it and as a bare pickle."""
    if path.name.endswith(".bare"):
        path.with_suffix("").write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(Bomb(mark), path)


PLANTED = [
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "training_args.bin", "pytorch_model.bin"),
    *("optimizer.pt.bare", "rng_state.pth.bare", "training_args.bin.bare", "model.safetensors.bare"),
]


def test_the_bomb_goes_off_where_pickles_are_loaded(tmp_path: Path) -> None:
    """So the tests below can fail."""
    plant(tmp_path / "x.pt", tmp_path / "mark")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", PLANTED)
def test_nothing_planted_in_a_checkpoint_runs(name: str, interrupted: Path, base: Path, tmp_path: Path) -> None:
    """With seals that are right: a folder of a run that was interrupted may be a stranger's."""
    folder, mark = Path(shutil.copytree(interrupted, tmp_path / "stage")), tmp_path / "mark"
    for checkpoint in (folder / "trainer").glob("checkpoint-*"):
        plant(checkpoint / name, mark)
        if name == "pytorch_model.bin":
            (checkpoint / "model.safetensors").unlink()
        seal(checkpoint)
    if name.startswith("training_args.bin"):  # which nobody reads
        assert equal(run(sft_options(), folder, base).weights(), whole(base).weights())
    else:
        reason = r"checkpoint-4 holds something else than tensors and numbers, which is not loaded \(.*delete that f"
        # A scaler, which no precision here has, has nothing to be loaded into.
        with pytest.raises((StageError, AttributeError), match=f"{reason}|^'NoneType' object has no"):
            run(sft_options(), folder, base)
    assert not mark.exists()


def whole(base: Path) -> trl_toys.Run:
    return trl_toys.once("sft", lambda: run(sft_options(), base.parent / "whole", base))


def test_nothing_planted_among_prepared_rows_runs(interrupted: Path, base: Path, tmp_path: Path) -> None:
    folder, mark = Path(shutil.copytree(interrupted, tmp_path / "stage")), tmp_path / "mark"
    for name in ("train.arrow", "counts.json"):
        (folder / "rows" / name).write_bytes(pickle.dumps(Bomb(mark)))
    seal(folder / "rows")
    with pytest.raises((StageError, ValueError)):
        run(sft_options(), folder, base)
    assert not mark.exists()


# Models


def test_a_models_own_code_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "base" / "model"
    write_base(folder)
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: ...\n")
    for name, keys in (
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "auto_map": keys, "model_type": "own"}))
    with pytest.raises(StageError, match=f"{folder} cannot be loaded"):
        run(sft_options(), tmp_path / "stage", tmp_path / "base")
    assert not mark.exists()


def test_weights_that_are_a_pickle_are_not_loaded(tmp_path: Path) -> None:
    folder, mark = tmp_path / "base" / "model", tmp_path / "mark"
    write_base(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(mark), folder / "pytorch_model.bin")
    with pytest.raises(StageError, match=r"cannot be loaded .*safetensors"):
        load_model(folder, sft_options(), load_tokenizer(folder, sft_options()))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\x00" * 64, b'{"model": 3}'])
def test_a_model_folder_that_is_none_is_named(name: str, content: bytes, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base / "model", tmp_path / "base" / "model"))
    (folder / name).write_bytes(content)
    with pytest.raises(StageError, match=str(folder)):
        load_model(folder, sft_options(), load_tokenizer(folder, sft_options()))


# Templates

ALL_OF_IT = "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% if %}", "the chat template has a mistake in line 1"),
        ("\n{{ x | nofilter }}", "the chat template has a mistake in line 2: No filter named 'nofilter'"),
        (f"{ALL_OF_IT}{{% generation %}}{{{{ 1 }}}}", "the chat template has a mistake in line 1"),
        (
            f"{ALL_OF_IT}{{% for a in range(99999) %}}{{% for b in range(99999) %}}x{{% endfor %}}{{% endfor %}}",
            "ENDLESS",
        ),
        (f"{ALL_OF_IT}{{{{ '%1000000000s' % 'x' }}}}", "the chat template cannot be read within 1 seconds"),
        (f"{ALL_OF_IT}{{% for i in range(10**9) %}}x{{% endfor %}}", "row 0 of source 'chats' makes the .*OverflowErr"),
        (f"{ALL_OF_IT}{{% macro m() %}}{{{{ m() }}}}{{% endmacro %}}{{{{ m() }}}}", "row 0 of .* RecursionError"),
        (f"{ALL_OF_IT}{{{{ messages[0].content * 10**13 }}}}", "row 0 of source 'chats' .* MemoryError"),
        (f"{ALL_OF_IT}{{{{ 1 // 0 }}}}", "row 0 of source 'chats' makes the chat template fail: ZeroDivisionError"),
        (f"{ALL_OF_IT}{{{{ cycler.__init__.__globals__.os.system('touch MARK') }}}}", "row 0 of .* is unsafe"),
        (f"{ALL_OF_IT}{{{{ ''.__class__.__mro__ }}}}", "row 0 of source 'chats' is refused .* is unsafe"),
        (f"{ALL_OF_IT}{{% include '/etc/passwd' %}}", "row 0 of source 'chats' makes the chat template fail"),
        (f"{ALL_OF_IT}{{{{ raise_exception('\\x1b[2J' * 100000) }}}}", r"row 0 of source 'chats' .*\\x1b\[2J.*\.\.\."),
    ],
)
def test_a_strangers_template_ends_in_a_sentence(
    template: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if complaint == "ENDLESS" or "1 seconds" in complaint:  # the others end by themselves, on a busy machine later
        for name in ("READ_SECONDS", "RENDER_SECONDS"):
            monkeypatch.setattr(template_reading, name, 1.0)
    path = tmp_path / "own.jinja"
    path.write_text(template.replace("MARK", str(tmp_path / "mark")))
    if complaint == "ENDLESS":
        complaint = "^at least 1 row.*\n  row 0 of source 'chats' takes the chat template more than 1 seconds"
    with pytest.raises(StageError, match=complaint):
        make_rows(tmp_path, byte_tokenizer(), row_options(chat_template=path, data={"chats": rows_of(chat("1", "2"))}))
    assert not (tmp_path / "mark").exists() and not (tmp_path / "rows").exists()


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes, where this machine lets us have one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Leave so many bytes of a file system."""
    ballast = folder.parent / "ballast"
    free = shutil.disk_usage(folder).free
    ballast.write_bytes(b"x" * max(0, free - left))
    return ballast


@pytest.mark.parametrize("left", [0, 20_000, 350_000, 700_000])
def test_a_disk_that_is_full_leaves_the_checkpoint_before(left: int, small_disk: Path, base: Path) -> None:
    """Wherever in a checkpoint it is full: in the weights, the optimizer, or what seals them."""
    folder = small_disk / "stage"
    stopped_after(2, sft_options(), folder, base)
    ballast = fill(folder, left)
    with pytest.raises(Exception) as full:
        run(sft_options(), folder, base)
    said = [str(error) for error in chain(full.value)]
    words = ("No space left", "failed writing", "unexpected pos", "os error 28")
    assert any(word in one for one in said for word in words), said  # what the runner knows a full disk by
    assert last_sealed_step(folder / "trainer") >= 2
    assert damage(folder / "trainer" / f"checkpoint-{last_sealed_step(folder / 'trainer')}") is None
    ballast.unlink()
    assert equal(run(sft_options(), folder, base).weights(), whole(base).weights())


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_a_disk_that_is_full_while_rows_are_prepared_is_an_os_error(small_disk: Path, base: Path) -> None:
    folder = small_disk / "stage"
    folder.mkdir()
    ballast = fill(folder, 8_000)
    with pytest.raises(OSError) as full:
        run_sft(sft_options(), context(folder, base))
    assert full.value.errno == 28
    ballast.unlink()
    assert equal(run(sft_options(), folder, base).weights(), whole(base).weights())


def test_preparing_rows_of_a_source_that_vanished_says_which_and_where(base: Path, tmp_path: Path) -> None:
    def vanishing(start: int, end: int) -> Iterator[Any]:
        yield from trl_toys.sums(start, min(end, 5))
        if end > 5:
            Path(tmp_path / "gone.jsonl").read_text()

    options = sft_options(data={"sums": trl_toys.rows(vanishing, 0, 64)})
    with pytest.raises(StageError, match=r"source 'sums' cannot be read beyond its first 5 row.*gone.jsonl") as error:
        run(options, tmp_path / "stage", base)
    assert isinstance(error.value.__cause__, FileNotFoundError)
