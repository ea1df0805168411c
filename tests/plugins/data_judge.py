"""Reads mutants (``data_mutants``) and holds what comes of them against other readers of the same files.

``python data_judge.py KIND FOLDER FIRST COUNT`` prints a JSON object: how many mutants were ``accepted`` and
``refused``, and what was ``wrong``. It is a process of its own, so that a crash or too much memory is seen.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_SECONDS = 30
_LONGEST_SENTENCE = 2000
_MOST_MEMORY = 3 * 2**30
"""Of the whole process, in bytes; the libraries alone take a tenth."""


_FIELDS = {
    "text": ("text",),
    "chat": ("messages", "chat_template_kwargs"),
    "preference": ("prompt", "chosen", "rejected", "chat_template_kwargs"),
    "problem": ("messages", "answer", "chat_template_kwargs"),
}


class WrongError(Exception):
    """What is wrong with how a mutant was taken."""


def judge_rows(folder: Path, seed: int) -> bool:
    """Whether the mutant was accepted; its rows are then what other readers find.

    Raises:
        WrongError: where they are not, or a refusal is no sentence with the file's name.
    """
    from data_mutants import mutant

    import smolrecipe_data

    (source,) = (each for each in smolrecipe_data.smolrecipe_sources() if each.name == "files")
    made = mutant(seed)
    path = folder / f"mutant{made.suffix}"
    path.write_bytes(made.content)
    try:
        rows = list(source.read(source.options(paths=[path], yields=made.shape)))
    except _stage_error() as error:
        require_sentence(str(error), path.name)
        if made.is_good:
            raise WrongError(f"nothing is wrong with it, and it is refused: {error}") from None
        return False
    records = _records(path, _FIELDS[made.shape])
    if len(rows) != len(records):
        raise WrongError(f"{len(records)} records became {len(rows)} rows")
    for number, (row, record) in enumerate(zip(rows, records, strict=True)):
        _require_row(made.shape, row, record, number)
    return True


def judge_tokenizer(folder: Path, seed: int) -> bool:
    """The same of a ``tokenizer.json``: what comes of it encodes as the file itself does.

    Raises:
        WrongError: as above.
    """
    from data_artifact_mutants import tokenizer_file, tokenizer_mutant
    from tokenizers import Tokenizer

    import smolrecipe_data
    from smolrecipe import StageContext

    stage = next(each for each in smolrecipe_data.smolrecipe_stages() if each.name == "pretrained_tokenizer")
    good = folder / "good.json"
    if not good.exists():
        good.write_bytes(tokenizer_file())
    path, made = folder / "mutant.json", folder / "made" / "tokenizer" / "tokenizer.json"
    path.write_bytes(good.read_bytes() if seed % 20 == 0 else tokenizer_mutant(good.read_bytes(), seed))
    try:
        stage.run(stage.options(file=path), StageContext(recipe="r", stage="s", folder=folder / "made"))
    except _stage_error() as error:
        # A good tokenizer without the tokens that the options name is refused by the name of those.
        require_sentence(str(error), path.name if "_token' is" not in str(error) else "token")
        if seed % 20 == 0:
            raise WrongError(f"nothing is wrong with it, and it is refused: {error}") from None
        return False
    before, after = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(made))
    before.no_truncation()
    if sorted(after.get_vocab().values()) != list(range(after.get_vocab_size())):
        raise WrongError("ids do not count from 0")
    for text in ("the cat's hat", "<think>zwölf\n\x00 😀", "that<|end_of_text|>"):
        ids = after.encode(text, add_special_tokens=False).ids
        if ids != before.encode(text, add_special_tokens=False).ids:
            raise WrongError(f"{text!r} is encoded otherwise than by the file")
    return True


def judge_tokens(folder: Path, seed: int) -> bool:
    """The same of token files as the packer reads them: rows are of the vocabulary, positions of the row.

    Raises:
        WrongError: as above.
    """
    from data_artifact_mutants import VOCABULARY, damage_tokens, write_good_tokens

    import smolrecipe_data
    from smolrecipe import StageContext, StageRef

    (packer,) = smolrecipe_data.smolrecipe_packers()
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    write_good_tokens(folder / "tokens")
    path = None if seed % 20 == 0 else damage_tokens(folder / "tokens", seed)
    context = StageContext(recipe="r", stage="s", folder=folder, inputs={"tokens": folder})
    options = packer.options(from_=[StageRef("tokens")], weights={"web": 3, "code": 1})
    try:
        opened = packer.open(options, context, 16, 5, None)
        rows = [*map(opened.row, range(60)), *opened.held_out(5)]
    except _stage_error() as error:
        if path is None:
            raise WrongError(f"nothing is wrong with them, and they are refused: {error}") from None
        # A source is what has a source.json, and its files are known by their .ds.
        gone = {"source.json": "weights", ".metadata": path.stem, ".index": path.stem}
        require_sentence(str(error), gone.get(path.name, gone.get(path.suffix, path.name)) if not path.exists() else "")
        return False
    for row in rows:
        if row.tokens.shape != (17,) or row.tokens.min() < 0 or row.tokens.max() >= VOCABULARY:
            raise WrongError(f"a row is {row.tokens}")
        if row.positions.shape != (16,) or row.positions.min() < 0 or row.positions.max() >= 16 or row.positions[0]:
            raise WrongError(f"positions are {row.positions}")
    return True


def require_sentence(message: str, name: str) -> None:
    """Refuse a message that is no printable line with this name in it.

    Raises:
        WrongError: saying why.
    """
    if name not in message:
        raise WrongError(f"the message does not name {name}: {message}")
    if not message.isprintable() or len(message) > _LONGEST_SENTENCE:
        raise WrongError(f"the message is no sentence that can be printed: {message[:300]!r}")


def _records(path: Path, fields: Sequence[str]) -> list[Any]:
    if path.suffix == ".txt":
        return [{"text": path.read_bytes().decode().removeprefix("\ufeff")}]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        names = pyarrow.parquet.read_schema(path).names
        wanted = [field for field in fields if field in names]
        found: list[Any] = pyarrow.parquet.read_table(path, columns=wanted).to_pylist()
        return found
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [json.loads(line) for line in lines if line.strip()]


def _require_row(shape: str, row: Any, record: Any, number: int) -> None:
    def cleaned(messages: Any) -> Any:
        return [{key: value for key, value in message.items() if value is not None} for message in messages]

    def require(right: bool) -> None:
        if not right:
            raise WrongError(f"record {number} is {str(record)[:200]!r} and became {str(row)[:200]!r}")

    if shape == "text":
        require(row == {"text": record["text"] or ""})
        return
    json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    given = record.get("chat_template_kwargs") or {}
    require(row.get("chat_template_kwargs", {}) == {key: value for key, value in given.items() if value is not None})
    if shape != "preference":
        require(row["messages"] == cleaned(record["messages"]))
        require(shape == "chat" or row["answer"] == record["answer"])
        return
    for side in ("chosen", "rejected"):
        if isinstance(record[side], str):
            require(row[side] == [{"role": "assistant", "content": record[side]}])
        elif isinstance(record.get("prompt"), list):
            require(row["prompt"] == cleaned(record["prompt"]) and row[side] == cleaned(record[side]))
        else:
            require(row["prompt"] + row[side] == cleaned(record[side]))


def _stage_error() -> Any:
    from smolrecipe import StageError

    return StageError


def _judges() -> dict[str, Callable[[Path, int], bool]]:
    return {"rows": judge_rows, "tokenizer": judge_tokenizer, "tokens": judge_tokens}


def judged(kind: str, folder: Path, first: int, count: int) -> dict[str, Any]:
    """What a process of its own finds of ``count`` mutants."""
    process = subprocess.run(
        [sys.executable, __file__, kind, str(folder), str(first), str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        last = (folder / "seed").read_text()
        return {"wrong": [f"mutant {last} ended the process with {process.returncode}: {process.stderr[-2000:]}"]}
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def _main(kind: str, folder: Path, first: int, count: int) -> None:
    judge = _judges()[kind]
    found: dict[str, Any] = {"accepted": 0, "refused": 0, "wrong": []}
    for seed in range(first, first + count):
        (folder / "seed").write_text(str(seed))
        signal.alarm(_SECONDS)
        try:
            found["accepted" if judge(folder, seed) else "refused"] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = str(error) if isinstance(error, WrongError) else traceback.format_exc()[-1500:]
            found["wrong"].append(f"mutant {seed}: {reason}")
        signal.alarm(0)
    found["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if found["bytes"] > _MOST_MEMORY:
        found["wrong"].append(f"{found['bytes']:,} bytes of memory")
    print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
