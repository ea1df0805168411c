"""The text of the scripts: one for each job, and the one that submits them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from smolrecipe_slurm.jobs import Job, Site

SUBMIT = "submit.sh"

_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@%+=-]*")
_BEFORE_THE_END = 60
"""Seconds besides the grace period between the signal and the end of a job's time."""


@frozen(kw_only=True)
class Call:
    """How a job calls smolrecipe."""

    program: str
    """What calls it, as a shell reads it."""
    folder: Path
    """Where it was called from, which relative paths in a recipe or setting are relative to."""
    recipe: str
    runs: Path
    settings: tuple[str, ...]
    plugins: tuple[str, ...] | None
    grace: float
    locked: bool = False
    lock_file: Path | None = None
    """The lock file that jobs are held to; where 'smolrecipe lock' writes it if not given."""

    def words(self) -> str:
        """The options that every call has, quoted for a shell."""
        settings = [word for setting in self.settings for word in ("--set", setting)]
        lock = [] if self.lock_file is None else ["--lock", str(self.lock_file)]
        held = ["--locked", *lock] if self.locked else []
        return shlex.join(["--runs", str(self.runs), "--grace", f"{self.grace:g}", *held, *settings])

    def smolrecipe(self) -> str:
        """The program with its own options, as a shell reads it."""
        return self.program + ("" if self.plugins is None else f" --plugins {shlex.quote(','.join(self.plugins))}")


def scripts(jobs: Sequence[Job], site: Site, call: Call) -> dict[str, str]:
    """Every file by its name."""
    return {**{job.file: _script(job, site, call) for job in jobs}, SUBMIT: _submit(jobs)}


def directive(option: str) -> str:
    """One line of options for sbatch."""
    name, equals, value = option.partition("=")
    if equals and not _PLAIN.fullmatch(value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH {name}{equals}{value}"


def _script(job: Job, site: Site, call: Call) -> str:
    return "\n".join([*_head(job, site, call), "", *_body(job, site, call)]) + "\n"


def _head(job: Job, site: Site, call: Call) -> Iterator[str]:
    stage, grace = job.stage, math.ceil(call.grace)
    early = grace + _BEFORE_THE_END
    options = {
        "job-name": job.name,
        "output": f"{job.file.removesuffix('.sbatch')}.%j.out",
        "open-mode": "append",
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        **({"gpus-per-node": str(job.gpus_per_node)} if job.gpus_per_node else {}),
        **site.options,
    }
    yield "#!/bin/bash"
    yield f"# Stage '{stage.name}' ({stage.use.name}) of recipe '{job.recipe}': {job.size}."
    if job.after:
        yield f"# It uses {', '.join(other.stage.name for other in job.after)}: {SUBMIT} has it wait for their jobs."
    yield "# Written by 'smolrecipe launch slurm': write it again rather than change it here."
    yield "#"
    yield from (directive(f"--{name}={value}") for name, value in options.items())
    yield from map(directive, site.more)
    yield "# A job that is preempted, or loses a node, goes back into the queue, and on from its last checkpoint."
    yield "#SBATCH --requeue"
    yield f"# This script gets SIGTERM {early} s before its time is over; the stage may take {grace} s of them to save."
    yield f"#SBATCH --signal=B:TERM@{early}"
    yield "# A job whose stages before it failed never starts: it leaves the queue."
    yield "#SBATCH --kill-on-invalid-dep=yes"


def _body(job: Job, site: Site, call: Call) -> Iterator[str]:
    yield f"cd -- {shlex.quote(str(call.folder))} || exit 2"
    yield from site.setup
    yield ""
    if job.nodes == 1:
        yield from _one_node(job, call)
    else:
        yield from _several_nodes(job, site, call)
    yield _END


def _one_node(job: Job, call: Call) -> Iterator[str]:
    several = job.stage.devices.processes > 1
    launcher = " --set 'launcher={use: torchrun}'" if several else ""
    yield 'run=""'
    yield 'stop() { [ -z "$run" ] || kill -TERM "$run"; }'
    yield "trap stop TERM  # the stage saves, and ends with 143"
    yield ""
    yield f"{call.smolrecipe()} run {shlex.quote(call.recipe)} --only {job.stage.name} {call.words()}{launcher} &"


def _several_nodes(job: Job, site: Site, call: Call) -> Iterator[str]:
    cpus = site.options.get("cpus-per-task")
    yield "# The first node runs the stage, and the others their part of its processes; they meet there, under another"
    yield "# name each time that the job starts."
    yield 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
    yield "port=$((20000 + SLURM_JOB_ID % 12000))"
    yield 'meeting="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"'
    yield ""
    yield "# SIGTERM ends srun and what it runs at once: its processes are sent it past srun, so that the stage saves."
    yield 'stop() { scancel --signal=TERM "$SLURM_JOB_ID"; }  # its steps, not this script'
    yield "trap stop TERM"
    yield ""
    yield f"srun --nodes={job.nodes} --ntasks={job.nodes} --ntasks-per-node=1 --kill-on-bad-exit=0 \\"
    if cpus:
        yield f"    --cpus-per-task={shlex.quote(cpus)} \\"  # Slurm 22.05 and later do not take it over from sbatch
    yield f"    {call.smolrecipe()} launch node {shlex.quote(call.recipe)} {job.stage.name} \\"
    yield f'    --nodes {job.nodes} --rendezvous "$head:$port" --id "$meeting" {call.words()} &'


_END = """\
run=$!
wait "$run"; code=$?
while kill -0 "$run" 2>/dev/null; do wait "$run"; code=$?; done  # a signal ends 'wait' early

# 143: stopped by SIGTERM, and saved. Where the job still counts as running, its time was about to be over, or it was
# preempted with a time of grace: it is put back into the queue here. Where it does not, it was cancelled, which is
# meant, or preempted at once, and then Slurm puts it back by itself (--requeue).
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --states=all --format=%T)
if [ "$code" -eq 143 ] && [ "$state" = RUNNING ]; then
    echo "back into the queue: job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code\""""


def _submit(jobs: Sequence[Job]) -> str:
    lines = [
        "#!/bin/bash",
        "# Submits the jobs, each to start when those of the stages that it uses have succeeded.",
        "# 'singleton': where a job for the same artifact is in the queue already, this one waits for it and finds",
        "# the stage published.",
        "set -euo pipefail",
        'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"',
        "submitted=()",
        "trap 'echo \"not all jobs were submitted; to take back those that were: scancel ${submitted[*]:-}\" >&2' ERR",
        "",
    ]
    for job in jobs:
        waits = ",".join(["singleton", *(f"afterok:$job_{other.number:02}" for other in job.after)])
        name = f"job_{job.number:02}"
        lines += [
            f'{name}=$(sbatch --parsable --dependency="{waits}" ./{job.file}); {name}=${{{name}%%;*}}',
            f'submitted+=("${name}"); echo "${name} {job.stage.name}"',
        ]
    return "\n".join(lines) + "\n"


def problems(options: Mapping[str, str], more: Sequence[str], setup: Sequence[str]) -> Iterator[str]:
    """What cannot be written into a script as it is."""
    for name, value in options.items():
        if not value.isprintable() or not value:
            yield f"--{name} is {value!r}: it is to be one line, with nothing invisible in it"
    for option in more:
        if not option.isprintable() or not re.match(r"--?[A-Za-z]", option):
            yield f"--sbatch {option!r} is no option of sbatch: write it as there, such as --constraint=h100"
    for line in setup:
        if "\0" in line or "\n" in line:
            yield f"--setup {line!r} is more than one line: give the option several times"
