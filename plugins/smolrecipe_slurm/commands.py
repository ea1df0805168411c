"""``smolrecipe launch slurm`` and ``smolrecipe launch node``."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from smolrecipe import RecipeError, UserError
from smolrecipe.completing import complete_stage
from smolrecipe.launching import (
    Session,
    grace_option,
    hold_to_lock,
    json_option,
    locked_options,
    recipe_arguments,
    refuse_sweep,
    run,
    store_of,
    store_option,
)

_SITE = {
    "partition": ("NAME", "The partition(s) that jobs go to."),
    "account": ("NAME", "Who pays."),
    "qos": ("NAME", "The quality of service."),
    "time": ("TIME", "The time limit of each job, such as 24:00:00; a stage that needs more goes on in the next turn."),
    "mem": ("SIZE", "Memory of a node, such as 900G; 0 is all of it."),
    "cpus-per-task": ("N", "CPUs of a node, for all processes of a stage there."),
}
"""Options of sbatch that are this command's too: what they are given, and what for."""


def _site_options(function: Any) -> Any:
    for name, (metavar, text) in reversed(_SITE.items()):
        function = click.option(f"--{name}", metavar=metavar, help=text)(function)
    return function


@click.command(
    short_help="Write a recipe as jobs for Slurm, and submit them.",
    epilog="\b\nExamples:\n  smolrecipe launch slurm smollm3-tiny      writes and prints the scripts\n"
    "  smolrecipe launch slurm smollm3 --partition hopper --time 24:00:00 --submit\n"
    "  smolrecipe launch slurm smollm3 --setup 'module load cuda/13' --locked",
)
@recipe_arguments
@store_option
@_site_options
@click.option("--gpus-per-node", type=click.IntRange(min=1), default=8, show_default=True, help="GPUs of a node.")
@click.option(
    "--processes-per-node",
    type=click.IntRange(min=1),
    help="Processes of a node, of stages without GPUs that have several; all on one node where not given.",
)
@click.option(
    "--setup",
    multiple=True,
    metavar="LINE",
    help="A line of shell that every job starts with: module load, source; several in their order.",
)
@click.option(
    "--program",
    metavar="COMMAND",
    help="What a job calls smolrecipe by, such as 'apptainer exec --nv lm.sif smolrecipe'; this installation where not "
    "given. A shell reads it.",
)
@click.option("--sbatch", "more", multiple=True, metavar="OPTION", help="Another option of sbatch; several.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the scripts and what jobs print go; slurm/<recipe> where not given.",
)
@click.option("--submit", is_flag=True, help="Also submit the jobs.")
@click.option(
    "--dry-run", is_flag=True, help="Write and print the scripts, and submit nothing: so without --submit, too."
)
@json_option
@locked_options
@grace_option
@click.pass_obj
def slurm(
    session: Session,
    recipe: str,
    settings: tuple[str, ...],
    runs: Path,
    gpus_per_node: int,
    processes_per_node: int | None,
    setup: tuple[str, ...],
    program: str | None,
    more: tuple[str, ...],
    out: Path | None,
    submit: bool,
    dry_run: bool,
    as_json: bool,
    locked: bool,
    lock_file: Path | None,
    grace: float,
    **site: str | None,
) -> None:
    """Write a recipe as jobs for Slurm, one for each stage that is not published, and submit them.

    A job starts when those of the stages that it uses have succeeded, and runs its stage as 'smolrecipe run --only'
    does. One that is preempted, loses a node or reaches its time limit goes back into the queue and goes on from its
    last checkpoint.
    """
    from smolrecipe_slurm.jobs import Site, jobs_of, write
    from smolrecipe_slurm.scripts import SUBMIT, Call, problems, scripts

    if submit and dry_run:
        raise click.UsageError("--submit and --dry-run exclude each other")
    if submit and shutil.which("sbatch") is None:
        raise RecipeError(["there is no sbatch here: submit from a machine of the cluster, or leave out --submit"])
    refuse_sweep(session, recipe, settings, (), "launch slurm")
    hold_to_lock(session, recipe, settings, locked=locked, lock_file=lock_file)
    plan = session.plan(recipe, settings)
    store = store_of(plan.recipe, runs)
    options = {name: value for name in _SITE if (value := site[name.replace("-", "_")]) is not None}
    if wrong := list(problems(options, more, setup)):
        raise RecipeError(wrong)
    place = Site(
        options=options,
        more=more,
        setup=setup,
        gpus_per_node=gpus_per_node,
        processes_per_node=processes_per_node,
    )
    call = Call(
        program=program or f"{shlex.quote(sys.executable)} -m smolrecipe",
        folder=Path.cwd(),
        recipe=str(Path(recipe).absolute()) if Path(recipe).is_file() else recipe,
        runs=runs.absolute(),
        settings=settings,
        plugins=session.plugins,
        grace=grace,
        locked=locked,
        lock_file=lock_file and lock_file.absolute(),
    )
    jobs = jobs_of(plan, store, place)
    folder = out or Path("slurm") / plan.recipe.name
    if odd := {"%", "\\"} & set(str(folder.absolute())):
        raise RecipeError(
            [f"Slurm replaces what follows '{odd.pop()}' in {folder.absolute()}: choose another with --out"]
        )
    files = scripts(jobs, place, call) if jobs else {}
    written = write(folder, files) if jobs else []
    numbers = _submit(folder / SUBMIT) if submit and jobs else {}
    if as_json:
        click.echo(json.dumps([_as_json(job, folder, numbers) for job in jobs], indent=2))
        return
    if not jobs:
        click.echo(f"all {len(plan.stages)} stages are published in {store.root}: there is nothing to launch")
        return
    if not submit:
        for path in written:
            click.echo(f"==> {path}\n{files[path.name]}")
    for job in jobs:
        after = f", after {', '.join(other.stage.name for other in job.after)}" if job.after else ""
        number = f"job {numbers[job.number]}: " if job.number in numbers else ""
        click.echo(f"{number}{job.stage.name}: {job.size}{after}")
    if not submit:
        click.echo(f"written to {folder}; to submit: bash {shlex.quote(str(folder / SUBMIT))}, or --submit")


def _submit(script: Path) -> dict[int, str]:
    """Run the script that submits.

    Returns:
        Slurm's number of each job, by its number in the plan.

    Raises:
        UserError: in sbatch's own words.
    """
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{script} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return {place: line.split()[0] for place, line in enumerate(done.stdout.splitlines(), start=1)}


def _as_json(job: Any, folder: Path, numbers: dict[int, str]) -> dict[str, Any]:
    return {
        "stage": job.stage.name,
        "script": str(folder / job.file),
        "nodes": job.nodes,
        "processes": job.stage.devices.processes,
        "device": job.stage.devices.device,
        "after": [other.stage.name for other in job.after],
        "job": numbers.get(job.number),
    }


@click.command(
    short_help="Run one machine's part of a stage that runs on several.",
    epilog="\b\nExample, on the first of two machines; on the second with --node-rank 1:\n"
    "  smolrecipe launch node smollm3 sft --nodes 2 --node-rank 0 \\\n"
    "      --rendezvous node1:29400",
)
@recipe_arguments
@click.argument("stage", shell_complete=complete_stage)
@click.option("--nodes", type=click.IntRange(min=2), required=True, help="Machines, this one included.")
@click.option(
    "--node-rank",
    type=click.IntRange(min=0),
    required=True,
    envvar="SLURM_NODEID",
    help="Which of the machines this is. 0 runs the stage: it writes, publishes and says what there is to say.",
)
@click.option(
    "--rendezvous", required=True, metavar="HOST:PORT", help="Machine 0, as the others reach it; a free port."
)
@click.option("--id", "meeting", default="smolrecipe", help="Tells this attempt from others, where they may overlap.")
@click.option("--wait", type=click.FloatRange(min=1), default=600.0, show_default=True, help="Seconds to meet in.")
@store_option
@locked_options
@grace_option
@click.pass_context
def node(
    context: click.Context,
    recipe: str,
    settings: tuple[str, ...],
    stage: str,
    nodes: int,
    node_rank: int,
    rendezvous: str,
    meeting: str,
    wait: float,
    runs: Path,
    locked: bool,
    lock_file: Path | None,
    grace: float,
) -> None:
    """Run one machine's part of a stage that runs on several, which share the run store: the same command on each."""
    from smolrecipe_slurm import TorchrunOptions, is_address
    from smolrecipe_slurm.other_node import join

    if node_rank >= nodes:
        raise click.UsageError(f"--node-rank counts from 0: of {nodes} machines the last is {nodes - 1}")
    if not is_address(rendezvous):
        raise click.UsageError(f"--rendezvous {rendezvous} is no host:port, such as node1:29400")
    if node_rank == 0:
        launcher = {"use": "torchrun", "nodes": nodes, "rendezvous": rendezvous, "id": meeting, "wait": wait}
        settings = (*settings, f"launcher={json.dumps(launcher)}")
        held = {"locked": locked, "lock_file": lock_file}
        context.invoke(run, recipe=recipe, settings=settings, runs=runs, grace=grace, only=stage, **held)
        return
    session: Session = context.obj
    refuse_sweep(session, recipe, settings, (), "launch node")
    hold_to_lock(session, recipe, settings, locked=locked, lock_file=lock_file)
    plan = session.plan(recipe, settings)
    options = TorchrunOptions(nodes=nodes, rendezvous=rendezvous, id=meeting, wait=wait)
    sys.exit(join(plan, store_of(plan.recipe, runs), stage, options, node_rank, grace))
