"""What a whole run does not do: ask the network, write elsewhere, load pickles from what was published.

Python's audit events tell of it, from every process of a run as users start it. Compiled code has no such events: what
it writes is looked for where it would be found, and what it asks of the network is counted by the kernel.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alone import UNSHARE, can_be_alone
from chaos_runs import HERE
from chaos_stores import Event, read_record
from chaos_work import Watched

SOURCES = ("core", "plugins", "registry")
BETWEEN_PROCESSES = ("torch/distributed/distributed_c10d.py:_tensor_to_object", "multiprocessing/connection.py:recv")
"""What unpickles messages of processes to each other, by file and function."""

LOOPBACK = ("'127.0.0.1'", "'localhost'", "'::1'", "None")


def network(record: list[Event]) -> list[str]:
    """The targets of a run beyond this machine's loopback device. Sockets of the file system have none."""
    targets = [event["target"] for event in record if "target" in event]
    return [target for target in targets if not target.lstrip("(").startswith(LOOPBACK)]


def elsewhere(record: list[Event], allowed: tuple[Path, ...]) -> list[str]:
    """The paths that were changed outside of these folders."""
    paths = {event["path"] for event in record if "path" in event}
    return sorted(path for path in paths if not any(Path(path).is_relative_to(folder) for folder in allowed))


def unpickled(record: list[Event]) -> list[str]:
    """What pickles imported that did not come from another process of the same stage."""
    return [
        f"{event['class']} by {reader}, which may have read {event['last_read']}"
        for event in record
        for reader, *_ in event.get("stack", ())[:1]
        if not reader.endswith(BETWEEN_PROCESSES)
    ]


def test_a_run_asks_nothing_of_the_network(watched: Watched) -> None:
    assert network(watched.record) == []


def test_nothing_was_sent_that_found_no_way_out(watched: Watched) -> None:
    """By the count of the kernel, which knows of compiled code."""
    if watched.unsent is None:
        pytest.skip("this machine lets nobody have a network of their own (unshare --user --net)")
    assert watched.unsent == 0


def test_the_kernel_counts_what_finds_no_way_out(tmp_path: Path) -> None:
    if not can_be_alone():
        pytest.skip("this machine lets nobody have a network of their own (unshare --user --net)")
    ask = "import socket; socket.socket().connect_ex(('192.0.2.1', 9))"
    count = tmp_path / "count"
    command = [*UNSHARE, sys.executable, "-I", "-S", str(HERE / "alone.py"), str(count), sys.executable, "-c", ask]
    subprocess.run(command, check=True, timeout=60)
    assert int(count.read_text()) == 1


def test_a_run_writes_into_its_store_and_the_temporary_folder_alone(watched: Watched) -> None:
    """Python's own caches of compiled modules lie beside these; /dev/null keeps nothing."""
    allowed = (watched.folder / "runs", watched.folder / "tmp", watched.folder / "record", Path("/dev/null"))
    found = elsewhere(watched.record, allowed)
    assert [path for path in found if Path(path).parent.name != "__pycache__"] == []
    # What no event tells of would be found here: the home folder is the run's own, and so is the one it ran in.
    assert [*(watched.folder / "home").rglob("*")] == []
    assert {path.name for path in watched.folder.iterdir()} == {"runs", "tmp", "record", "home"}


def test_a_run_leaves_nothing_in_the_temporary_folder(watched: Watched) -> None:
    """But for the empty folder that torch's compiler makes for itself when it is imported."""
    left = {path.name for path in (watched.folder / "tmp").rglob("*")}
    assert {name for name in left if not name.startswith("torchinductor_")} == set()


def test_no_pickle_is_loaded_from_a_file(watched: Watched) -> None:
    assert unpickled(watched.record) == []


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    """A process that does all of it, and one that it starts."""
    (tmp_path / "record").mkdir()
    script = f"""
import collections, os, pickle, socket, subprocess, sys
os.chdir({str(tmp_path)!r})
open("written", "w").close()
os.replace("written", "moved")
folder = os.open(".", os.O_RDONLY)
os.mkdir("made", dir_fd=folder)
os.rmdir("made", dir_fd=folder)
with open("pickle", "wb") as file:
    pickle.dump(collections.OrderedDict(), file)
with open("pickle", "rb") as file:
    pickle.load(file)
pickle.loads(pickle.dumps(collections.OrderedDict()))
with socket.socket() as connection:
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", 9))
    connection.connect_ex(("192.0.2.1", 9))  # an address that is nobody's
if "again" not in sys.argv:
    subprocess.run([sys.executable, __file__, "again"])
"""
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(HERE / "watch"), "CHAOS_RECORD": str(tmp_path / "record")}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=environment, check=True, timeout=60)
    record = read_record(tmp_path / "record")
    assert network(record) == ["('192.0.2.1', 9)"] * 2
    assert {Path(path).name for path in elsewhere(record, (tmp_path / "record",))} == {"written", "made", "pickle"}
    assert len(unpickled(record)) == 4
    assert len([event for event in record if event["event"] == "subprocess.Popen"]) == 1


def calls_that_trust(source: str) -> Iterator[str]:
    """Calls that would run what a file says: foreign code, pickles, and tensors that may be such."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        refused = {"trust_remote_code": "False", "weights_only": "True", "allow_pickle": "False"}
        if any(given.get(argument, value) != value for argument, value in refused.items()):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif name.partition(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"):
            yield f"line {node.lineno}: {name}"
        elif name == "torch.load" and "weights_only" not in given:
            yield f"line {node.lineno}: torch.load without weights_only"


@pytest.mark.parametrize(
    "call",
    [
        "from_pretrained(folder, trust_remote_code=True)",
        "from_pretrained(folder, trust_remote_code=options.trust)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "pickle.load(file)",
    ],
)
def test_such_a_call_is_found(call: str) -> None:
    assert [*calls_that_trust(call)]


def test_no_source_of_ours_trusts_a_file(repository: Path) -> None:
    for path in [path for folder in SOURCES for path in (repository / folder).rglob("*.py")]:
        assert [*calls_that_trust(path.read_text())] == [], path
