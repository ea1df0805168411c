"""Seeds of one training are one box and one colour, side by side; stages that differ in more are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report.figures import curve_figures
from smolrecipe_report.graph import graph_figure
from smolrecipe_report.reading import Stage
from smolrecipe_report.series import series_of
from smolrecipe_report.spans import spans_of


def stage(name: str, *parents: str, batch: int = 2, status: str = "published", **more: Any) -> Stage:
    options: dict[str, Any] = {"use": "pretrain", "sequence_length": 8, "global_batch": batch, **more}
    options |= {"from": parents[0]} if parents else {}
    return Stage(
        folder=Path(f"{name}-{name:0<12.12}"),
        name=name,
        status=status,
        note="",
        record={},
        options=options,
        events=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
        parents={parent: f"{parent:0<12}" for parent in parents},
    )


SEEDS = [
    *(stage("a-1"), stage("a-2"), stage("b-1", "a-1"), stage("b-2", "a-2")),
    *(stage("wide-1", batch=4), stage("wide-2"), stage("wide-3", status="unfinished")),
    *(stage("next-1", "a-1"), stage("next-2", "next-1"), stage("last", "b-1", "b-2")),
]


def test_stages_that_differ_by_a_number_and_those_alone_are_a_series() -> None:
    assert [series.name for series in series_of(SEEDS)] == [
        *("a-1 to a-2", "b-1 to b-2", "wide-1", "wide-2", "wide-3", "next-1", "next-2", "last"),
    ]


def test_what_differs_in_an_option_is_told_apart_and_what_differs_by_the_seed_is_not() -> None:
    rates = [stage("lr-1", optimizer={"lr": 0.1}), stage("lr-2", optimizer={"lr": 0.2})]
    seeds = [
        stage("s-1", seed=1),
        stage("s-2", seed=2),
        stage("k-1", "s-1", keep="s-1@0.5"),
        stage("k-2", "s-2", keep="s-2@0.5"),
    ]
    kept_later = [stage("k-3", "s-2", keep="s-2@0.7")]
    names = [series.name for series in series_of([*rates, *seeds, *kept_later])]
    assert names == ["lr-1", "lr-2", "s-1 to s-2", "k-1 to k-2", "k-3"]


def test_a_stage_begins_where_those_end_that_it_is_made_from() -> None:
    spans = {span.stage.name: (span.begin, span.end) for span in spans_of(SEEDS)}
    assert spans["a-1"] == spans["a-2"] == (0, 32)
    assert spans["b-1"] == spans["b-2"] == spans["next-1"] == (32, 64)
    assert spans["wide-1"] == (0, 64)
    assert spans["next-2"] == spans["last"] == (64, 96)


def test_a_stage_without_losses_hands_on_what_its_models_were_trained_on() -> None:
    merge = Stage(
        folder=Path("m-m00000000000"), name="m", status="published", note="", record={}, options={"use": "merge"},
        parents={"a-1": "a-1000000000"},
    )  # fmt: skip
    spans = {span.stage.name: span.begin for span in spans_of([stage("a-1"), merge, stage("after", "m")])}
    assert spans == {"a-1": 0, "after": 32}


def test_a_series_has_one_box_and_one_entry_of_the_legend(tmp_path: Path) -> None:
    svg = graph_figure(SEEDS, tmp_path)
    assert "a-1 to a-2: published" in svg and "2 stages, 2 steps" in svg
    curves = dict(curve_figures(SEEDS, tmp_path))
    assert curves["loss"].count("a-1 to a-2") == 1 and ">a-2<" not in curves["loss"]
