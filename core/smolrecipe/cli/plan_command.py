"""``smolrecipe plan``: what would run, and what would it take."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path

import click

from smolrecipe.cli.dry_run import Speed, dry_run, print_dry_run
from smolrecipe.cli.lacking import lacking_of, note_lacking, note_what_is_dropped
from smolrecipe.cli.plan_json import left_as_json, outlook_as_json, stage_as_json, stage_status
from smolrecipe.cli.plan_outlook import outlook, sweep_left
from smolrecipe.cli.plan_tables import devices_of, print_outlook, print_total
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option, sweep_option
from smolrecipe.cli.tables import print_table
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe.planning.backtest import backtest
from smolrecipe.planning.colleague import MOST_EPOCHS
from smolrecipe.planning.hardware import GPUS, MFU, Assumptions
from smolrecipe.planning.variants import SweepPlan
from smolrecipe.running.machine import lacking
from smolrecipe.running.store import RunStore

_MOST_TOKENS = 1e18
"""Of a stage: a hundred thousand times SmolLM3's."""


def _as_tokens(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    """What ``--tokens STAGE=N`` says."""
    found = {}
    for text in given:
        stage, _, number = text.rpartition("=")
        try:
            found[stage] = float(number.replace("_", ""))
        except ValueError:
            found[stage] = math.nan
        if not stage or not 1 <= found[stage] <= _MOST_TOKENS:
            raise click.BadParameter(f"'{text}': write STAGE=N, with a number of tokens such as 35e9", context, option)
    return found


@click.command(
    short_help="Show what would run and why, and what it would take.",
    epilog="\b\nExamples:\n  smolrecipe plan smollm3              what would run, tokens, hours, cost\n"
    "  smolrecipe plan smollm3 --dry-run    the same with GiB per GPU\n"
    "  smolrecipe plan smollm3 --gpu h200 --tokens mid-training=140.7e9",
)
@recipe_arguments
@sweep_option
@store_option
@json_option
@click.option(
    "--dry-run",
    "build",
    is_flag=True,
    help="Also build the first device of every stage's layout, without weights: memory, FLOPs and days.",
)
@click.option("--gpu", type=click.Choice(list(GPUS)), default="h100", show_default=True, help="What the stages run on.")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=MFU,
    show_default=True,
    help="The share of --peak-tflops that training reaches. SmolLM3's 13,985 tokens per second and H100 come to 0.286.",
)
@click.option(
    "--peak-tflops",
    type=click.FloatRange(0, min_open=True),
    help="Peak speed of a device in the stages' precision; that of --gpu in dense bfloat16 by default (H100: 989.5).",
)
@click.option(
    "--price",
    type=click.FloatRange(0),
    help="US dollars an hour of one GPU. By default the middle of what specialised clouds asked for it on demand in "
    f"May 2026: {', '.join(f'{name} {gpu.price:.2f}' for name, gpu in GPUS.items())}.",
)
@click.option(
    "--tokens",
    multiple=True,
    metavar="STAGE=N",
    callback=_as_tokens,
    help="How many tokens a stage trains on, where its data alone knows, as mid-training=140.7e9.",
)
@click.option(
    "--most-epochs",
    type=click.FloatRange(0, min_open=True),
    default=MOST_EPOCHS,
    show_default=True,
    help="Warn where a source is read more often (arXiv:2305.16264: up to 4 times is nearly as good as new data).",
)
@click.pass_obj
def plan(
    session: Session,
    recipe: str,
    settings: tuple[str, ...],
    sweeps: tuple[str, ...],
    runs: Path,
    as_json: bool,
    build: bool,
    gpu: str,
    mfu: float,
    peak_tflops: float | None,
    price: float | None,
    tokens: dict[str, float],
    most_epochs: float,
) -> None:
    """Show the stages in the order in which they run, what would run now and why, and what it would take.

    Hours and cost are those of training alone: operations, divided by what GPUs are assumed to compute. Their error bar
    is what the same estimate is off by for runs whose time is published.
    """
    assumptions = Assumptions(
        gpu=gpu,
        mfu=mfu,
        peak_tflops=peak_tflops if peak_tflops is not None else GPUS[gpu].tflops,
        peak_is_given=peak_tflops is not None,
        price=price if price is not None else GPUS[gpu].price,
    )
    if sweep := session.sweep(recipe, settings, sweeps):
        _require_stages(tokens, {swept.stage.name for swept in sweep.stages})
        store = store_of(sweep.variants[0].plan.recipe, runs)
        _plan_sweep(sweep, store, assumptions, tokens, as_json=as_json, build=build)
        return
    planned = session.plan(recipe, settings)
    _require_stages(tokens, planned.by_name)
    store = store_of(planned.recipe, runs)
    speed = Speed(mfu=mfu, peak_tflops=assumptions.peak_tflops)
    built = dry_run(session, planned, recipe, settings) if build else []
    told = outlook(session, planned, store, assumptions, tokens=tokens, most_epochs=most_epochs, built=built)
    if as_json:
        listing = outlook_as_json(told)
        if build:
            listing["dry_run"] = [found.as_json(speed) for found in built]
        click.echo(json.dumps(listing, indent=2, ensure_ascii=False))
        return
    print_outlook(told)
    note_lacking(lacking(planned, [stage for stage in planned.stages if not store.is_published(stage)]))
    if build:
        click.echo()
        print_dry_run(built, speed)


def _require_stages(tokens: dict[str, float], stages: Collection[str]) -> None:
    """Refuse ``--tokens`` of a stage that is none."""
    for name in tokens:
        if name not in stages:
            hint = near_miss(name, stages) or f"; stages: {', '.join(stages)}"
            raise RecipeError([f"--tokens: the recipe has no stage '{name}'{hint}"])


def _plan_sweep(
    sweep: SweepPlan,
    store: RunStore,
    assumptions: Assumptions,
    tokens: dict[str, float],
    *,
    as_json: bool,
    build: bool,
) -> None:
    if build:
        raise RecipeError(
            ["--dry-run builds one recipe, and this is a sweep: --set sweep=null, and one variant's values with --set"]
        )
    note_what_is_dropped(sweep)
    left, bar = sweep_left(sweep, store, assumptions, tokens), backtest(assumptions)
    to_run = [swept.stage for swept in sweep.stages if not store.is_published(swept.stage)]
    if as_json:
        told = {
            "recipe": sweep.variants[0].plan.recipe.name,
            "variants": [{"variant": planned.name, "values": planned.variant.values} for planned in sweep.variants],
            "stages": [
                {**stage_as_json(store, swept.stage), "variants": list(swept.variants)} for swept in sweep.stages
            ],
            "left": left_as_json(left, bar),
        }
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    rows = [
        (
            swept.stage.name,
            swept.stage.use.name,
            devices_of(swept.stage.devices.processes, swept.stage.devices.device),
            swept.stage.digest[:12],
            stage_status(store, swept.stage),
            swept.scope or f"all {len(sweep.variants)}",
        )
        for swept in sweep.stages
    ]
    title = f"{sweep.variants[0].plan.recipe.name}: {len(sweep.variants)} variants"
    print_table(("stage", "kind", "runs on", "digest", "status", "of variants"), rows, title=title)
    apart = sum(len(planned.plan.stages) for planned in sweep.variants)
    click.echo(f"{len(rows)} stages instead of {apart}, {len(to_run)} to run")
    print_total(left, bar, assumptions)
    note_lacking(lacking_of(sweep, to_run))
