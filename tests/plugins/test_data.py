"""The data plugin's light side, its sources over files and the Hub, and what it refuses before a run."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pluggy
import pyarrow
import pyarrow.parquet
import pytest
from attrs import frozen

import smolrecipe_data
from smolrecipe import Artifact, Launcher, Packer, StageError, StageKind, Use, hookspecs, option
from smolrecipe.catalog import Catalog, Provider
from smolrecipe.errors import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.converter import make_converter
from smolrecipe.recipe.structure import structure
from smolrecipe_data.options import PretrainedTokenizerOptions, TokenizeOptions, TrainTokenizerOptions

SOURCES = {source.name: source for source in smolrecipe_data.smolrecipe_sources()}
STAGES = {stage.name: stage for stage in smolrecipe_data.smolrecipe_stages()}
(MIXTURE,) = smolrecipe_data.smolrecipe_packers()

HEAVY = ("datasets", "datatrove", "httpx", "num2words", "numpy", "pyarrow", "tokenizers", "torch", "transformers")


def use(name, **options):
    return Use(SOURCES[name], SOURCES[name].options(**options))


def read(name, **options):
    source = SOURCES[name]
    return list(source.read(source.options(**options)))


def problems(component, **options):
    return list(component.check(component.options(**options)))


def missing(component, **options):
    return list(component.missing(component.options(**options)))


def test_importing_the_plugin_imports_no_engine():
    code = f"import sys, smolrecipe_data; print(*[m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_its_names():
    assert sorted(SOURCES) == ["arithmetic", "files", "hf_dataset", "python_code", "python_docs"]
    assert sorted(STAGES) == ["pretrained_tokenizer", "tokenize", "train_tokenizer"]
    assert MIXTURE.name == "mixture"


# Local files


@pytest.fixture
def data(tmp_path):
    rows = [{"text": f"row {number}", "other": number} for number in range(5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "from jsonl"}\n\n{"text": "zwölf"}\n', encoding="utf-8")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write('{"text": "zipped"}\n')
    (tmp_path / "d.txt").write_text("one whole\ndocument\n")
    return tmp_path


def test_files_are_read_in_the_order_given_and_globs_by_name(data):
    texts = [row["text"] for row in read("files", paths=[data / "d.txt", data / "*.jsonl*", data / "a.parquet"])]
    assert texts == ["one whole\ndocument\n", "from jsonl", "zwölf", "zipped", *(f"row {n}" for n in range(5))]
    assert len(read("files", paths=[data / "*"], rows=6)) == 6
    assert [row["text"] for row in read("files", paths=[data / "*"], rows=6)][4:] == ["row 4", "from jsonl"]


def test_a_fingerprint_is_that_of_the_content_wherever_it_lies(data, tmp_path_factory):
    files = SOURCES["files"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "renamed.txt").write_bytes((data / "d.txt").read_bytes())
    first = files.fingerprint(files.options(paths=[data / "d.txt"]))
    assert files.fingerprint(files.options(paths=[elsewhere / "renamed.txt"])) == first
    (elsewhere / "renamed.txt").write_text("another\ndocument!\n")
    assert files.fingerprint(files.options(paths=[elsewhere / "renamed.txt"])) != first
    both = [data / "d.txt", data / "b.jsonl"]
    assert files.fingerprint(files.options(paths=both)) != files.fingerprint(files.options(paths=both[::-1]))


@pytest.mark.parametrize("path", ["/**/*.jsonl", "/tmp/../**", "/**"])
def test_a_glob_of_the_whole_machine_is_refused_and_not_followed(path, monkeypatch):
    files = SOURCES["files"]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: pytest.fail("the file system was walked"))
    options = files.options(paths=[Path(path)])
    assert list(files.check(options)) == [
        f"{path} names files of the whole machine: begin it with the folder that they lie in"
    ]
    assert list(files.missing(options)) == [f"no file at {path}"]
    files.fingerprint(options)


def test_files_that_cannot_be_read_are_refused_in_sentences(data):
    files = SOURCES["files"]
    (data / "e.csv").write_text("a,b\n")
    assert missing(files, paths=[data / "none.txt"]) == [f"no file at {data / 'none.txt'}"]
    assert missing(files, paths=[data / "*.json"]) == [f"no file at {data / '*.json'}"]
    assert missing(files, paths=[data / "*.parquet", data / "*.txt"]) == []
    with pytest.raises(StageError, match=r"no file at .*none\.txt"):
        read("files", paths=[data / "none.txt"])
    assert "formats are .parquet, .jsonl" in problems(files, paths=[data / "e.csv"])[0]
    assert "only yield text rows" in problems(files, paths=[data / "d.txt"], yields="chat")[0]
    assert (
        "names the field 'txt'; text rows have text"
        in problems(files, paths=[data / "b.jsonl"], columns={"txt": "a"})[0]
    )
    assert problems(files, paths=[data / "*.parquet", data / "*.txt"]) == []
    with pytest.raises(
        StageError, match=r"no column 'body' for the field 'text' of text rows; its columns are other, text"
    ):
        read("files", paths=[data / "a.parquet"], columns={"text": "body"})
    (data / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(StageError, match=r"bad\.jsonl:2: not JSON: Expecting value at character 10 of the line"):
        read("files", paths=[data / "bad.jsonl"])
    (data / "bad.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(StageError, match=r"bad\.parquet is not a Parquet file"):
        read("files", paths=[data / "bad.parquet"])


# Rows of all shapes


@pytest.fixture
def jsonl(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


USER = {"role": "user", "content": "2 + 2?"}
RIGHT, WRONG = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}


def test_nulls_that_arrow_fills_in_mean_nothing(jsonl):
    path = jsonl(
        {"messages": [{**USER, "tool_calls": None}, RIGHT], "chat_template_kwargs": {"enable_thinking": None, "x": 1}},
        {"messages": [USER, RIGHT], "chat_template_kwargs": None},
    )
    assert read("files", paths=[path], yields="chat") == [
        {"messages": [USER, RIGHT], "chat_template_kwargs": {"x": 1}},
        {"messages": [USER, RIGHT]},
    ]


def test_preference_pairs_are_written_in_three_ways(jsonl):
    pair = {"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]}
    three = read("files", paths=[jsonl(pair)], yields="preference")
    whole = read(
        "files",
        paths=[jsonl({"prompt": "2 + 2?", "chosen": [USER, RIGHT], "rejected": [USER, WRONG]})],
        yields="preference",
    )
    plain = read("files", paths=[jsonl({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})], yields="preference")
    assert three == whole == plain == [pair]
    for row, message in (
        ({"chosen": [USER, RIGHT], "rejected": [WRONG]}, "there is no prompt"),
        ({"chosen": [USER, RIGHT], "rejected": [USER, RIGHT]}, "nothing is left"),
        ({"prompt": [USER], "chosen": [{"role": "assistant"}], "rejected": [WRONG]}, "lacks a 'role' or a 'content'"),
    ):
        with pytest.raises(StageError, match=rf"rows\.jsonl:1: .*{message}"):
            read("files", paths=[jsonl(row)], yields="preference")


# The Hugging Face Hub


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_a_fraction_is_that_of_alignment_handbook(datasets, data):
    """Against the three lines of alignment-handbook's src/alignment/data.py."""
    folder = data / "folder"
    folder.mkdir()
    table = pyarrow.Table.from_pylist([{"content": f"text {number}"} for number in range(37)])
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    options = {"id": str(folder), "columns": {"text": "content"}}
    whole = datasets.load_dataset(str(folder), split="train")
    expected = whole.shuffle(seed=7).select(range(int(len(whole) * 0.3)))
    assert [row["text"] for row in read("hf_dataset", fraction=0.3, seed=7, **options)] == expected["content"][:]
    assert [row["text"] for row in read("hf_dataset", **options)] == whole["content"][:]
    assert len(read("hf_dataset", streaming=True, rows=5, **options)) == 5


def test_a_folder_of_json_lines_and_its_splits(datasets, data):
    folder = data / "chats"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"messages": [USER, RIGHT]}) + "\n")
    (folder / "test.jsonl").write_text(json.dumps({"messages": [USER, WRONG]}) + "\n")
    assert read("hf_dataset", id=str(folder), yields="chat", split="test") == [{"messages": [USER, WRONG]}]
    with pytest.raises(StageError, match=r"split 'validation' could not be loaded: .*validation"):
        read("hf_dataset", id=str(folder), yields="chat", split="validation")
    with pytest.raises(StageError, match="could not be loaded: Couldn't find any data file"):
        read("hf_dataset", id=str(data / "nowhere"))
    assert (
        "'fraction' needs the number of rows"
        in problems(SOURCES["hf_dataset"], id="a", streaming=True, fraction=0.5)[0]
    )


def test_an_unreachable_hub_is_one_sentence_with_a_remedy(tmp_path):
    """In a process of its own: the libraries read their environment when they are imported."""
    code = """
import sys
from pathlib import Path
import smolrecipe_data
from smolrecipe import StageContext, StageError
sources = {source.name: source for source in smolrecipe_data.smolrecipe_sources()}
stages = {stage.name: stage for stage in smolrecipe_data.smolrecipe_stages()}
hub, tokenizer = sources["hf_dataset"], stages["pretrained_tokenizer"]
context = StageContext(recipe="r", stage="s", folder=Path(sys.argv[1]))
for attempt in (
    lambda: list(hub.read(hub.options(id="HuggingFaceTB/smoltalk2", config="SFT"))),
    lambda: list(hub.read(hub.options(id="HuggingFaceTB/smoltalk2", config="SFT", streaming=True))),
    lambda: tokenizer.run(tokenizer.options(id="HuggingFaceTB/SmolLM3-3B"), context),
):
    try:
        attempt()
    except StageError as error:
        print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    sentences = result.stdout.strip().splitlines()
    assert len(sentences) == 3
    for sentence in sentences[:2]:
        assert sentence.startswith("data set 'HuggingFaceTB/smoltalk2', configuration 'SFT', split 'train' is not on")
        assert "could not be reached" in sentence and "'use: files'" in sentence
    assert "'HuggingFaceTB/SmolLM3-3B'" in sentences[2] and "local tokenizer.json as 'file'" in sentences[2]


# Python's own text


def test_pythons_text_is_real_and_always_the_same():
    docs = [row["text"] for row in read("python_docs", packages=["pluggy"])]
    code = [row["text"] for row in read("python_code")]
    assert docs[:120] == [row["text"] for row in read("python_docs", packages=["pluggy"], rows=120)]
    assert code[:100] == [row["text"] for row in read("python_code", rows=100)]
    # Some megabytes on every supported Python: the language reference alone has 0.4, the library's source 10.
    assert sum(map(len, docs)) > 1_500_000 and sum(map(len, code)) > 8_000_000
    assert any("Private name mangling" in text for text in docs)
    assert any("HookspecMarker" in text for text in docs)
    assert sum("class OrderedDict(dict):" in text for text in code) == 1
    assert not any("import unittest\nfrom test import support" in text for text in code)
    assert min(map(len, docs + code)) >= 200
    assert [row["text"] for row in read("python_code", rows=3)] == code[:3]


def test_pythons_text_is_identified_by_versions():
    docs = SOURCES["python_docs"]
    fingerprint = docs.fingerprint(docs.options(packages=["pluggy"]))
    assert sys.version in fingerprint and f"pluggy {pluggy.__version__}" in fingerprint
    assert sys.version in SOURCES["python_code"].fingerprint(SOURCES["python_code"].options())
    assert missing(docs, packages=["no-such-package"]) == [
        "package 'no-such-package' is not installed: install it or take it off 'packages'"
    ]


# Before a run


def test_stages_refuse_what_cannot_work():
    (size,) = problems(STAGES["train_tokenizer"], data={"a": use("python_code")}, vocab_size=260)
    assert size == "'vocab_size' 260 leaves nothing to learn besides 256 bytes and 13 special tokens"
    (eos,) = problems(
        STAGES["train_tokenizer"], data={"a": use("python_code")}, vocab_size=999, eos_token="<|end_of_txt|>"
    )
    assert eos.endswith("is not among 'special_tokens'; did you mean '<|end_of_text|>'?")
    assert len(problems(STAGES["pretrained_tokenizer"])) == 1
    (key,) = problems(STAGES["pretrained_tokenizer"], id="a", token_names={"<think>": "128002"})
    assert "has the key '<think>', where token ids belong" in key
    sums = use("arithmetic", style="think", split="train")
    shape, name, workers = problems(
        STAGES["tokenize"], tokenizer=None, sources={"sums": sums, "a/b": use("python_code")}, workers=4, files=2
    )
    assert shape == "source 'sums' yields chat rows; 'tokenize' takes text rows"
    assert name.startswith("'a/b' cannot name a source") and "raise 'files'" in workers


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_weights_that_are_no_shares_are_refused(weight):
    (problem,) = problems(MIXTURE, from_=["x"], weights={"a": 1.0, "b": weight})
    assert problem.startswith("the weight of 'b'")


@frozen(kw_only=True)
class TrainOptions:
    data: Use[Packer] = option(doc="the samples")


@frozen(kw_only=True)
class LookAtOptions:
    data: Mapping[str, Use[smolrecipe_data.Source]] = option(doc="rows")


@pytest.fixture
def plan_problems(tmp_path) -> Callable[[str], list[str]]:
    """Plan a recipe with the plugin, a stage with a packer, one with sources, and a launcher; return the problems."""
    offered = [
        *SOURCES.values(),
        *STAGES.values(),
        MIXTURE,
        StageKind(
            name="train", summary="train", options=TrainOptions, run=lambda *_: Artifact(), produces=lambda options: {}
        ),
        StageKind(
            name="look", summary="look", options=LookAtOptions, run=lambda *_: Artifact(), produces=lambda options: {}
        ),
        Launcher(name="local", summary="here", capacity=lambda options: None, command=lambda *_: []),
    ]
    catalog = Catalog()
    for component in offered:
        catalog.add(component, Provider(plugin="data"))
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(smolrecipe_data)

    def plan(text: str) -> list[str]:
        path = tmp_path / "recipe.yaml"
        path.write_text("name: test\nstages:\n" + text)
        try:
            make_plan(structure(compose(path), path, catalog), catalog, manager.hook)
        except RecipeError as error:
            return [str(problem).removeprefix(f"{path}:") for problem in error.problems]
        return []

    return plan


STAGES_YAML = """
  tokenizer: {use: train_tokenizer, vocab_size: 300, data: {code: {use: python_code}}}
  tokens: {use: tokenize, tokenizer: tokenizer, sources: {code: {use: python_code}, docs: {use: python_docs}}}
  train: {use: train, data: {use: mixture, from: [tokens], %s}}
"""


def test_a_plan_knows_which_sources_there_are(plan_problems):
    assert plan_problems(STAGES_YAML % "weights: {code: 1, docs: 2.5}") == []
    assert plan_problems(STAGES_YAML % "weights: {code: 1}, allow_unused: true") == []
    (unused,) = plan_problems(STAGES_YAML % "weights: {code: 1}")
    assert "no weight for docs" in unused and unused.startswith("6:")
    unknown, rest = plan_problems(STAGES_YAML % "weights: {code: 1, dcos: 1}")
    assert "'dcos', which is no source of 'tokens'; did you mean 'docs'?" in unknown and "no weight for docs" in rest


def test_a_plan_keeps_held_out_sums_held_out(plan_problems):
    text = """
  a: {use: look, data: {sums: {use: arithmetic, style: think, split: train, held_out: %s}}}
  b: {use: look, data: {sums: {use: arithmetic, style: problems, split: held_out}}}
"""
    assert plan_problems(text % 0.1) == []
    (problem,) = plan_problems(text % 0.05)
    assert problem.startswith("5:") and "held_out is 0.1 here and 0.05 in stages.a.data.sums" in problem


def test_recipe_values_become_options():
    catalog = Catalog()
    for component in (*SOURCES.values(), *STAGES.values(), MIXTURE):
        catalog.add(component, Provider(plugin="data"))
    converter = make_converter(catalog)
    # YAML keys are text: 128002 arrives as "128002".
    pretrained = converter.structure({"id": "a/b", "token_names": {"128002": "<think>"}}, PretrainedTokenizerOptions)
    assert pretrained.token_names == {"128002": "<think>"}
    data = {"sums": {"use": "arithmetic", "style": "text", "split": "train", "languages": ["en", "it"]}}
    trained = converter.structure({"vocab_size": 512, "data": data}, TrainTokenizerOptions)
    assert trained.data["sums"].options.languages == ["en", "it"]
    sources = {"f": {"use": "files", "paths": ["x.jsonl"], "columns": {"text": "body"}}}
    tokenize = converter.structure({"tokenizer": "t", "sources": sources}, TokenizeOptions)
    assert tokenize.sources["f"].options.columns == {"text": "body"} and str(tokenize.tokenizer) == "t"
