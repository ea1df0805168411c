"""Rows of a stage on the page: what was learned from is marked, in colour and by a line under it."""

from __future__ import annotations

from html import escape

from smolrecipe import StageError
from smolrecipe.strict_json import printable
from smolrecipe_report.reading import Stage
from smolrecipe_report.samples import SampleRow, has_sample, sample_rows


def sample_html(stage: Stage) -> str:
    """The first row of each source that the stage was trained on; nothing where it has published none."""
    if not stage.record or not has_sample(stage.folder):
        return ""
    try:
        rows = "".join(map(_row, sample_rows(stage.folder)))
    except StageError as error:
        rows = f"<p>{escape(printable(str(error)))}</p>"
    return f"<h3>{escape(stage.name)}</h3>{rows}"


def _row(row: SampleRow) -> str:
    caption = f"{row.title}: {row.tokens} tokens, {row.learned} learned from"
    more = f" … and {row.left_out} tokens more" if row.left_out else ""
    pieces = "".join(f"<mark>{_text(of.text)}</mark>" if of.learned else _text(of.text) for of in row.pieces)
    box = f'<pre tabindex="0" aria-label="{escape(caption)}">{pieces}{more}</pre>'
    return f"<details open><summary>{escape(caption)}</summary>{box}</details>"


def _text(text: str) -> str:
    return escape("".join(sign if sign == "\n" or sign.isprintable() else repr(sign)[1:-1] for sign in text))
