"""Evaluation by lm-eval of models whose every answer is known beforehand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from answering_models import IDS, WORDS, chain, context, problems, samples, save, settings, texts
from transformers import AutoModelForCausalLM, AutoTokenizer, SmolLM3ForCausalLM

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_lm_eval import EvaluateOptions, run, smolrecipe_stages, verify
from smolrecipe_lm_eval.checks import check_options
from smolrecipe_lm_eval.options import GenerationOptions, PublishedOptions, RulerOptions
from smolrecipe_lm_eval.scores import results_by_task, scores_of

SPELLED = problems(("a", "one"), ("b", "two"), ("c", "three"), ("hm a", "one"))
GOOD = {"a": "one", "b": "two", "c": "four"}
POOR = {"a": "four", "b": "two", "c": "four"}


def test_scores_errors_and_measures_between_consecutive_models(tmp_path: Path) -> None:
    models = [chain(tmp_path, "sft", POOR), chain(tmp_path, "apo", GOOD)]
    options = EvaluateOptions(models=models, problems={"spelled": SPELLED}, batch_size=2)
    assert not list(check_options(options))
    artifact = run(options, context(tmp_path, "sft", "apo"))
    assert artifact.summary["scores"]["apo"]["spelled"] == {
        "metric": "exact_match",
        "score": 0.75,
        "stderr": pytest.approx(math.sqrt(0.75 * 0.25 / 3)),  # of four samples, by the sample variance
        "samples": 4,
    }
    (measure,) = artifact.measures
    assert (measure.name, measure.before, measure.after) == ("spelled: sft -> apo", 0.25, 0.75)
    assert (measure.samples, measure.better) == (4, "higher")
    written = json.loads((tmp_path / "evaluate.partial" / "results.json").read_text())
    assert written["scores"]["sft"]["spelled"]["score"] == 0.25
    assert [sample["right"] for sample in samples(tmp_path, "apo")] == [True, True, False, True]
    assert samples(tmp_path, "apo")[3]["prompt"] == "hm a"


def test_models_that_are_no_pipeline_are_scored_and_not_compared(tmp_path: Path) -> None:
    models = [chain(tmp_path, "one", POOR), chain(tmp_path, "other", GOOD)]
    options = EvaluateOptions(models=models, problems={"spelled": SPELLED}, compare=False)
    artifact = run(options, context(tmp_path, "one", "other"))
    assert artifact.measures == ()
    assert [artifact.summary["scores"][name]["spelled"]["score"] for name in ("one", "other")] == [0.25, 0.75]


def test_one_model_alone_is_measured_as_it_is(tmp_path: Path) -> None:
    options = EvaluateOptions(models=[chain(tmp_path, "apo", GOOD)], problems={"spelled": SPELLED}, limit=2)
    (measure,) = run(options, context(tmp_path, "apo")).measures
    assert (measure.name, measure.before, measure.after, measure.samples) == ("spelled: apo", None, 1.0, 2)


def test_the_answer_is_what_follows_the_reasoning_in_the_row_s_own_mode(tmp_path: Path) -> None:
    """After 'think' the model reasons 'four' and answers 'one'; after 'd' it answers at once."""
    model = chain(tmp_path, "apo", {"think": "four", "four": "</think>", "</think>": "one", "d": "two", "a": "three"})
    rows = problems(
        ("a", "one", {"enable_thinking": True}),
        ("a", "four", {"enable_thinking": True}),
        ("a", "two", {"enable_thinking": False}),
        ("a", "three", {"enable_thinking": None}),
    )
    run(EvaluateOptions(models=[model], problems={"modes": rows}), context(tmp_path, "apo"))
    found = samples(tmp_path, "apo")
    assert [sample["prompt"] for sample in found] == ["a think", "a think", "a d", "a"]
    assert [sample["given"] for sample in found] == ["one", "one", "two", "three"]
    assert [sample["right"] for sample in found] == [True, False, True, True]


def test_a_reasoning_that_does_not_end_in_time_is_wrong(tmp_path: Path) -> None:
    model = chain(tmp_path, "apo", {"a": "hm", "hm": "hm"})
    options = EvaluateOptions(models=[model], problems={"p": problems(("a", "one"))}, max_new_tokens=5)
    run(options, context(tmp_path, "apo"))
    assert samples(tmp_path, "apo")[0]["given"] == "hm" * 5


def test_batched_answers_are_those_of_plain_greedy_generation_one_by_one(tmp_path: Path) -> None:
    """Prompts of unequal length share a batch, padded on the left; a random model depends on every token."""
    torch.manual_seed(3)
    model = SmolLM3ForCausalLM(settings(32, initializer_range=0.5))
    stage = save(tmp_path, "random", model)
    generator = torch.Generator().manual_seed(0)
    texts = [
        " ".join(WORDS[3 + int(torch.randint(10, (), generator=generator))] for _ in range(1 + number % 7))
        for number in range(20)
    ]
    options = EvaluateOptions(
        models=[stage], problems={"p": problems(*((text, "one") for text in texts))}, batch_size=8, max_new_tokens=6
    )
    run(options, context(tmp_path, "random"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "random" / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "random" / "model").eval()
    for text, sample in zip(texts, samples(tmp_path, "random"), strict=True):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        for _ in range(6):
            with torch.inference_mode():
                ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == IDS["<eos>"]:
                break
        new = ids[len(text.split()) :]
        answer = new[len(new) - new[::-1].index(2) :] if 2 in new else new
        assert sample["given"] == tokenizer.decode(answer, skip_special_tokens=True).strip(), text
    assert len({sample["given"] for sample in samples(tmp_path, "random")}) > 3, "the answers should differ"


def test_new_weights_under_an_old_name_get_scores_of_their_own(tmp_path: Path) -> None:
    """The same path, names, options and process, and nothing is left in the model's folder that a cache could be."""
    options = EvaluateOptions(
        models=[StageRef("apo")], problems={"spelled": SPELLED}, texts={"words": texts("a one", "b two c")}
    )
    found = []
    for number, follow in enumerate((POOR, GOOD)):
        chain(tmp_path, "apo", follow)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "apo").rglob("*")}
        artifact = run(options, context(tmp_path, "apo"))
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "apo").rglob("*")} == before
        found.append({task: score["score"] for task, score in artifact.summary["scores"]["apo"].items()})
        (tmp_path / "evaluate.partial").rename(tmp_path / f"evaluate-{number}")
    assert [scores["spelled"] for scores in found] == [0.25, 0.75]
    assert found[0]["words, per byte"] > found[1]["words, per byte"] + 0.1


def test_published_scores_stand_beside_ours_and_what_was_not_measured_is_said(tmp_path: Path) -> None:
    told = PublishedOptions(row="Spelling", source="a card", note="4-shot", percent={"SmolLM3-3B": 61.03, "Other": 7.5})
    published = {"spelled": told, "speling": told}
    options = EvaluateOptions(models=[chain(tmp_path, "apo", GOOD)], problems={"spelled": SPELLED}, published=published)
    said: list[str] = []
    artifact = run(options, context(tmp_path, "apo", said=said))
    assert artifact.summary["published"]["spelled"] == {
        "row": "Spelling",
        "source": "a card",
        "note": "4-shot",
        "scores": {"SmolLM3-3B": 0.6103, "Other": 0.075},
    }
    written = json.loads((tmp_path / "evaluate.partial" / "results.json").read_text())
    assert written["published"] == artifact.summary["published"]
    assert "'published' has scores for what was not measured: speling" in said


def test_an_interrupted_evaluation_goes_on_with_the_next_model(tmp_path: Path) -> None:
    models = [chain(tmp_path, "sft", POOR), chain(tmp_path, "apo", GOOD)]
    problem_sources = {"spelled": SPELLED}
    first = EvaluateOptions(models=models[:1], problems=problem_sources)
    run(first, context(tmp_path, "sft"))
    (tmp_path / "sft" / "model" / "model.safetensors").unlink()  # it is not needed again
    said: list[str] = []
    artifact = run(EvaluateOptions(models=models, problems=problem_sources), context(tmp_path, "sft", "apo", said=said))
    assert any("sft: evaluated before the interruption" in line for line in said)
    assert artifact.measures[0].before == 0.25


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({"template": None}, {}, "the model of 'apo' has no chat template"),
        ({}, {"max_new_tokens": 127}, "'apo' takes 128 tokens, but 'p' has prompts of 2 and 'max_new_tokens' is 127"),
        ({}, {"problems": {"p": problems()}}, r"source 'p' \(rows\) has no problems"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    tmp_path: Path, model: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    chain(tmp_path, "apo", GOOD, **model)
    asked = {"models": [StageRef("apo")], "problems": {"p": problems(("a b", "two"))}, **options}
    with pytest.raises(StageError, match=message):
        run(EvaluateOptions(**asked), context(tmp_path, "apo"))


def test_an_unknown_task_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no task 'helaswag'; did you mean 'hellaswag'"):
        run(EvaluateOptions(models=[StageRef("nowhere")], tasks=["helaswag"]), context(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "'models' is empty"),
        ({"models": [StageRef("a"), StageRef("a")]}, "'models' names 'a' more than once"),
        ({"problems": {}}, "nothing to evaluate with"),
        ({"tasks": ["p"]}, "'p' is both under 'problems' and under 'tasks'"),
        ({"problems": {"p": problems(yields="chat")}}, r"source 'p' (rows) yields chat rows"),
        ({"texts": {"t": texts(yields="chat")}}, "yields chat rows, but 'texts' needs text rows"),
        ({"ruler": RulerOptions(lengths=[])}, "'ruler.lengths' is empty"),
        ({"ruler": RulerOptions(lengths=[64, 0, 64])}, "'ruler.lengths': 0 is no number of tokens"),
        ({"ruler": RulerOptions(lengths=[64, 64])}, "'ruler.lengths' names '64' more than once"),
        ({"ruler": RulerOptions(lengths=[64], tasks=["vt", "niah_single_2"])}, "niah_single_2 of RULER fetch essays"),
        ({"ruler": RulerOptions(lengths=[64], tasks=[])}, "'ruler.tasks' is empty"),
        ({"enable_thinking": True}, "'apply_chat_template' is not set"),
        ({"generation": GenerationOptions(top_p=0.5)}, "'tasks' has none: it would have no effect"),
    ],
)
def test_what_is_wrong_with_the_options_is_said_before_anything_runs(options: dict[str, Any], message: str) -> None:
    asked = {"models": [StageRef("a")], "problems": {"p": SPELLED}, **options}
    assert any(message in problem for problem in check_options(EvaluateOptions(**asked)))


def test_groups_stand_for_their_tasks_and_every_task_has_one_score() -> None:
    """The shapes are lm-eval 0.4.13's: a group that aggregates, one task of its own, a perplexity."""
    output = {
        "results": {
            "mmlu": {"alias": "mmlu", "acc,none": 0.5, "acc_stderr,none": 0.01},
            "mmlu_law": {"alias": " - law", "acc,none": 0.4, "acc_stderr,none": 0.02},
            "mmlu_art": {"alias": " - art", "acc,none": 0.6, "acc_stderr,none": 0.02},
            "piqa": {"alias": "piqa", "acc,none": 0.7, "acc_stderr,none": 0.03, "acc_norm,none": 0.8},
            "wikitext": {"alias": "wikitext", "word_perplexity,none": 20.0, "word_perplexity_stderr,none": "N/A"},
        },
        "groups": {"mmlu": {}},
        "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"]},
        "higher_is_better": {"mmlu": {"acc": True}, "wikitext": {"word_perplexity": False}},
        "n-samples": {name: {"original": 9, "effective": 4} for name in ("mmlu_law", "mmlu_art", "piqa", "wikitext")},
    }
    scores = scores_of(results_by_task(output))
    assert set(scores) == {"mmlu", "piqa", "wikitext"}
    assert (scores["mmlu"].value, scores["mmlu"].samples, scores["mmlu"].stderr) == (0.5, 8, 0.01)
    assert (scores["piqa"].metric, scores["piqa"].value) == ("acc_norm", 0.8)
    assert (scores["wikitext"].better, scores["wikitext"].stderr) == ("lower", None)


def test_essays_may_be_fetched_where_downloads_are_allowed() -> None:
    ruler = RulerOptions(lengths=[64], tasks=["niah_single_2"])
    assert not list(check_options(EvaluateOptions(models=[StageRef("a")], ruler=ruler, download=True)))


def test_settings_of_sampling_are_lm_eval_s() -> None:
    assert GenerationOptions().arguments == {}
    assert GenerationOptions(max_new_tokens=9).arguments == {"max_gen_toks": 9}
    assert GenerationOptions(temperature=0.6, top_p=0.95, max_new_tokens=32768).arguments == {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_gen_toks": 32768,
    }


def test_the_stage_is_offered() -> None:
    (kind,) = smolrecipe_stages()
    assert kind.name == "evaluate"
    assert kind.devices(EvaluateOptions(models=[], device="cuda")).device == "cuda"


def evaluated(root: Path) -> tuple[EvaluateOptions, StageContext]:
    chain(root, "good", GOOD)
    chain(root, "poor", POOR)
    options = EvaluateOptions(models=[StageRef("good"), StageRef("poor")], problems={"words": SPELLED})
    run(options, context(root, "good", "poor"))
    return options, context(root, "good", "poor")


def test_verify_finds_scores_and_answers_right(tmp_path: Path) -> None:
    proofs = list(verify(*evaluated(tmp_path)))
    assert [proof.claim.partition(" (")[0] for proof in proofs] == [
        "scores follow from the answers",
        "answers are the model's own",
    ] * 2
    assert all(proof.holds for proof in proofs), proofs


def test_verify_finds_a_score_that_its_answers_do_not_give(tmp_path: Path) -> None:
    options, where = evaluated(tmp_path)
    file = where.folder / "results.json"
    results = json.loads(file.read_text())
    results["scores"]["poor"]["words"]["score"] = 0.75
    file.write_text(json.dumps(results))
    (wrong,) = [proof for proof in verify(options, where) if not proof.holds]
    assert wrong.claim == "scores follow from the answers (poor)"
    assert wrong.note == "'words': score is 0.75, and 0.25 of the published samples"


def test_verify_finds_answers_of_another_model(tmp_path: Path) -> None:
    """The published answers of a good model beside a poor one's weights, as a stale cache would leave them."""
    options, where = evaluated(tmp_path)
    shutil.rmtree(tmp_path / "good")
    shutil.copytree(tmp_path / "poor", tmp_path / "good")
    (wrong,) = [proof for proof in verify(options, where) if not proof.holds]
    assert wrong.claim == "answers are the model's own (good)" and "published 'one'" in wrong.note
