"""``alone.py FILE COMMAND...``: runs a command where there is no network, and counts what asked for one all the same.

Started in a network of its own (``unshare --net``), which has nothing but a loopback device. The kernel counts there
what it could not send for want of a route, from compiled code too; FILE gets that count.
"""

from __future__ import annotations

import ctypes
import fcntl
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
_LIBC = ctypes.CDLL(None)
_SET_FLAGS, _UP, _RUNNING = 0x8914, 1, 64


def can_be_alone() -> bool:
    """Whether this machine lets us make a network of our own."""
    if shutil.which(UNSHARE[0]) is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


def unsent() -> int:
    """The packets that found no route in this network."""
    heads, counts = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:3] == "Ip:")
    lines = [line.split() for line in Path("/proc/net/snmp6").read_text().splitlines()]
    of_version_6 = [int(count) for name, count in lines if name == "Ip6OutNoRoutes"]
    return int(dict(zip(heads, counts, strict=True))["OutNoRoutes"]) + sum(of_version_6)


def main(file: str, *command: str) -> int:
    """Run the command and leave the count. Returns its exit code."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, _SET_FLAGS, struct.pack("16sh", b"lo", _UP | _RUNNING))
    before = unsent()
    # The command ends with this process, which nobody else would tell it of.
    code = subprocess.run(command, preexec_fn=lambda: _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0), check=False).returncode
    Path(file).write_text(str(unsent() - before))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
