"""``client.py SOCKET PROCESSES ARGUMENTS``: has the server run ``smolrecipe ARGUMENTS`` in forks, and ends as they do.

The forks write where this process would. A signal that asks it to end is passed on to them; they die when it does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main(address: str, processes: str, *arguments: str) -> int:
    """Ask, pass signals on, and wait. Returns the exit code of the first fork that fails, or 0."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = {"processes": int(processes), "arguments": arguments, "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [1, 2])
        signal.signal(signal.SIGTERM, lambda number, frame: server.sendall(f"{number}\n".encode()))
        answer = b""
        while not answer.endswith(b"\n"):
            more = server.recv(100)
            if not more:
                return 1
            answer += more
    return int(answer)


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
