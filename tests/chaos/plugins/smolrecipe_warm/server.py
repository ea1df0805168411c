"""``server.py SOCKET``: imports every engine, then forks a stage's processes for each client that asks.

It ends with the process that started it, and its forks with it. Nothing may have started a thread before a fork:
modules are imported here, and nothing is done with them.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
from typing import Any

from attrs import define, field

from smolrecipe.stage import die_with_parent

LATE = (
    # What the engines import only when they are used.
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "transformers.models.smollm3.modeling_smollm3",
    "trl",
)


def import_engines() -> None:
    """Import the modules of every built-in plugin."""
    from smolrecipe_registry.discovery import load_registry
    from smolrecipe_torchtitan.device import use_device
    from smolrecipe_trl.quiet import be_quiet

    be_quiet()
    use_device("cpu")
    load_registry()
    for package in sorted({name for name in sys.modules if name.startswith("smolrecipe_") and "." not in name}):
        for module in pkgutil.walk_packages(getattr(sys.modules[package], "__path__", ()), f"{package}."):
            try:
                importlib.import_module(module.name)
            except ImportError:  # an engine that is not installed
                continue
    for name in LATE:
        importlib.import_module(name)


@define
class Client:
    """A client and its forks."""

    connection: socket.socket
    forks: list[int] = field(factory=list)
    code: int = 0
    output: bytes = b""

    def signal(self, number: int) -> None:
        """Send the forks a signal."""
        for process in self.forks:
            os.kill(process, number)


def serve(address: str) -> dict[str, Any]:
    """Fork for clients until this process ends. Returns in each fork, with what it is to be."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    clients: list[Client] = []
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, *(client.connection for client in clients)], [], [], 0.02)
        if listener in ready:
            connection, _ = listener.accept()
            fork = _fork_for(connection, clients, listener)
            if fork is not None:
                return fork
        for client in clients:
            if client.connection in ready:
                said = client.connection.recv(100)
                client.signal(int(said.split()[0]) if said else signal.SIGKILL)
                if not said:
                    client.code = client.code or 1
        _bury(clients)


def _fork_for(connection: socket.socket, clients: list[Client], listener: socket.socket) -> dict[str, Any] | None:
    """Fork what a new client asks for. Returns the request in the forks, nothing in the server."""
    data, descriptors = b"", []
    while not data.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not part:
            connection.close()
            return None
        data, descriptors = data + part, [*descriptors, *found]
    request = json.loads(data)
    client = Client(connection)
    port = _free_port()
    for rank in range(request["processes"]):
        process = os.fork()
        if process:
            client.forks.append(process)
            continue
        for other in clients:
            other.connection.close()
        connection.close()
        listener.close()
        _become(request, descriptors, rank, port)
        return dict(request)
    for descriptor in descriptors:
        os.close(descriptor)
    clients.append(client)
    return None


def _become(request: dict[str, Any], descriptors: list[int], rank: int, port: int) -> None:
    os.setsid()
    for number, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"], CHAOS_ROLE="worker")
    if request["processes"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(request["processes"]))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _bury(clients: list[Client]) -> None:
    """Tell the clients whose forks have ended. Where one has failed, the others are ended too."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not process:
            break
        for client in clients:
            if process in client.forks:
                client.forks.remove(process)
                code = os.waitstatus_to_exitcode(status)
                if code and not client.code:
                    client.code = code
                    client.signal(signal.SIGTERM)
    for client in [client for client in clients if not client.forks]:
        clients.remove(client)
        with contextlib.suppress(OSError):  # it died before its forks
            client.connection.sendall(f"{client.code}\n".encode())
        client.connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(address: str) -> None:
    """Serve, and in each fork be ``smolrecipe ARGUMENTS``."""
    die_with_parent()
    import_engines()
    gc.freeze()
    request = serve(address)
    import numpy
    import sitecustomize

    from smolrecipe.cli import main as smolrecipe

    numpy.random.seed()  # a process of its own would have drawn its seed too
    sitecustomize.install()
    sys.argv = ["smolrecipe", *request["arguments"]]
    code: Any = 1
    try:
        smolrecipe()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking thousands of modules apart would take longer than the stage


if __name__ == "__main__":
    main(sys.argv[1])
