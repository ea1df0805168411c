"""Rows of a stage on the page: documents in turn on two grounds, what was learned from underlined, the mask drawn."""

from __future__ import annotations

from html import escape
from itertools import groupby

from smolrecipe import StageError
from smolrecipe.strict_json import printable
from smolrecipe_report.reading import Stage
from smolrecipe_report.samples import Piece, SampleRow, has_sample, sample_rows

_MOST_DRAWN = 400
"""Documents of a mask: more are thinner than a line."""


def sample_html(stage: Stage) -> str:
    """The first row of each source that the stage was trained on; nothing where it has published none."""
    if not stage.record or not has_sample(stage):
        return ""
    try:
        rows = sample_rows(stage)
    except StageError as error:
        return f"<h3>{escape(stage.name)}</h3><p>{escape(printable(str(error)))}</p>"
    mask = "".join(f"<p>{escape(sentence)}</p>" for sentence in dict.fromkeys(row.mask for row in rows) if sentence)
    # One row stands open, with which most can be seen of the mask: a page has many stages and sources.
    opened = max(rows, key=lambda row: len(row.documents))
    shown = "".join(_row(row, is_open=row is opened) for row in rows)
    return f"<h3>{escape(stage.name)}</h3>{mask}{shown}"


def _row(row: SampleRow, *, is_open: bool) -> str:
    caption = escape(row.caption)
    more = f" … and {row.left_out} tokens more" if row.left_out else ""
    box = f'<pre tabindex="0" aria-label="{caption}">{_documents(row)}{more}</pre>'
    picture = "" if row.apart is None else _mask(row)
    state = " open" if is_open else ""
    return f'<details{state}><summary>{caption}</summary><div class="row">{picture}{box}</div></details>'


def _documents(row: SampleRow) -> str:
    parts = []
    for document, pieces in groupby(row.pieces, key=lambda piece: piece.document):
        text = "".join(map(_piece, pieces))
        if row.apart is None:
            parts.append(text)
        else:
            heading = f'<span class="heading">{escape(row.heading(document))}</span>'
            parts.append(f'<span class="document{document % 2}">{heading}{text}</span>')
    return "".join(parts)


def _piece(piece: Piece) -> str:
    return f"<mark>{_text(piece.text)}</mark>" if piece.learned else f'<span class="read">{_text(piece.text)}</span>'


def _mask(row: SampleRow) -> str:
    """Which tokens (across) each token (down) sees: a triangle for each document, or one for the row."""
    inputs = row.tokens - 1
    blocks = [(start, min(end, inputs)) for start, end in row.documents[:_MOST_DRAWN]] if row.apart else [(0, inputs)]
    triangles = "".join(
        f'<path class="document{number % 2}" d="M{start} {start}V{end}H{end}Z"/>'
        for number, (start, end) in enumerate(blocks)
    )
    label = escape(f"attention mask of {row.title}: {row.mask}")
    return f'<svg class="mask" viewBox="0 0 {inputs} {inputs}" role="img" aria-label="{label}">{triangles}</svg>'


def _text(text: str) -> str:
    return escape("".join(sign if sign == "\n" or sign.isprintable() else repr(sign)[1:-1] for sign in text))
