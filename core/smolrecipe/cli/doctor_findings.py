"""What ``smolrecipe doctor`` finds: one sentence for each thing, what to do about it, and how both are shown."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import click
from attrs import Factory, frozen

Status = Literal["ok", "note", "lacks"]

_COLOURS = {"ok": "green", "note": "yellow", "lacks": "red"}
_NARROWEST, _WIDEST = 60, 120
_LONGEST_SUBJECT = 24


@frozen(kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    status: Status
    """``ok``; ``note`` for what is worth knowing and stops nothing by itself; ``lacks`` for what does."""
    told: str
    remedy: str = ""
    facts: Mapping[str, Any] = Factory(dict)
    """The same for programs, JSON values only."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "subject": self.subject,
            "status": self.status,
            "told": self.told,
            **({"remedy": self.remedy} if self.remedy else {}),
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def print_findings(title: str, findings: Sequence[Finding]) -> None:
    """Print findings under a title, as wide as the terminal."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _NARROWEST), _WIDEST)
    column = min(max((len(finding.subject) for finding in findings), default=0), _LONGEST_SUBJECT)
    indent = " " * (column + 11)
    click.echo(click.style(title, bold=True))
    for finding in findings:
        words = finding.told + (f": {finding.remedy}" if finding.remedy else "")
        lines = textwrap.wrap(words, width - len(indent), break_on_hyphens=False)
        status = click.style(f"{finding.status:<5}", fg=_COLOURS[finding.status])
        if len(finding.subject) > column:
            click.echo(f"  {status}  {finding.subject}")
        else:
            click.echo(f"  {status}  {finding.subject:<{column}}  {lines.pop(0) if lines else ''}".rstrip())
        for line in lines:
            click.echo(indent + line)
    click.echo()
