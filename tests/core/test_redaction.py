"""Secrets of the environment reach neither the run store nor the terminal, however a stage lets go of them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.running import redact as program
from smolrecipe.running.redact import redact, redact_value

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Plant = Callable[..., Path]

SECRETS = {
    "HF_TOKEN": "hf_QWERTYuiop123456",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY=",
    "DB_PASSWORD": "p\u00e4ss\"w'ord\\with all of it",
    "SSH_PRIVATE_KEY": "-----BEGIN KEY-----\nc2VjcmV0IGxpbmUgb25l\nc2VjcmV0IGxpbmUgdHdv\n-----END KEY-----",
}
NO_SECRETS = {
    "TOKENIZERS_PARALLELISM": "sometimes",
    "SHORT_TOKEN": "true",
    "GOOGLE_APPLICATION_CREDENTIALS": __file__,
    "HOME_OF_DATA": "/data/of/mine",
}
STAGE = """
import json, os, subprocess, sys
from attrs import frozen
import smolrecipe
from smolrecipe import Artifact, Launcher, Measure, StageError, StageKind, Tracker, option


@frozen(kw_only=True)
class Options:
    ends: str = option(doc="how")


def run(options, context):
    print(dict(os.environ))
    sys.stderr.write(json.dumps(dict(os.environ), ensure_ascii=False) + chr(10))
    for name, value in os.environ.items():
        print(name, value, flush=True)
        print("left of a line: " + value, end=" ")
    subprocess.run(["env"], check=True)  # what it starts prints, too
    token = os.environ["HF_TOKEN"]
    context.say(f"logs in with {token} at https://me:{os.environ['DB_PASSWORD'][:2]}xyz@example.org/x")
    context.progress(1, 1, loss=0.5)
    context.report({"step": 1, "steps": 1, "who": {"token": token, "all": list(os.environ.values())}})
    if options.ends == "refuse":
        raise StageError(f"the server refuses {token} of {os.environ['SSH_PRIVATE_KEY']}")
    if options.ends == "crash":
        raise ValueError(f"401: {token} {os.environ['DB_PASSWORD']}")
    if options.ends == "abort":
        print("last words", token, flush=True)
        os.abort()
    return Artifact(summary={"login": token, "deep": [{"x": os.environ["AWS_SECRET_ACCESS_KEY"]}]})


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="leak", summary="leak", options=Options, run=run, produces=lambda options: {"number": True})


@smolrecipe.hookimpl
def smolrecipe_launchers():
    yield Launcher(name="direct", summary="one process", source="here", capacity=lambda options: {},
                   command=lambda options, devices, worker: [sys.executable, "-m", *worker])


@smolrecipe.hookimpl
def smolrecipe_trackers():
    def open_file(options, context):
        return lambda event: (context.folder / "tracked.txt").open("a").write(repr(event))

    yield Tracker(name="file", summary="to a file", open=open_file)
"""


def parts(value: str) -> set[bytes]:
    """What must not be seen of a secret: its lines, and each half of it."""
    half = len(value) // 2
    return {text.encode() for text in (*value.splitlines(), value[:half], value[half:]) if len(text) >= 8}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | NO_SECRETS).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
class TestRuns:
    @pytest.mark.parametrize("ends", ["well", "refuse", "crash", "abort"])
    def test_no_secret_is_in_the_run_store_or_on_the_terminal(
        self,
        plant: Plant,
        write_recipe: Write,
        smolrecipe: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        ends: str,
    ) -> None:
        plant("smolrecipe_planted", {"__init__.py": STAGE}, plugin="planted")
        monkeypatch.setenv("SMOLRECIPE_PLUGINS", "planted")
        recipe = write_recipe(
            "name: t\nlauncher: {use: direct}\ntrackers: [{use: file}]\n"
            f"stages: {{one: {{use: leak, ends: {ends}}}}}\n"
        )
        result = smolrecipe("run", recipe, "--json", "--set", f"description={SECRETS['HF_TOKEN']}")
        assert result.returncode == (0 if ends == "well" else 1)
        written = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
        written[Path("terminal")] = (result.stdout + result.stderr).encode()
        found = [
            (path.name, name)
            for path, content in written.items()
            for name, value in SECRETS.items()
            for part in parts(value)
            if part in content
        ]
        assert not found
        log = next(content for path, content in written.items() if path.name == "log.txt").decode()
        assert all(log.count(f"***{name}***") >= 4 for name in SECRETS), log
        assert all(value in log for value in NO_SECRETS.values())
        if ends == "abort":
            assert "last words ***HF_TOKEN***" in log
        if ends in ("refuse", "crash"):
            assert "***HF_TOKEN***" in result.stderr
        metrics = next(content for path, content in written.items() if path.name == "metrics.jsonl").decode()
        assert "logs in with ***HF_TOKEN*** at https://***@example.org/x" in metrics

    def test_values_are_redacted_to_their_depth(self) -> None:
        token = SECRETS["HF_TOKEN"]
        value = {"a": [{"b": f"x {token}"}, (token,)], token: 1, "n": 1.5, "none": None, "yes": True}
        assert redact_value(value) == {
            "a": [{"b": "x ***HF_TOKEN***"}, ["***HF_TOKEN***"]],
            "***HF_TOKEN***": 1,
            "n": 1.5,
            "none": None,
            "yes": True,
        }

    @pytest.mark.parametrize("write", [str, repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
    def test_ways_to_write_one(self, write: Callable[[str], str]) -> None:
        for name, value in SECRETS.items():
            said = redact(f"before {write(value)} after")
            assert f"***{name}***" in said and "before" in said and "after" in said
            assert not [part for part in parts(value) if part.decode() in said]

    def test_what_is_no_secret_stays(self) -> None:
        said = f"{NO_SECRETS} git@github.com https://huggingface.co/a:b@main s3://bucket/key"
        assert redact(said) == said
        assert redact("postgres://me:hunter2@host/db, HTTPS://a:b@c") == "postgres://***@host/db, HTTPS://***@c"
        assert redact("\ud800 half a character") == "\ud800 half a character"


@pytest.mark.usefixtures("environment")
class TestTheLogWriter:
    """The program that a stage's output passes through."""

    def test_wherever_the_output_is_cut_in_pieces_nothing_gets_through(self) -> None:
        random.seed(5)
        secret = SECRETS["HF_TOKEN"].encode()
        line = b"x" * 70_000 + secret + b"y" * 300 + b" https://user:password@host " + secret + b"z" * 200
        content = (line + b"\n" + b"progress 1\rprogress 2\r" + secret + b"\n") * 2
        for _ in range(60):
            stream, written, at = program._Stream(), b"", 0
            while at < len(content):
                size = random.choice((1, 7, 500, 65_536))
                size = random.randint(1, size)
                written += stream.feed(content[at : at + size])
                at += size
                if size < 8 and at > 3000:
                    written += stream.feed(content[at : at + 66_000])
                    at += 66_000
            written += stream.rest()
            assert secret not in written and b"password" not in written
            assert written.count(b"***HF_TOKEN***") == 6 and written.count(b"https://***@host") == 2
            assert written.count(b"x") >= 140_000 and written.count(b"progress 2\r") == 2

    def test_a_line_too_long_to_be_held_is_not_cut_within_a_secret(self) -> None:
        for secret in (SECRETS["HF_TOKEN"].encode(), b"https://user:password@host"):
            for after in range(program._Stream()._longest - len(secret) - 2, program._Stream()._longest + 2):
                stream = program._Stream()
                written = stream.feed(b"x" * 70_000 + secret + b"y" * after) + stream.feed(b"\n")
                assert secret not in written and b"password" not in written, after
                assert len(written) > 70_000 + after

    def test_it_reads_on_when_it_cannot_write(self, tmp_path: Path) -> None:
        """A stage whose log is full would wait for ever else."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", program.__file__, "/dev/full"], stdin=subprocess.PIPE, env=os.environ
        )
        assert process.stdin is not None
        process.stdin.write(b"a line\n" * 100_000)
        process.stdin.close()
        assert process.wait(20) == 0
