"""A comparison as text: stages, what follows for training, options, what would run again, measures."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence

import click

from smolrecipe.cli.diff_lines import Line, sections
from smolrecipe.cli.side_by_side import Cell, print_side_by_side, rows_of
from smolrecipe.cli.tables import print_table
from smolrecipe.comparing.arithmetic import Facts
from smolrecipe.comparing.compare import Comparison
from smolrecipe.comparing.reasons import Reason
from smolrecipe.recipe.sweep_names import number_text

_WIDTH_OF_A_FILE = 100
_LONGEST_IN_A_TABLE = 20
"""Characters of a value that is told in a table; longer ones get a line."""
_OPTIONS_TOLD = 3


def print_comparison(comparison: Comparison) -> None:
    """Print all that differs, or that nothing does."""
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        click.echo(f"{letter}  {side.label}")
        for note in side.notes:
            click.echo(f"   note: {note}", err=True)
    click.echo()
    if comparison.same:
        click.echo(f"nothing differs: {len(comparison.pairs)} stages are the same in meaning, to the digest")
        return
    _print_stages(comparison)
    _print_facts(comparison)
    for stages, lines in sections(comparison, has_effect=True):
        _print_section(", ".join(stages), lines, comparison)
    _print_without_effect(comparison)
    _print_reasons(comparison)
    _print_plugins(comparison)
    _print_measures(comparison)


def _print_stages(comparison: Comparison) -> None:
    same = [pair for pair in comparison.common if pair.a and pair.b and pair.a.digest == pair.b.digest]
    _say(f"{len(comparison.common)} stages in both, {len(same)} of them the same to the digest")
    for letter, pairs in (
        ("A", [pair.a for pair in comparison.pairs if pair.b is None]),
        ("B", [pair.b for pair in comparison.pairs if pair.a is None]),
    ):
        if pairs:
            _say(f"only in {letter}: " + ", ".join(f"{stage.name} ({stage.kind})" for stage in pairs if stage))
    for pair in comparison.pairs:
        if pair.renamed and pair.a and pair.b:
            _say(f"renamed: {pair.a.name} is called {pair.b.name} in B")
    click.echo()


def _print_facts(comparison: Comparison) -> None:
    """What differs in tokens, rates, lengths and parameters, and the tokens in all."""
    columns: Sequence[tuple[str, Callable[[Facts], str]]] = (
        ("tokens trained on", _tokens),
        ("peak learning rate", lambda facts: "" if facts.peak_lr is None else number_text(facts.peak_lr)),
        ("longest row", lambda facts: "" if facts.length is None else f"{facts.length:,}"),
        ("parameters", lambda facts: "" if facts.parameters is None else _large(facts.parameters)),
    )
    told = [(text, name) for name, text in columns if any(text(a) != text(b) for a, b in comparison.facts.values())]
    rows = [
        (stage, *(_arrow(text(a), text(b)) for text, _ in told))
        for stage, (a, b) in comparison.facts.items()
        if any(text(a) != text(b) for text, _ in told)
    ]
    if rows:
        if any(text is _tokens for text, _ in told):
            in_all = _arrow(*(_total([pair[side] for pair in comparison.facts.values()]) for side in (0, 1)))
            rows.append(("in all", in_all, *("" for _ in told[1:])))
        print_table(("stage", *(name for _, name in told)), rows, title="What follows, A -> B")
        click.echo()
    curves: dict[tuple[str, str], list[str]] = {}
    changed = {change.stage for change in comparison.changes if change.path[:1] == ("schedule",)}
    for stage, (a, b) in comparison.facts.items():
        if a.curve and b.curve and str(a.curve) != str(b.curve) and (stage in changed or not a.curve.is_like(b.curve)):
            curves.setdefault((str(a.curve), str(b.curve)), []).append(stage)
    for (old, new), stages in curves.items():
        _say(f"learning rate of {', '.join(stages)}:")
        click.echo(f"  A  {old}\n  B  {new}")
    if curves:
        click.echo()


def _tokens(facts: Facts) -> str:
    if facts.tokens is None:
        return "by the data" if facts.length is not None else ""
    return f"{'<= ' * facts.at_most}{_large(facts.tokens)}"


def _total(facts: Sequence[Facts]) -> str:
    known = [fact.tokens for fact in facts if fact.tokens is not None]
    unknown = any(fact.tokens is None and fact.length is not None for fact in facts)
    bounded = any(fact.at_most for fact in facts)
    sign = "about " if unknown and bounded else ">= " if unknown else "<= " if bounded else ""
    return f"{sign}{_large(sum(known))}" if known else ""


def _arrow(a: str, b: str) -> str:
    return a if a == b else f"{a or '-'} -> {b or '-'}"


def _large(number: int) -> str:
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _print_section(title: str, lines: Sequence[Line], comparison: Comparison) -> None:
    """A table of the changes whose values are short, and lines for what is long or on one side alone."""
    recipes = [side.kind == "recipe" for side in (comparison.a, comparison.b)]
    _say(title)
    short = [line for line in lines if line.a and line.b and max(len(line.a), len(line.b)) <= _LONGEST_IN_A_TABLE]
    if short:
        written = [" | ".join(text for text, told in zip(line.written, recipes, strict=True) if told) for line in short]
        rows = [(f"  {line.option}", line.a, line.b, place) for line, place in zip(short, written, strict=True)]
        print_table(("  option", "A", "B", "written at" if any(recipes) else ""), rows)
    for line in lines:
        if line not in short:
            for sign, text, place in (("-", line.a, line.written[0]), ("+", line.b, line.written[1])):
                if text:
                    where = f"  {place}" if place else ""
                    click.echo(_cut(f"  {sign} {line.option}  {text}", _width() - len(where)) + where)
    click.echo()


def _print_without_effect(comparison: Comparison) -> None:
    found = sections(comparison, has_effect=False)
    if not found:
        return
    click.echo("Without effect on results: where and how it is computed\n")
    for stages, lines in found:
        _print_section(", ".join(stages) or "the recipe", lines, comparison)


def _print_reasons(comparison: Comparison) -> None:
    if not comparison.reasons:
        return
    room = _width() - max(map(len, comparison.reasons)) - 3
    rows = []
    for stage, reasons in comparison.reasons.items():
        first, *rest = textwrap.wrap(_because(reasons), room, break_on_hyphens=False)
        rows += [(stage, first), *(("", line) for line in rest)]
    print_table(("stage", "because of"), rows, title="Would run again, from A to B")
    click.echo()


def _because(reasons: Sequence[Reason]) -> str:
    """The reasons in a few words; many options by the first part of their paths."""
    options = [reason.what for reason in reasons if reason.kind == "option"]
    if len(options) > _OPTIONS_TOLD:
        options = list(dict.fromkeys(option.partition(".")[0] for option in options))
    more = len(options) - _OPTIONS_TOLD
    told = [f"its {', '.join(options[:_OPTIONS_TOLD])}" + f" and {more} more" * (more > 0)] if options else []
    words = {
        "plugin": "plugin ",
        "data": "the data behind ",
        "parent": "what it is made from: ",
        "name": "it ",
        "unknown": "",
    }
    for kind, word in words.items():
        if own := [reason.what for reason in reasons if reason.kind == kind]:
            told.append(word + ", ".join(own))
    return "; ".join(told)


def _print_plugins(comparison: Comparison) -> None:
    if not comparison.plugins:
        return
    rows = [
        (name, *(f"{version} ({source[:12]})" for version, source in identities))
        for name, identities in comparison.plugins.items()
    ]
    print_table(("plugin", "A", "B"), rows, title="Plugins: version (source)")
    click.echo()


def _print_measures(comparison: Comparison) -> None:
    if not comparison.measures:
        return
    parents = {
        pair.name: [stage.parents if stage is not None else {} for stage in (pair.a, pair.b)]
        for pair in comparison.pairs
    }
    columns = [
        {
            key: Cell(measure=measures[side], parents=parents[key[0]][side])
            for key, measures in comparison.measures.items()
            if measures[side] is not None
        }
        for side in (0, 1)
    ]
    print_side_by_side(["A", "B"], rows_of(columns, [{}, {}]))


def _say(text: str) -> None:
    click.echo(textwrap.fill(text, _width(), subsequent_indent="  ", break_on_hyphens=False))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(1, width - 3)]}..."


def _width() -> int:
    return shutil.get_terminal_size((_WIDTH_OF_A_FILE, 24)).columns
