"""A real Slurm on this machine: munged, slurmctld and two slurmd on loopback, in a folder of a test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where daemons are that a user's PATH may leave out."""
NODES = (socket.gethostname(), f"{socket.gethostname()}-other")
"""The first of a job's nodes is where its machines meet: it has a name that this machine knows."""

CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MinJobAge=300
KillWait=20
MessageTimeout=20
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=graceful Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
"""Jobs of ``high`` send those of the others back into the queue; in ``graceful`` they are given a minute before."""


def why_not() -> str:
    """What keeps Slurm from being started here, nothing if nothing does."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "Slurm's daemons are started as root, which this user is not"
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return f"this machine does not know its own name, {socket.gethostname()}: add it to /etc/hosts"
    return ""


class Cluster:
    """A running Slurm; ``environment`` is what its commands, and those who call them, need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{SYSTEM}",
        }
        for name in [name for name in self.environment if name.startswith(("SLURM_J", "SLURM_N", "SBATCH_"))]:
            del self.environment[name]

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        told = self.call("scontrol", "show", "job", number, "--oneliner")
        return dict(word.partition("=")[::2] for word in told.split() if "=" in word)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what}: not after {seconds} s\n{self.call('squeue', '--all')}"
            time.sleep(0.2)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a cluster in ``folder`` and stop it, with everything that runs on it."""
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=2 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    )
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=socket.gethostname(), controller=controller, folder=folder, nodes=nodes)
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    cluster, daemons = Cluster(folder), []
    files = {"key-file": key, **{f"{what}-file": folder / f"munge.{what}" for what in ("pid", "seed", "log")}}
    options = [f"--socket={folder}/munge.socket", *(f"--{option}={path}" for option, path in files.items())]
    munge = ("munged", "--foreground", "--force", *options)
    slurmds = [("slurmd", "-D", "-N", name) for name in NODES]
    try:
        for command in (munge, ("slurmctld", "-D", "-i"), *slurmds):
            daemons.append(_start(cluster, command))
            if command is munge:
                cluster.wait("munged", (folder / "munge.socket").exists, 10)
        cluster.wait("two idle nodes", lambda: _idle(cluster, daemons) == len(NODES), 30)
        yield cluster
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            _end_jobs(cluster)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _start(cluster: Cluster, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    name = "-".join(word for word in (command[0], command[-1] if command[0] == "slurmd" else "") if word)
    with (cluster.folder / f"{name}.out").open("wb") as output:
        program = _program(command[0])
        assert program is not None
        return subprocess.Popen(
            [program, *command[1:]], env=cluster.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _idle(cluster: Cluster, daemons: list[subprocess.Popen[bytes]]) -> int:
    for daemon in daemons:
        assert daemon.poll() is None, f"{daemon.args} has ended; see {cluster.folder}"
    try:
        return len(
            [state for state in cluster.call("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split() if state == "idle"]
        )
    except AssertionError:
        return 0  # the controller does not answer yet


def _end_jobs(cluster: Cluster) -> None:
    jobs = cluster.call("squeue", "-h", "-o", "%A").split()
    if jobs:
        cluster.call("scancel", "--signal=KILL", "--full", *jobs)
        cluster.call("scancel", *jobs)
        cluster.wait("no job left", lambda: not cluster.call("squeue", "-h"), 30)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:{SYSTEM}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
