"""What a push would do, shown."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from smolrecipe_hub.branches import MAIN, Branch
from smolrecipe_hub.files import CARD_FILE


def show(branches: Sequence[Branch], repository: str, *, private: bool, as_json: bool) -> None:
    """Print repository, files with their sizes, revisions and the card."""
    if as_json:
        click.echo(json.dumps(_as_json(branches, repository, private), indent=2, ensure_ascii=False))
        return
    main = branches[-1]
    total = sum(branch.size for branch in branches)
    visible = "private" if private else "public where it is new"
    click.echo(f"dry run: nothing is uploaded, and no network is asked\n\nrepository  {repository} ({visible})")
    click.echo(f"in all      {len(branches)} branch{'es' if len(branches) > 1 else ''}, {_size(total)}")
    click.echo(f"\n{MAIN}  from {main.source}")
    listing = [(CARD_FILE, len(main.card.encode())), *((file.name, file.size) for file in main.files.files)]
    for name, size in listing:
        click.echo(f"  {_size(size):>12}  {name}")
    _say_left_out(main)
    revisions = branches[:-1]
    if revisions:
        click.echo(
            f"\n{len(revisions)} revision{'s' if len(revisions) > 1 else ''}, each a branch with a card of its own"
        )
        for branch in revisions:
            click.echo(f"  {_size(branch.size):>12}  {branch.name}  from {branch.source}")
            _say_left_out(branch)
    click.echo(f"\n{CARD_FILE} of {MAIN}:\n\n{main.card}", nl=False)


def _say_left_out(branch: Branch) -> None:
    if branch.files.left_out:
        click.echo(f"  {'stays here':>12}  {', '.join(branch.files.left_out)}")


def _as_json(branches: Sequence[Branch], repository: str, private: bool) -> dict[str, object]:
    return {
        "repository": repository,
        "private": private,
        "branches": [
            {
                "name": branch.name,
                "from": branch.source,
                "files": [
                    {"name": CARD_FILE, "bytes": len(branch.card.encode())},
                    *({"name": file.name, "bytes": file.size, "sha256": file.sha256} for file in branch.files.files),
                ],
                "left_out": list(branch.files.left_out),
                "message": branch.message,
                "card": branch.card,
            }
            for branch in branches
        ],
    }


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"
