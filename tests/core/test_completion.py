"""Shell completion: what is offered where, that bash really puts it on its line, and that no engine is imported."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from smolrecipe.cli.main import cli
from smolrecipe.recipe.shipped import shipped_recipes

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

SHIPPED = sorted(shipped_recipes())
STAGES = "name: mine\nstages:\n  one: {use: count, to: 1}\n  other: {use: count, to: 2}\n"


def offered(*words: str) -> list[str]:
    """What is offered for the last of the words; a folder that the shell is to complete itself as ``dir:...``."""
    *before, incomplete = words
    items = BashComplete(cli, {}, "smolrecipe", "_SMOLRECIPE_COMPLETE").get_completions(before, incomplete)
    return [item.value if item.type == "plain" else f"{item.type}:{item.value}" for item in items]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMOLRECIPE_RUNS", raising=False)
    return tmp_path


@pytest.fixture
def runs(here: Path) -> Path:
    """A run with a published stage and a half-done one, and what is no run."""
    for folder in ("mine/one-0123456789ab", "mine/two-ba9876543210.partial", "yours/x-000000000000", "empty", "a b"):
        (here / "runs" / folder).mkdir(parents=True)
    (here / "runs/mine/provenance").mkdir()
    (here / "runs/file").touch()
    return here / "runs"


def test_commands_and_options() -> None:
    assert offered("pl") == ["plan", "plugin", "plugins"]
    assert offered("run", "--s") == ["--set", "--sweep"]
    assert offered("run", "x", "--inputs", "f") == ["full"]
    assert not {"_stage", "_verify"} & set(offered("")), "what is not for people"


@pytest.mark.parametrize("command", ["run", "plan", "validate", "show", "lock", "why", "doctor"])
def test_recipes(here: Path, command: str) -> None:
    (here / "recipes").mkdir()
    for file in ("recipes/a.yaml", "recipes/b.yml", "recipes/c.txt", "mine.yaml", ".hidden.yaml", "odd name.yaml"):
        (here / file).touch()
    assert offered(command, "smo") == SHIPPED and "smollm3-tiny" in SHIPPED
    assert offered(command, "m") == ["mine.yaml"]
    assert offered(command, "") == [*SHIPPED, "mine.yaml", "recipes/"]
    assert offered(command, ".h") == [".hidden.yaml"]
    assert offered(command, "rec") == ["dir:rec"], "the shell puts no space behind a folder"
    assert offered(command, "recipes/") == ["recipes/a.yaml", "recipes/b.yml"]
    assert offered(command, "nowhere/") == ["dir:nowhere/"]


def test_stages_of_the_recipe_that_stands_before(here: Path, write_recipe: Write) -> None:
    recipe = str(write_recipe(STAGES))
    assert offered("run", recipe, "--only", "") == ["one", "other"]
    assert offered("run", "smollm3", "--only", "lo") == ["long-context-32k", "long-context-64k"]
    assert offered("run", recipe, "--set", "stages.third={use: count}", "--only", "t") == ["third"]
    assert offered("run", "--only", "") == []
    assert offered("why", recipe, "ot") == ["other"]
    assert offered("run", str(write_recipe("stages: [\n", "torn.yaml")), "--only", "") == []
    hostile = write_recipe("stages: {'$(touch hit)': 1, 'a b': 1, '*': 1, good: 1}\n", "hostile.yaml")
    assert offered("run", str(hostile), "--only", "") == ["good"], "no shell quotes what is completed"


def test_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("status", "verify"):
        assert offered(command, "") == ["runs/mine", "runs/yours"]
        assert offered(command, "runs/m") == ["runs/mine"]
        assert offered(command, "elsewhere") == ["dir:elsewhere"]
    assert offered("diff", "smollm3-tiny", "runs/mi") == ["runs/mine"]
    assert offered("diff", "smollm3-t") == ["smollm3-tiny"]
    monkeypatch.setenv("SMOLRECIPE_RUNS", str(runs))
    assert offered("status", "") == [f"{runs}/mine", f"{runs}/yours"]


def test_names_of_what_is_installed(toy_plugin: None) -> None:
    assert offered("docs", "toy_l") == ["toy_loss"]
    assert offered("docs", "smolrecipe_tr") == ["smolrecipe_trackers"]
    assert "toy" in offered("plugins", "test", "to")
    assert "gqa,toy" in offered("--plugins", "gqa,to")
    assert offered("completion", "z") == ["zsh"]


def asked(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What bash would ask for the end of this line, and which engines that has imported."""
    code = (
        "import atexit, sys\nfrom smolrecipe.cli import main\n"
        "engines = ('torch', 'transformers', 'datasets', 'numpy', 'rich', 'huggingface_hub', 'matplotlib')\n"
        "atexit.register(lambda: print([name for name in engines if name in sys.modules], file=sys.stderr))\n"
        "main([])"
    )
    words = shlex.split(line.removesuffix(" ")) + [""] * line.endswith(" ")
    environment = {
        **os.environ,
        "_SMOLRECIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("smolrecipe run smollm3 --only pretrain-", ["plain,pretrain-1", "plain,pretrain-2", "plain,pretrain-3"]),
        ("smolrecipe report ", ["plain,runs/mine", "plain,runs/yours"]),
        ("smolrecipe card runs/mine --stage ", ["plain,one", "plain,two"]),
        ("smolrecipe data inspect --run runs/mine ", ["plain,one", "plain,two"]),
        ("smolrecipe data inspect ", ["plain,one", "plain,two", "plain,x"]),
        ("smolrecipe data inspect one --run ", ["plain,runs/mine", "plain,runs/yours"]),
        ("smolrecipe push r", ["plain,runs/mine", "plain,runs/yours"]),
        ("smolrecipe launch slurm smollm3-t", ["plain,smollm3-tiny"]),
        ("smolrecipe launch node smollm3 me", ["plain,merge"]),
    ],
)
def test_a_shell_is_answered_for_plugins_commands_too_without_an_engine(
    runs: Path, line: str, answer: list[str]
) -> None:
    done = asked(runs.parent, line)
    assert done.stdout.split() == answer
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_the_shells(smolrecipe: Run, shell: str) -> None:
    script = smolrecipe("completion", shell, check=0).stdout
    assert f"_SMOLRECIPE_COMPLETE={shell}_complete" in script


def test_no_other_shell(smolrecipe: Run) -> None:
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in smolrecipe("completion", "tcsh", check=2).stderr


class Terminal:
    """A real bash at a terminal, in which a person has switched completion on."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        program = folder / "bin/smolrecipe"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m smolrecipe "$@"\n')
        program.chmod(0o755)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PS", "PROMPT"))},
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "TERM": "dumb",
            "INPUTRC": "/dev/null",
            "HISTFILE": "",
        }
        ours, theirs = pty.openpty()
        self._screen, self._typed = "", ours
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.type(
            'PS1="> "; bind "set enable-bracketed-paste off"; eval "$(smolrecipe completion bash)"; echo is-"on"\r'
        )
        self.wait("is-on")

    def type(self, keys: str) -> None:
        self._screen = ""
        os.write(self._typed, keys.encode())

    def wait(self, text: str) -> str:
        end = time.monotonic() + 60
        while text not in self._screen:
            assert time.monotonic() < end, f"{text!r} never came: {self._screen!r}"
            if select.select([self._typed], [], [], 0.5)[0]:
                self._screen += os.read(self._typed, 4096).decode().replace("\a", "")
        return self._screen

    def close(self) -> None:
        self._bash.kill()
        self._bash.wait()
        os.close(self._typed)


def test_bash_completes_on_its_line(runs: Path) -> None:
    (runs.parent / "recipes").mkdir()
    (runs.parent / "recipes/mine.yaml").write_text(STAGES)
    terminal = Terminal(runs.parent)
    try:
        terminal.type("smolrecipe val\t")
        terminal.wait("smolrecipe validate ")
        terminal.type("rec\t")
        terminal.wait("recipes/")
        terminal.type("m\t")
        terminal.wait("mine.yaml ")
        terminal.type("\x15smolrecipe run recipes/mine.yaml --only ot\t")
        terminal.wait("--only other ")
        terminal.type("\x15smolrecipe status ru\t")
        terminal.wait("status runs/")
        terminal.type("m\t")
        terminal.wait("mine ")
    finally:
        terminal.close()
