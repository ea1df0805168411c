"""``smolrecipe ls``: what lies in the run store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from smolrecipe.cli.session import json_option, store_option
from smolrecipe.cli.tables import print_table
from smolrecipe.strict_json import printable
from smolrecipe.verifying.targets import is_artifact, read_record


@click.command(epilog="\b\nExamples:\n  smolrecipe ls\n  smolrecipe ls --runs /scratch/runs --json")
@store_option
@json_option
def ls(runs: Path, as_json: bool) -> None:
    """List the artifacts in the run store."""
    listing = list(_artifacts(runs))
    if as_json:
        click.echo(json.dumps(listing, indent=2))
        return
    if not listing:
        click.echo(f"nothing in {runs}")
        return
    rows = [
        (item["recipe"], item["folder"], item["kind"], item["status"], item["size"], item["seconds"], item["started"])
        for item in listing
    ]
    print_table(("recipe", "artifact", "kind", "status", "MiB", "seconds", "started (UTC)"), rows, right=(4, 5))


def _artifacts(runs: Path) -> Iterator[dict[str, str]]:
    for folder in sorted(runs.glob("*/*/")):
        files = [path for path in folder.rglob("*") if path.is_file()]
        record: Mapping[str, Any] = {}
        status = "half done"
        if is_artifact(folder):
            try:
                record, status = read_record(folder), "published"
            except ValueError as error:
                status = "damaged"
                click.echo(f"damaged: {error}; 'smolrecipe verify {folder}' says what else is", err=True)
        elif folder.suffix != ".partial":
            continue
        yield {
            "recipe": printable(folder.parent.name),
            "folder": printable(folder.name),
            "kind": printable(str(record["kind"])) if record else "",
            "status": status,
            "size": f"{sum(path.stat().st_size for path in files) / 2**20:.1f}",
            "seconds": f"{record['seconds']:.1f}" if record else "",
            "started": printable(str(record.get("started", "")))[:19].replace("T", " "),
        }
