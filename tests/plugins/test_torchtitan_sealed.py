"""The format of checkpoints: what comes back is what was written, every damage is found, and nothing in it is run."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from attrs import evolve
from titan_chaos import ONE, TWO, Happening, Seen
from titan_toys import make_model, make_options

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_torchtitan.sealed import (
    SEAL,
    Contents,
    DamagedCheckpointError,
    SavedFile,
    SavedTensor,
    damage_of,
    read_contents,
    read_tensors,
    to_seal,
)
from smolrecipe_torchtitan.sealed_storage import PlainLoadPlanner, PlainSavePlanner, SealedReader, SealedWriter
from smolrecipe_torchtitan.start import check_optimizer, check_weights, find_start

if TYPE_CHECKING:
    from titan_trainings import Trainings

pytest_plugins = ["titan_trainings"]
"""Where the fixtures come from; one server for all modules."""

STATE: dict[str, Any] = {
    "weights": torch.arange(12.0).reshape(3, 4).to(torch.bfloat16),
    "count": torch.tensor(7.5),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
    "train_state": {"step": 3, "seen": 10**15},
    "optimizer": {
        "betas": (0.9, 0.95),
        "lr": 0.1 + 0.2,
        "foreach": None,
        "fused": True,
        "name": "ädam",
        "steps": [1, 2],
    },
    "large": float("inf"),
    "more": [torch.ones(2), 5],
}


def save(folder: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, storage_writer=SealedWriter(folder), planner=PlainSavePlanner(), no_dist=True)
    return folder


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-3", STATE)
    assert damage_of(folder) is None
    blank: dict[str, Any] = {
        **{name: torch.zeros_like(value) for name, value in STATE.items() if isinstance(value, torch.Tensor)},
        "train_state": {"step": 0, "seen": 0},
        "optimizer": dict.fromkeys(STATE["optimizer"]),
        "large": 0.0,
        "more": [torch.zeros(2), 0],
    }
    dcp.load(blank, storage_reader=SealedReader(folder), planner=PlainLoadPlanner(), no_dist=True)
    for name in ("weights", "count", "empty", "flags"):
        assert blank[name].dtype == STATE[name].dtype and torch.equal(blank[name], STATE[name])
        assert torch.equal(read_tensors(folder, [name])[name], STATE[name])
    for name in ("train_state", "optimizer", "large"):
        assert blank[name] == STATE[name]
    assert type(blank["optimizer"]["betas"]) is tuple
    assert torch.equal(blank["more"][0], torch.ones(2)) and blank["more"][1] == 5


def test_other_libraries_read_the_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    held = load_file(save(tmp_path / "step-3", STATE) / "process-0.safetensors")
    assert torch.equal(held["weights@0,0"], STATE["weights"])


def test_what_only_a_pickle_could_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(dcp.CheckpointException) as refused:
        save(tmp_path / "step-1", {"optimizer": {"hook": Path("x")}})
    ((cause, _),) = refused.value.failures.values()
    assert isinstance(cause, StageError)
    assert "'optimizer.hook' is a PosixPath, which no checkpoint can hold" in str(cause)
    assert damage_of(tmp_path / "step-1") == f"'{SEAL}' is missing"


def test_two_processes_save_a_part_each(trainings: Trainings, whole_two: list[Seen]) -> None:
    folder = trainings.folder / "whole-two" / "checkpoints" / "step-8"
    tensors = read_contents(folder).tensors
    files = {chunk.file for chunk in tensors["tok_embeddings.weight"].chunks}
    assert files == {"process-0.safetensors", "process-1.safetensors"}
    assert [damage_of(folder, share, 2) for share in range(2)] == [None, None]
    assert read_tensors(folder, ["tok_embeddings.weight"])["tok_embeddings.weight"].shape == (64, 32)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(trainings: Trainings, whole_two: list[Seen], tmp_path: Path) -> Path:
    """A copy of a checkpoint of two processes."""
    return Path(shutil.copytree(trainings.folder / "whole-two" / "checkpoints" / "step-8", tmp_path / "step-8"))


def test_any_byte_of_any_file(checkpoint: Path) -> None:
    chance = random.Random(0)
    assert damage_of(checkpoint) is None
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        places = {0, 7, 8, 9, len(content) - 1, *(chance.randrange(len(content)) for _ in range(60))}
        for place in places:
            changed = bytearray(content)
            changed[place] = chance.choice([byte for byte in range(256) if byte != changed[place]])
            path.write_bytes(changed)
            assert f"'{path.name}'" in str(damage_of(checkpoint)), (path.name, place)
        path.write_bytes(content)
    assert damage_of(checkpoint) is None


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "lost": lambda path: path.unlink(),
    "another's": lambda path: path.write_bytes(path.with_name("process-1.safetensors").read_bytes()),
    "one more": lambda path: path.with_name(f"{path.name}.orig").write_bytes(path.read_bytes()),
}


@pytest.mark.parametrize("file", ["process-0.safetensors", SEAL])
@pytest.mark.parametrize("damage", DAMAGES)
def test_files_are_named(checkpoint: Path, file: str, damage: str) -> None:
    DAMAGES[damage](checkpoint / file)
    assert f"'{file}" in str(damage_of(checkpoint))


def test_a_checkpoint_under_the_name_of_another(checkpoint: Path) -> None:
    moved = checkpoint.rename(checkpoint.with_name("step-9"))
    assert damage_of(moved) == f"'{SEAL}' is of step 8"


def test_a_folder_in_the_place_of_a_file(checkpoint: Path) -> None:
    (checkpoint / "process-1.safetensors").unlink()
    (checkpoint / "process-1.safetensors").mkdir()
    assert damage_of(checkpoint) == "'process-1.safetensors' cannot be read: Is a directory"


# --- from strangers ---------------------------------------------------------------------------------------------------


class Malicious:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def reseal(folder: Path, change: Callable[[Contents], Contents]) -> None:
    (folder / SEAL).write_bytes(to_seal(change(read_contents(folder))))


def sealed_anew(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and seal the checkpoint with its checksum, as whoever made it could."""
    import hashlib

    (folder / name).write_bytes(content)
    file = SavedFile(max(len(content), 10**6), hashlib.sha256(content).hexdigest())
    reseal(folder, lambda contents: evolve(contents, files={**contents.files, name: file}))


def read_in_every_way(folder: Path) -> list[str]:
    """What is said by everything that reads checkpoints, in planning, proving and training."""
    said = [str(damage_of(folder))]
    options = make_options(from_=StageRef("first"), carry="everything")
    shapes = {"tok_embeddings.weight": (64, 32)}
    context = StageContext(recipe="", stage="", folder=folder, inputs={"first": folder.parent.parent})
    blank = {"tok_embeddings.weight": torch.zeros(64, 32), "train_state": {"step": 0}}
    ways: list[Callable[[], object]] = [
        lambda: find_start(options, context),
        lambda: check_weights(folder, shapes),
        lambda: check_optimizer(folder, {"state.tok_embeddings.weight.exp_avg": torch.zeros(64, 32)}),
        lambda: read_tensors(folder, ["tok_embeddings.weight"]),
        lambda: dcp.load(blank, storage_reader=SealedReader(folder), planner=PlainLoadPlanner(), no_dist=True),
    ]
    for way in ways:
        try:
            way()
        except (StageError, dcp.CheckpointException) as error:
            said.append(str(error))
    return said


@pytest.fixture
def published(checkpoint: Path, tmp_path: Path) -> Path:
    (tmp_path / "stranger" / "checkpoints").mkdir(parents=True)
    return checkpoint.rename(tmp_path / "stranger" / "checkpoints" / "step-8")


def test_a_pickle_in_a_checkpoint_is_never_loaded(published: Path, tmp_path: Path) -> None:
    """In the place of DCP's own metadata, of tensors (which torch.load would read) and of values; seals match."""
    mark = tmp_path / "executed"
    evil = pickle.dumps(Malicious(mark))
    pickle.loads(evil)
    assert mark.exists()  # it would work
    mark.unlink()

    (published / ".metadata").write_bytes(evil)
    assert "'.metadata' was not written with it" in read_in_every_way(published)[0]
    (published / ".metadata").unlink()
    torch.save(Malicious(mark), tmp_path / "evil.pt")
    for content in (evil, (tmp_path / "evil.pt").read_bytes()):
        sealed_anew(published, "process-0.safetensors", content)
        assert any("'process-0.safetensors' is not what was written" in said for said in read_in_every_way(published))
    reseal(published, lambda contents: evolve(contents, values={**contents.values, "train_state.step": evil.hex()}))
    read_in_every_way(published)
    (published / SEAL).write_bytes(evil)
    assert all(f"'{SEAL}' is not what was written" in said for said in read_in_every_way(published))
    assert not mark.exists()


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from smolrecipe_torchtitan import sealed

        content = json.loads((folder / SEAL).read_bytes())["content"]
        edit(content)
        (folder / SEAL).write_bytes(sealed._seal(content))

    return change


WEIGHT = "tok_embeddings.weight"


@pytest.mark.parametrize(
    "change",
    [
        edited(lambda content: content["files"].update({"../../secret": [1, "0"]})),
        edited(lambda content: content["files"].update({"/etc/passwd": [1, "0"]})),
        edited(lambda content: content["tensors"][WEIGHT]["chunks"][0].__setitem__(2, "../../../secret")),
        edited(lambda content: content["tensors"][WEIGHT].update(shape=[2**40, 2**20])),
        edited(lambda content: content["tensors"][WEIGHT].update(shape=[64, -32])),
        edited(lambda content: content["tensors"][WEIGHT].update(shape=[64.0, 32])),
        edited(lambda content: content["tensors"][WEIGHT].update(dtype="object")),
        edited(lambda content: content["tensors"][WEIGHT].update(chunks=[])),
        edited(lambda content: content["tensors"][WEIGHT]["chunks"][0].__setitem__(0, [63, 0])),
        edited(lambda content: content["tensors"].update({"huge": {"dtype": "F32", "shape": [2**60], "chunks": []}})),
        edited(lambda content: content.update(files=[])),
        edited(lambda content: content.update(tensors=None)),
        edited(lambda content: content["values"].update(x={"call": "os.system"})),
        edited(lambda content: content.pop("values")),
        lambda folder: (folder / SEAL).write_bytes(b"[" * 10**6),
        lambda folder: (folder / SEAL).write_bytes(b'{"content": {}}'),
        lambda folder: (folder / SEAL).write_bytes(b"\xff\xfe"),
    ],
)
def test_a_seal_that_lies_is_refused_in_a_sentence(published: Path, change: Callable[[Path], None]) -> None:
    change(published)
    for said in read_in_every_way(published):
        assert f"'{SEAL}' is not what was written" in said


def test_a_seal_that_claims_more_than_its_files_hold(published: Path) -> None:
    """No memory is reserved for tensors that are only claimed."""

    def claim(contents: Contents) -> Contents:
        tensor = contents.tensors[WEIGHT]
        large = (2**30, *tensor.shape[1:])
        chunk = evolve(tensor.chunks[0], shape=large, offsets=(0, 0))
        return evolve(contents, tensors={**contents.tensors, WEIGHT: SavedTensor(tensor.dtype, large, (chunk,))})

    reseal(published, claim)
    with pytest.raises(DamagedCheckpointError, match=r"process-\d.safetensors is too small for its tensors"):
        read_tensors(published, [WEIGHT])


def test_an_honest_resume_loads_no_global_from_a_file(trainings: Trainings, whole: Seen, whole_two: list[Seen]) -> None:
    """``pickle.find_class`` is heard of from what a stage's own processes send each other, and from nothing else."""
    for name, asked in (("honest", ONE), ("honest-two", TWO)):
        trainings.train(name, Happening(what="SIGKILL", step=5), **asked)
        for seen in trainings.train(name, watch_pickles=True, **asked):
            assert seen.outcome == "done"
            assert seen.pickles and all(line.endswith(" process") for line in seen.pickles), seen.pickles
    (seen,) = trainings.train("dishonest", Happening(what="unpickle", step=2), watch_pickles=True, **ONE)
    assert "titan_chaos.Happening file" in [line.replace("__main__", "titan_chaos") for line in seen.pickles]


def test_another_stages_model_is_not_what_this_one_wants(trainings: Trainings, whole: Seen) -> None:
    folder = trainings.folder / "whole" / "checkpoints" / "step-8"
    with pytest.raises(StageError, match=r"of shape 64 x 32 instead of 64 x 33"):
        check_weights(folder, {WEIGHT: (64, 33)})
    with pytest.raises(StageError, match=r"has no state.tok_embeddings.weight.exp_avg"):
        check_optimizer(folder, {f"state.{WEIGHT}.exp_avg": torch.zeros(64, 33)})
    assert make_model() is not None
