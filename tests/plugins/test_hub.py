"""The model card: what it says of a run, that its code runs, and that nothing in a record breaks it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_runs import Run, pretrain, save_model
from huggingface_hub import ModelCard

from smolrecipe import RecipeError
from smolrecipe_hub.card import Asked, write_card
from smolrecipe_hub.lineage import find_model, trace
from smolrecipe_hub.markdown import code, text

pytest_plugins = ["hub_fixtures"]
"""Where the fixtures come from."""

Smolrecipe = Callable[..., subprocess.CompletedProcess[str]]
SOURCES = frozenset({"hf_dataset", "files"})


def card_of(folder: Path, stage: str | None = None, **asked: Any) -> str:
    return write_card(trace(find_model(folder, stage)[0]), Asked(known_sources=SOURCES, **asked))


def rows(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, its own headings left out."""
    lines = card.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]


def test_the_card_tells_how_the_model_was_made(run: Run) -> None:
    card = card_of(run.folder)
    stages = {row[0].strip("`"): row for row in rows(card, "How it was made")}
    assert list(stages) == ["tokens", "pretrain-1", "pretrain-2", "long", "apo", "export"]
    assert stages["pretrain-1"][3:7] == ["40", "20,480", "64", "50,000"]
    assert stages["apo"][3:6] == ["30", "100 pairs", "64"] and stages["tokens"][3:7] == ["", "", "", ""]
    assert stages["export"][7] == f"`{run.digests['export'][:12]}`"
    assert "loss `apo_zero` (beta 0.05)" in card and run.digests["export"] in card and "c" * 40 in card
    assert card.count("model `rope`") == 1, "a model that a later stage does not change is told once"


def test_a_checkpoint_on_the_way_is_told_as_such(tmp_path: Path, model: Path) -> None:
    run = Run(tmp_path)
    run.add("base", pretrain(64), model=model, checkpoints=("step-2",), summary={"steps": 4, "tokens": 2048})
    run.add("export", {"use": "export", "from": "base@step-2"}, parents=("base",), model=model)
    card = card_of(run.folder)
    assert "trained on at most 2,048 tokens" in card and rows(card, "How it was made")[1][2] == r"base\@step\-2"
    assert "trained on at most" in card_of(run.folder, "base", checkpoint="step 2")
    assert "trained on 2,048 tokens" in card_of(run.folder, "base")


def test_every_source_of_every_stage_has_its_licence_or_says_that_none_is_stated(run: Run) -> None:
    card = card_of(run.folder)
    found = {(row[0], row[3]): row for row in rows(card, "Data")}
    assert list(found) == [("web", "`tokens`, sources"), ("mine", "`tokens`, sources"), ("a", "`apo`, data")]
    web, mine, pairs = found.values()
    assert web[1] == "[org/web](https://huggingface.co/datasets/org/web), config en" and web[2] == "odc-by"
    assert mine[2] == "not stated by the recipe" and pairs[2] == "mit"
    assert web[4] == "`pretrain-1` 75.0%, `pretrain-2` 75.0%, `long` 75.0%"
    assert "somebody" not in card and mine[1] == "files: mine.jsonl", "where files lay is nobody's business"
    assert "states no licence of 1 of the 3 sources" in card
    assert ModelCard(card).data.datasets == ["org/web"]


def test_scores_carry_error_and_samples_and_stand_beside_what_is_published(run: Run) -> None:
    card = card_of(run.folder)
    (hellaswag, sums) = rows(card, "Scores")[:2]
    assert hellaswag[2:4] == ["0.2500 ± 0.0100", "1,000"] and hellaswag[4].startswith("0.7615 (base")
    assert sums[2:] == ["0.5000", "120", "not published"]
    assert "| `pretrain-1` | held-out loss | 8.0000 | 5.0000 | nats/token | 16 |" in card
    results = ModelCard(card).data.eval_results
    assert [(result.dataset_name, result.metric_value) for result in results] == [("hellaswag", 0.25), ("sums", 0.5)]


def test_a_score_of_other_weights_is_not_this_model_s(run: Run, model: Path) -> None:
    """Another export of the same name was made since, and nobody has evaluated that one."""
    newer = run.add(
        "export", {"use": "export", "from": "apo", "dtype": "x"}, parents=("apo",), model=model, started="2026-11-27"
    )
    target, notes = find_model(run.folder, None)
    assert target.folder == newer and notes == [f"2 artifacts of stage 'export': taking the newest, {newer.name}"]
    card = card_of(run.folder)
    assert "No evaluation of this model is in the run." in card and "It was not evaluated." in card


def test_the_header_is_what_the_hub_reads(run: Run) -> None:
    data = ModelCard(card_of(run.folder, licence="apache-2.0")).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert data.tags == ["smolrecipe", "smollm3", "recipe-toy"]
    without = card_of(run.folder)
    assert ModelCard(without).data.license is None and "The recipe states none for the weights." in without


@pytest.mark.parametrize("template", [True, False])
def test_the_code_of_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: bool) -> None:
    save_model(tmp_path / "saved", template=template)
    run = Run(tmp_path)
    folder = run.add("export", {"use": "export"}, model=tmp_path / "saved")
    (block,) = re.findall(r"```python\n(.*?)```", card_of(run.folder), re.DOTALL)
    assert ("enable_thinking=False" in block) == template
    monkeypatch.chdir(folder / "model")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), {})
    assert printed.getvalue().strip(), "the model writes something"


def test_the_exported_folder_serves_a_conversation_through_a_pipeline(model: Path) -> None:
    from transformers import pipeline

    generate = pipeline("text-generation", str(model))
    (answer,) = generate([{"role": "user", "content": "What is three plus four ?"}], max_new_tokens=4, do_sample=False)
    assert answer["generated_text"][-1]["role"] == "assistant" and answer["generated_text"][-1]["content"]


HOSTILE = (
    "a|b",
    "<script>alert(1)</script>",
    "](https://evil.example) [x",
    "![x](http://evil.example/x.png)",
    "`` `code`",
    "---\nlicense: mit\n---",
    "# heading",
    "https://evil.example www.evil.example",
    "@everyone",
    "\x1b[31mred\u202e",
    "&lt;b&gt;",
    "x" * 5000,
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_strangers_are_words_and_nothing_else(tmp_path: Path, model: Path, name: str) -> None:
    run = Run(tmp_path, recipe="toy")
    source = {"use": name, "id": name, "license": name, "paths": name, name: name}
    options = {"use": name, "data": {name: source}, "max_length": 8, "optimizer": {"use": name, "lr": name}}
    measure = {"name": name, "before": None, "after": 1.0, "better": "lower", "unit": name, "samples": 3}
    run.add(
        "sft", options, model=model, recipe=name, measures=[measure], summary={"steps": name},
        host={"cpu": name, "gpus": [name]}, packages={"torch": name}, git={"commit": name}, smolrecipe={"source": name},
    )  # fmt: skip
    run.add("export", {"use": "export", name: name}, parents=("sft",), model=model, recipe=name)
    told = {"metric": name, "score": 0.5, "stderr": name, "samples": name}
    run.add("evaluate", {"use": name}, parents=("export",), recipe=name, summary={"scores": {"export": {name: told}}})
    card = card_of(run.folder)
    header, body = card.split("\n---\n", 1)
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "image", "link_open"}, kinds
    headings = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == [
        "Use", "Model", "How it was made", "Data", "Scores", "Limits", "Licence", "Provenance",
    ]  # fmt: skip
    assert not re.search(r"(?<!\\)@everyone|https?://evil|www\.evil", body)
    assert "\x1b" not in card and "\u202e" not in card
    cells = [token for token in tokens if token.type == "td_open"]
    assert len(cells) == 8 * 2 + 5 * 1 + 4 * 1 + 6 * 1, "no table has a row or a cell more"
    assert ModelCard(card).data.license is None and header.startswith("---\nlibrary_name: transformers")


def test_plain_words_stay_as_they_are() -> None:
    assert text("held-out loss (think)") == "held-out loss (think)" and text("num_layers 4") == r"num\_layers 4"
    assert code("smollm3-tiny") == "`smollm3-tiny`" and code("a`b") == r"a\`b" and code("../x") == "../x"


def test_what_was_deleted_since_is_said(run: Run) -> None:
    import shutil

    (tokens,) = run.folder.glob("tokens-*")
    shutil.rmtree(tokens)
    card = card_of(run.folder)
    assert f"tokens ({run.digests['tokens'][:12]}) is no longer in the run store".replace("(", r"\(") in card.replace(
        "tokens (", r"tokens \("
    )


def test_records_that_name_each_other_end(tmp_path: Path, model: Path) -> None:
    run = Run(tmp_path)
    run.digests["two"] = "2" * 64
    one = run.add("one", {"use": "export"}, parents=("two",), model=model)
    two = run.folder / f"two-{'2' * 12}"
    two.mkdir()
    record = json.loads((one / "stage.json").read_text())
    record |= {"stage": "two", "digest": "2" * 64, "parents": {"one": record["digest"]}}
    (two / "stage.json").write_text(json.dumps(record))
    run.seal(two)
    assert {found.stage for found in trace(find_model(one, None)[0]).stages} == {"one", "two"}


def test_a_choice_that_is_not_clear_is_refused(run: Run, tmp_path: Path, model: Path) -> None:
    def refusal(folder: Path, stage: str | None = None) -> str:
        with pytest.raises(RecipeError) as caught:
            find_model(folder, stage)
        return str(caught.value)

    assert "no published model of stage 'exprt'; did you mean 'export'?" in refusal(run.folder, "exprt")
    assert "no published model of stage 'tokens'" in refusal(run.folder, "tokens")
    assert "there is no folder" in refusal(tmp_path / "nowhere")
    assert "neither a run nor an artifact" in refusal(model)
    (export,) = run.folder.glob("export-*")
    assert "leave out --stage" in refusal(export, "apo")
    half = export.rename(export.with_suffix(".partial"))
    assert "has not finished" in refusal(half)
    assert "has exported no model: choose with --stage among apo, long, pretrain-1, pretrain-2" in refusal(run.folder)


def test_the_command_prints_or_writes_the_card_and_leaves_the_artifact_whole(
    run: Run, smolrecipe: Smolrecipe, tmp_path: Path
) -> None:
    printed = smolrecipe("card", run.folder, check=0).stdout
    assert printed.startswith("---\ndatasets:\n- org/web\nlibrary_name: transformers\n") and "## Limits" in printed
    written = smolrecipe("card", run.folder, "--stage", "apo", "-o", "README.md", check=0)
    assert written.stdout == "" and "# toy, apo" in (tmp_path / "README.md").read_text()
    (export,) = run.folder.glob("export-*")
    from smolrecipe.running.manifest import damages

    assert damages(export) == []
    assert "is no identifier" in smolrecipe("card", run.folder, "--license", "My Licence", check=2).stderr
    assert "cannot be written" in smolrecipe("card", run.folder, "-o", "no/such/README.md", check=1).stderr


def test_no_secret_of_the_environment_gets_into_a_card(
    run: Run, model: Path, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.add("other", {**pretrain(8), "seed": "sk-0123456789abcdef"}, model=model)
    monkeypatch.setenv("WANDB_API_KEY", "sk-0123456789abcdef")
    card = smolrecipe("card", run.folder, "--stage", "other", check=0).stdout
    assert "0123456789abcdef" not in card


def test_help_imports_no_library_of_the_hub(smolrecipe: Smolrecipe) -> None:
    code = (
        "import sys, smolrecipe_hub.commands\n"
        "print([name for name in ('huggingface_hub', 'httpx') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert "  smolrecipe card runs/" in smolrecipe("card", "--help", check=0).stdout
