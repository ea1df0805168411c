"""Our ``tokenize`` against a plain pipeline of datatrove's on the same text.

    python benchmarks/tokenising.py

The source of Python's library and prose about it, several times over, in one JSON-lines file, with one tokenizer, into
one shuffled token file, on one core. Every way is a process of its own, imports included. Ours is ``smolrecipe run``:
it checks every document, deals documents to splits and files by their content, escapes control tokens and writes
checksums.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import Used, in_process, keep, medians, spread
from our_runs import ONE_THREAD, run, run_way

GOAL = 1.05
ROUNDS = 2
MEGABYTES = 48
ONE_CORE = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

RECIPE = """\
name: tokenising
launcher: {{use: local}}
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 8192
    data: {{text: {{use: files, paths: [{text}], rows: 2000}}}}
  tokens:
    use: tokenize
    tokenizer: tokenizer
    sources: {{text: {{use: files, paths: [{text}]}}}}
    held_out: 0
    files: 1
    workers: 1
"""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text, recipe = folder / "text.jsonl", folder / "tokenising.yaml"
        size = _write_text(text)
        recipe.write_text(RECIPE.format(text=text))
        run(folder, recipe, "tokenizer")
        (tokenizer,) = folder.glob("runs/tokenising/tokenizer-*/tokenizer/tokenizer.json")
        ours = run_way(folder, recipe, "--only", "tokens")
        ways = {
            "smolrecipe": (ours.command, ours.environment | ONE_CORE, "runs/tokenising/tokens-*"),
            "datatrove": (
                [sys.executable, __file__, str(text), str(tokenizer), str(folder / "plain")],
                ONE_THREAD | ONE_CORE,
                "plain",
            ),
        }
        found: dict[str, list[Used]] = {name: [] for name in ways}
        tokens = {}
        for _ in range(ROUNDS):
            for name, (command, environment, made) in ways.items():
                found[name].append(in_process(command, **environment))
                (folder_made,) = folder.glob(made)
                tokens[name] = _tokens(folder_made)
                shutil.rmtree(folder_made)
    if len(set(tokens.values())) > 1:
        raise RuntimeError(f"the ways made different numbers of tokens of the same text: {tokens}")
    plain = medians(found["datatrove"])
    rows: list[tuple[Any, ...]] = []
    for name, used in found.items():
        own, seconds = medians(used), spread([one.seconds for one in used])
        ratios: tuple[Any, ...] = (own.seconds / plain.seconds, own.processor / plain.processor, GOAL)
        if name == "datatrove":
            ratios = ("", "", "")
        speed = size / own.processor / 1e6
        rows.append((name, seconds, ratios[0], own.processor, ratios[1], speed, own.memory, ratios[2]))
    head = (
        "tokeniser",
        "seconds: median (range)",
        "ratio",
        "seconds of processor",
        "ratio of it",
        "MB of text a second of it",
        "MiB at most",
        "goal",
    )
    keep("tokenising", f"{size / 1e6:.0f} MB of text, one core", head, rows, tokens=tokens, details=found)


def _write_text(file: Path) -> int:
    """Documents up to so many megabytes; each round of them is marked, so that none comes twice."""
    from smolrecipe_data.python_library import read_code, read_docs
    from smolrecipe_data.source_options import PythonCodeOptions, PythonDocsOptions

    texts = [row["text"] for row in (*read_docs(PythonDocsOptions()), *read_code(PythonCodeOptions()))]
    written = round_ = 0
    with file.open("w") as opened:
        while written < MEGABYTES * 1e6:
            for text in texts:
                written += opened.write(json.dumps({"text": f"{round_}\n{text}"}) + "\n")
                if written >= MEGABYTES * 1e6:
                    break
            round_ += 1
    return file.stat().st_size


def _tokens(folder: Path) -> int:
    """The tokens of the files below a folder, from what datatrove notes beside them."""
    return sum(int(file.read_text().split("\n")[1]) for file in folder.rglob("*.ds.metadata"))


def _plain(text: Path, tokenizer: Path, target: Path) -> None:
    """datatrove, as its examples tokenise."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(text.parent), glob_pattern=text.name),
            DocumentTokenizer(str(target), tokenizer_name_or_path=str(tokenizer), eos_token="<|end_of_text|>"),
        ],
        tasks=1,
        logging_dir=str(target.parent / "logs" / str(len(list(target.parent.glob("logs/*"))))),
    ).run()


if __name__ == "__main__":
    if sys.argv[1:]:
        _plain(*map(Path, sys.argv[1:]))
    else:
        main()
