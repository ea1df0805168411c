"""Sweeps: what the variants are, what they share, what they are called, and how they run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.cli.side_by_side import Cell, Row, print_side_by_side, rows_of
from smolrecipe.errors import RecipeError
from smolrecipe.planning.variants import SweepPlan, plan_variants
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.nodes import plain
from smolrecipe.recipe.sweep import Variant, variants_of
from smolrecipe_registry.discovery import Registry, load_registry

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
HEAD = "name: toy\nlauncher: {use: direct}\n"
STAGES = (
    "stages:\n  one: {use: count, to: 3}\n  two: {use: count, to: 2, from: one}\n"
    "  three: {use: count, to: 1, from: two}\n  four: {use: count, to: 5}\n"
)
LOSS = "stages: {apo: {use: preference, loss: {use: apo_zero, beta: 0.05}}, sft: {use: sft, lr: 1e-3}}\n"


class TestVariants:
    """Composing alone: no component is looked up."""

    @pytest.fixture
    def variants(self, write_recipe: Write) -> Callable[..., list[Variant]]:
        def variants(*sweeps: str, text: str = LOSS, settings: tuple[str, ...] = ()) -> list[Variant]:
            return variants_of(compose(write_recipe(text), settings), settings, sweeps)

        return variants

    @staticmethod
    def losses(variants: list[Variant]) -> list[Any]:
        return [plain(variant.node)["stages"]["apo"]["loss"] for variant in variants]

    def test_nothing_swept_gives_no_variants(self, variants: Callable[..., list[Variant]]) -> None:
        assert variants() == []
        assert variants(text=LOSS + "sweep: {stages.sft.lr: [1, 2]}\n", settings=("sweep=null",)) == []

    def test_another_use_replaces_the_options_and_says_which(self, variants: Callable[..., list[Variant]]) -> None:
        same, other = variants("stages.apo.loss.use=apo_zero,dpo")
        assert self.losses([same, other]) == [{"use": "apo_zero", "beta": 0.05}, {"use": "dpo"}]
        assert (same.name, other.name) == ("loss.use=apo_zero", "loss.use=dpo")
        assert same.dropped == ()
        (dropped,) = other.dropped
        assert dropped.message == (
            "beta=0.05 of 'apo_zero' is not taken over by 'dpo' "
            "(--set stages.apo.loss.beta=... gives it to every variant)"
        )
        assert dropped.place is not None and (dropped.place.line, dropped.place.column) == (1, LOSS.index("beta") + 1)

    def test_what_is_set_inside_a_swept_component_holds_in_every_variant(
        self, variants: Callable[..., list[Variant]]
    ) -> None:
        found = variants("stages.apo.loss.use=apo_zero,dpo", settings=("stages.apo.loss.beta=0.2",))
        assert self.losses(found) == [{"use": "apo_zero", "beta": 0.2}, {"use": "dpo", "beta": 0.2}]
        assert [variant.dropped for variant in found] == [(), ()]

    def test_values_are_split_at_top_level_commas(self, variants: Callable[..., list[Variant]]) -> None:
        found = variants("stages.apo.loss={use: simpo, beta: 2},{use: dpo},{beta: 0.1}")
        assert self.losses(found) == [
            {"use": "simpo", "beta": 2},
            {"use": "dpo"},
            {"use": "apo_zero", "beta": 0.1},
        ]
        assert [variant.name for variant in found] == ["loss=simpo(beta=2)", "loss=dpo", "loss=(beta=0.1)"]
        quoted = variants("stages.sft.label='a, b',[1, 2],null,1e-6")
        assert [plain(variant.node)["stages"]["sft"]["label"] for variant in quoted] == ["a, b", [1, 2], None, 1e-6]
        assert [variant.name for variant in quoted] == ["label=a, b", "label=[1, 2]", "label=null", "label=1e-6"]

    @pytest.mark.parametrize("turn", [1, -1])
    def test_every_combination_whatever_the_order(self, variants: Callable[..., list[Variant]], turn: int) -> None:
        """An option inside a swept component survives the component, on whichever side of it it was given."""
        sweeps = ("stages.apo.loss.use=apo_zero,dpo", "stages.apo.loss.beta=0.1,0.2")[::turn]
        found = variants(*sweeps)
        assert {json.dumps(loss) for loss in self.losses(found)} == {
            json.dumps({"use": use, "beta": beta}) for use in ("apo_zero", "dpo") for beta in (0.1, 0.2)
        }
        assert len(found) == 4 and all(variant.dropped == () for variant in found)

    def test_names_say_what_differs_and_nothing_else(self, variants: Callable[..., list[Variant]]) -> None:
        found = variants("stages.sft.lr=1,2", "stages.apo.lr=3,4", "stages.sft.seed=7")
        assert [variant.name for variant in found][:2] == ["sft.lr=1 apo.lr=3", "sft.lr=1 apo.lr=4"]
        long = [f"{'x' * 50}{end}" for end in "ab"]
        assert [v.name[-5:] for v in variants(f"stages.sft.label={','.join(long)}")] == ["...#1", "...#2"]

    def test_a_block_and_the_command_line(self, variants: Callable[..., list[Variant]], tmp_path: Path) -> None:
        block = LOSS + "sweep:\n  stages.sft.lr: [1, 2]\n  stages.sft.file: [a.txt]\n"
        found = variants(text=block)
        assert [variant.values["stages.sft.lr"] for variant in found] == [1, 2]
        assert "sweep" not in plain(found[0].node)
        file = plain(found[0].node)["stages"]["sft"]["file"]
        assert file.place.folder == tmp_path and file.place.line == 4
        replaced = variants("stages.sft.lr=5,6,7", "stages.sft.epochs=1,2", text=block)
        assert [variant.values["stages.sft.lr"] for variant in replaced] == [5, 5, 6, 6, 7, 7]

    @pytest.mark.parametrize(
        ("sweep", "message"),
        [
            ("stages.apoo.loss.use=dpo", "there is no stage 'apoo'; did you mean 'apo'?"),
            ("stagess.apo.loss.use=dpo", "only what lies under 'stages' or 'model' can; did you mean 'stages'?"),
            ("launcher.gpus=1,2", "only what lies under 'stages' or 'model' can"),
            ("stages=1", "is all of it"),
            ("stages.sft.lr", "write it as key.subkey=value,value"),
            ("stages.sft.lr=", "write it as key.subkey=value,value"),
            ("stages..lr=1", "write it as key.subkey=value,value"),
            ("stages.sft.lr=[1,2", "is a bracket or quote open?"),
            ("stages.sft.lr=1e-4,0.0001", "has the value 0.0001 twice"),
            (f"stages.sft.lr={','.join(map(str, range(1001)))}", "the sweep has 1,001 variants, 1,000 at most"),
        ],
    )
    def test_a_sweep_of_nothing_is_refused(
        self, variants: Callable[..., list[Variant]], sweep: str, message: str
    ) -> None:
        with pytest.raises(RecipeError) as caught:
            variants(sweep)
        assert len(caught.value.problems) == 1 and message in str(caught.value)

    def test_all_problems_at_once_with_places(self, variants: Callable[..., list[Variant]], tmp_path: Path) -> None:
        text = LOSS + "sweep:\n  stages.sft.lr: 3\n  stages..lr: [1]\n  stages.apo.x: []\n  launcher.gpus: [1]\n"
        with pytest.raises(RecipeError) as caught:
            variants("stages.sft.a=1", "stages.sft.a=2", "stages.sft.b=1,2", text=text, settings=("stages.sft.b=1",))
        found = [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
        assert found == [
            "recipe.yaml:3:3: 'stages.sft.lr' in 'sweep' must be a list of at least one value",
            "recipe.yaml:4:3: 'stages..lr' is no path of a value, such as stages.apo.loss.use",
            "recipe.yaml:5:3: 'stages.apo.x' in 'sweep' must be a list of at least one value",
            "--sweep stages.sft.a: 'stages.sft.a' is swept twice: give all its values at once, with commas",
            "recipe.yaml:6:3: 'launcher.gpus' cannot be swept: only what lies under 'stages' or 'model' can",
            "--sweep stages.sft.b: 'stages.sft.b' is both swept and set by --set: leave one of them out",
        ]
        with pytest.raises(RecipeError, match=r"recipe\.yaml:2:8: 'sweep' maps the path"):
            variants(text=LOSS + "sweep: 3\n")


class TestPlans:
    @pytest.fixture
    def registry(self, toy_plugin: None) -> Registry:
        return load_registry(("toy",))

    @pytest.fixture
    def plan(self, write_recipe: Write, registry: Registry) -> Callable[..., SweepPlan]:
        def plan(*sweeps: str, text: str = STAGES) -> SweepPlan:
            path = write_recipe(HEAD + text)
            return plan_variants(variants_of(compose(path), (), sweeps), path, registry.catalog, registry.manager.hook)

        return plan

    def test_equal_stages_are_one_shared_ones_first(self, plan: Callable[..., SweepPlan]) -> None:
        sweep = plan("stages.two.to=2,4")
        assert [swept.label for swept in sweep.stages] == [
            "one", "four", "two to=2", "three to=2", "two to=4", "three to=4",
        ]  # fmt: skip
        assert [swept.stage.name for swept in sweep.shared] == ["one", "four"]
        assert sweep.stages[0].variants == ("to=2", "to=4") and sweep.stages[2].variants == ("to=2",)
        assert sweep.stages[2].stage.digest == sweep.variants[0].plan.by_name["two"].digest

    def test_a_scope_is_what_the_variants_have_in_common(self, plan: Callable[..., SweepPlan]) -> None:
        sweep = plan("stages.two.to=2,4", "stages.three.to=1,2")
        labels = [swept.label for swept in sweep.stages]
        assert labels.count("two two.to=2") == 1 and "three two.to=2 three.to=1" in labels
        assert len(labels) == 2 + 2 + 4

    def test_the_problems_of_all_variants_are_told_at_once_with_their_names(
        self, plan: Callable[..., SweepPlan]
    ) -> None:
        with pytest.raises(RecipeError) as caught:
            plan("stages.two.to=0,1,x", "stages.three.too=1")
        assert {str(problem) for problem in caught.value.problems} == {
            "--sweep stages.two.to: variant 'to=0': 'to' must be at least 1, not 0",
            "--sweep stages.two.to: variant 'to=x': 'to' must be a whole number, not the text 'x'",
            "--sweep stages.three.too: unknown key 'too' in 'stages.three' (stage kind 'count'); did you mean 'to'?",
        }

    def test_variants_that_are_the_same_are_refused(self, plan: Callable[..., SweepPlan]) -> None:
        with pytest.raises(RecipeError, match="variants 'seconds=0' and 'seconds=1' would make the same artifacts"):
            plan("stages.two.seconds=0,1")


@pytest.mark.usefixtures("toy_plugin")
class TestRuns:
    def test_every_stage_runs_once_and_the_best_is_marked(
        self, write_recipe: Write, smolrecipe: Run, tmp_path: Path
    ) -> None:
        recipe = write_recipe(HEAD + STAGES)
        result = smolrecipe("run", recipe, "--sweep", "stages.two.to=2,4", check=0)
        assert result.stderr.count("one: starts") == 1 and result.stderr.count("four: starts") == 1
        assert "three to=4: starts" in result.stderr
        lines = [line.split() for line in result.stdout.splitlines()]
        assert lines == [
            ["stage", "measure", "before", "to=2", "to=4", "best", "is"],
            ["two", "number", "3", "5", "7", "*", "higher"],
            ["three", "number", "6", "8", "*", "higher"],
            ["2", "variants", "of", "6", "stages,", "2", "shared", "by", "all;", "6", "run", "now"],
        ]
        assert len(list((tmp_path / "runs/toy").glob("*-*/"))) == 6
        measures = json.loads((tmp_path / "runs/toy/measures.json").read_text())
        assert [(m["stage"], m["variants"], m["after"]) for m in measures] == [
            ("one", ["to=2", "to=4"], 3), ("four", ["to=2", "to=4"], 5),
            ("two", ["to=2"], 5), ("three", ["to=2"], 6), ("two", ["to=4"], 7), ("three", ["to=4"], 8),
        ]  # fmt: skip
        again = json.loads(smolrecipe("run", recipe, "--json", "--sweep", "stages.two.to=2,4,5", check=0).stdout)
        assert [[stage["ran"] for stage in variant["stages"]] for variant in again["variants"]] == [
            [False] * 4, [False] * 4, [False, False, True, True],
        ]  # fmt: skip
        # A variant is the recipe with that value: running it alone finds everything published.
        alone = json.loads(smolrecipe("run", recipe, "--json", "--set", "stages.two.to=5", check=0).stdout)
        assert not any(stage["ran"] for stage in alone["stages"])

    def test_a_variant_that_fails_stops_no_other(self, write_recipe: Write, smolrecipe: Run) -> None:
        recipe = write_recipe(HEAD + STAGES + "sweep: {stages.two.behave: [refuse, well, crash]}\n")
        result = smolrecipe("run", recipe, check=1)
        assert "2 of 3 variants failed: behave=refuse, behave=crash" in result.stderr
        table = [line.split("  ") for line in result.stdout.splitlines()]
        cells = [[cell.strip() for cell in line if cell.strip()] for line in table]
        assert ["two", "number", "3", "failed", "5", "failed", "higher"] in cells
        assert ["three", "number", "5", "not run", "6", "not run", "higher"] in cells
        assert "failed: two behave=refuse: stage 'two': this stage refuses" in result.stdout
        assert "not run: three behave=crash, which builds on two behave=crash" in result.stdout
        told = json.loads(smolrecipe("run", recipe, "--json", check=1).stdout)
        assert [variant["failed"] for variant in told["variants"]] == [True, False, True]
        assert told["variants"][0]["stages"][-1]["waits_for"] == "two behave=refuse"

    def test_nothing_runs_where_one_variant_is_wrong(
        self, write_recipe: Write, smolrecipe: Run, tmp_path: Path
    ) -> None:
        recipe = write_recipe(HEAD + STAGES)
        result = smolrecipe("run", recipe, "--sweep", "stages.two.to=1,0", check=2)
        assert "variant 'to=0': 'to' must be at least 1, not 0" in result.stderr
        devices = smolrecipe("run", recipe, "--sweep", "stages.two={device: cuda},{to: 3}", check=2)
        assert "variant 'two=(device=cuda)': stage 'two' asks for 1 GPUs" in devices.stderr
        assert not (tmp_path / "runs").exists()

    def test_plan_and_validate(self, write_recipe: Write, smolrecipe: Run) -> None:
        recipe = write_recipe(HEAD + STAGES)
        sweep = ("--sweep", "stages.three.to=1,2")
        smolrecipe("run", recipe, check=0)
        told = json.loads(smolrecipe("plan", recipe, *sweep, "--json", check=0).stdout)
        assert [(stage["stage"], stage["status"], stage["variants"]) for stage in told["stages"]] == [
            ("one", "published", ["to=1", "to=2"]),
            ("two", "published", ["to=1", "to=2"]),
            ("four", "published", ["to=1", "to=2"]),
            ("three", "published", ["to=1"]),
            ("three", "to run", ["to=2"]),
        ]
        text = smolrecipe("plan", recipe, *sweep, check=0).stdout
        assert "toy: 2 variants" in text and "5 stages instead of 8, 1 to run" in text and "all 2" in text
        assert "valid, 2 variants, 5 stages" in smolrecipe("validate", recipe, *sweep, check=0).stdout
        assert "--dry-run builds one recipe" in smolrecipe(
            "plan", recipe, *sweep, "--dry-run", check=2
        ).stderr  # fmt: skip


def measured(after: float, before: float | None = None, better: str = "higher", parents: str = "p") -> Cell:
    measure = {"name": "m", "after": after, "before": before, "better": better, "unit": ""}
    return Cell(measure=measure, parents={"parent": parents})


def texts(*cells: Cell) -> list[str]:
    return [text.rstrip() for text in Row(stage="s", name="m", cells=cells).texts()]


def test_the_best_of_a_row_is_what_its_measure_calls_better() -> None:
    assert texts(measured(1.0), measured(2.0)) == ["1", "2 *"]
    assert texts(measured(1.0, better="lower"), measured(2.0, better="lower")) == ["1 *", "2"]
    assert texts(measured(1.0), measured(1.00000001)) == ["1", "1"]
    assert texts(measured(2.0), measured(2.00000001), measured(1.0)) == ["2 *", "2 *", "1"]
    assert texts(measured(float("nan")), measured(2.0), measured(1.0), Cell(word="failed")) == [
        "nan",
        "2 *",
        "1",
        "failed",
    ]


def test_another_scale_is_not_compared() -> None:
    """One model that measures differently before the stage: the loss itself was swept."""
    row = Row(stage="s", name="m", cells=(measured(0.9, 1.0), measured(0.6, 0.69)))
    assert row.best_is == "not comparable" and texts(*row.cells) == ["0.9", "0.6"] and row.before == ""
    same = Row(stage="s", name="m", cells=(measured(0.9, 1.0), measured(0.6, 1.0)))
    assert same.best_is == "higher" and same.before == "1"
    # Different models before it may well measure differently.
    assert Row(stage="s", name="m", cells=(measured(0.9, 1.0), measured(0.6, 0.7, parents="q"))).comparable


def test_many_variants_stay_readable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names become numbers, then columns become rows, then the table is split; every line fits."""

    def shown(variants: int, measures: int, width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        columns = [
            {("apo", f"reward margin {m}"): measured(1000 * v + m, 0.5) for m in range(measures)}
            for v in range(variants)
        ]
        names = [f"loss.use=loss{v} lr={v}e-5" for v in range(variants)]
        print_side_by_side(names, rows_of(columns, [{}] * variants))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        numbers = " ".join(lines).split()
        assert all(str(1000 * v + m) in numbers for v in range(1, variants) for m in range(measures))
        return lines

    assert shown(2, 3, 100)[0].split()[3:5] == ["loss.use=loss0", "lr=0e-5"]
    numbered = shown(4, 3, 100)
    assert numbered[3] == "  (4) loss.use=loss3 lr=3e-5" and numbered[5].split()[3:7] == ["(1)", "(2)", "(3)", "(4)"]
    turned = shown(9, 3, 100)
    assert turned[2] == "  (3) apo: reward margin 2, before 0.5; best is higher"
    assert turned[-1].split() == ["loss.use=loss8", "lr=8e-5", "8000", "*", "8001", "*", "8002", "*"]
    split = shown(9, 9, 100)
    assert sum(line.startswith("stage") for line in split) == 2


def test_a_row_has_a_cell_for_every_column() -> None:
    (row,) = rows_of([{("s", "m"): measured(1.0)}, {}, {}], [{}, {"s": "failed"}, {}])
    assert [cell.word for cell in row.cells] == ["", "failed", ""]


def test_the_tiny_smollm3_shares_all_that_lies_before_the_loss(smolrecipe: Run) -> None:
    result = smolrecipe("plan", "smollm3-tiny", "--sweep", "stages.apo.loss.use=apo_zero,dpo", "--json", check=0)
    shared = {s["stage"] for s in json.loads(result.stdout)["stages"] if len(s["variants"]) == 2}
    apart = [s["stage"] for s in json.loads(result.stdout)["stages"] if s["variants"] == ["loss.use=dpo"]]
    assert apart == ["apo", "merge", "export", "evaluate"]
    assert {"tokenizer", "tokens", "pretrain-1", "long-context-64k", "mid-training", "sft"} <= shared
    assert not shared & set(apart)
    assert "variant 'loss.use=dpo': beta=0.05 of 'apo_zero' is not taken over by 'dpo'" in result.stderr
