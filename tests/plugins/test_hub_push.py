"""Pushing: what would be uploaded, what never is, and the real upload against a Hub on this machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_runs import Run, pretrain
from hub_server import Hub, serving
from huggingface_hub import ModelCard

from smolrecipe import UserError
from smolrecipe_hub.files import files_of
from smolrecipe_hub.lineage import find_model, trace
from smolrecipe_hub.revisions import revisions_of

pytest_plugins = ["hub_fixtures"]
"""Where the fixtures come from."""

Smolrecipe = Callable[..., subprocess.CompletedProcess[str]]
TOKEN = "hf_" + "abcdefghij" * 4
NAMES = [
    "stage1-step-20",
    "stage1-step-40",
    "stage2-step-50",
    "lc-64-to-2k-step-40",
    "it-apo-step-15",
    "it-apo",
]
UPLOADED = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An endpoint at which nobody listens, and no token: whoever asks fails."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_network")
def test_a_dry_run_lists_repository_files_revisions_and_card_and_asks_nobody(run: Run, smolrecipe: Smolrecipe) -> None:
    shown = smolrecipe("push", run.folder, "me/toy", "--revisions", "--dry-run", check=0).stdout
    assert "repository  me/toy (public where it is new)" in shown and "model.safetensors" in shown
    assert all(name in shown for name in NAMES) and "# toy, export" in shown and '"me/toy"' in shown
    told = json.loads(smolrecipe("push", run.folder, "me/toy", "--dry-run", "--json", "--private", check=0).stdout)
    (main,) = told["branches"]
    assert told["private"] and main["name"] == "main" and {file["name"] for file in main["files"]} == UPLOADED
    sizes = {file["name"]: file["bytes"] for file in main["files"]}
    (export,) = run.folder.glob("export-*")
    assert sizes["model.safetensors"] == (export / "model" / "model.safetensors").stat().st_size


def test_models_on_the_way_become_revisions_named_as_smollm3_s(run: Run) -> None:
    lineage = trace(find_model(run.folder, None)[0])
    assert [revision.name for revision in revisions_of(lineage)] == NAMES


def test_names_of_smollm3_s_own_sizes(tmp_path: Path, model: Path) -> None:
    run = Run(tmp_path)
    steps = {"first_step": 1, "steps": 40000, "tokens": 1}
    run.add("pretrain-1", pretrain(4096), model=model, summary=steps)
    run.add("pretrain-2", pretrain(4096, "pretrain-1"), parents=("pretrain-1",), model=model,
            summary={**steps, "first_step": 40001})  # fmt: skip
    run.add("a", pretrain(32768, "pretrain-2"), parents=("pretrain-2",), model=model, summary={**steps, "steps": 4000})
    run.add("b", pretrain(65536, "a@step-20"), parents=("a",), model=model, summary={**steps, "steps": 4000})
    run.add("export", {"use": "export"}, parents=("b",), model=model)
    names = [revision.name for revision in revisions_of(trace(find_model(run.folder, None)[0]))]
    assert names == [
        "stage1-step-40000", "stage2-step-80000", "lc-4k-to-32k-step-4000", "lc-32k-to-64k-step-4000",
    ]  # fmt: skip


def test_a_model_of_somebody_else_is_no_revision(tmp_path: Path, model: Path) -> None:
    run = Run(tmp_path)
    run.add("base", {"use": "pretrained_model", "id": "org/base"}, model=model)
    run.add("export", {"use": "export", "from": "base"}, parents=("base",), model=model)
    assert revisions_of(trace(find_model(run.folder, None)[0])) == []


@pytest.mark.parametrize("stage", ["ärger", "x.lock", "a..b"])
def test_a_stage_whose_name_makes_no_branch_is_named(tmp_path: Path, model: Path, stage: str) -> None:
    run = Run(tmp_path)
    run.add(stage, {"use": "sft"}, model=model)
    run.add("export", {"use": "export"}, parents=(stage,), model=model)
    with pytest.raises(UserError, match="is no name of a branch: rename that stage"):
        revisions_of(trace(find_model(run.folder, None)[0]))


def test_nothing_but_what_loading_takes_is_uploaded(run: Run, model: Path, tmp_path: Path) -> None:
    """Logs, optimizer state, pickles, notes and settings of a training run lie beside the model; they stay."""
    beside = ("optimizer.pt", "training_args.bin", "trainer_state.json", ".env", "notes.txt", "README.md", "log.txt")
    more = {f"model/{name}": f"{name}'s content" for name in beside}
    run.add("other", {"use": "export"}, model=model, files={**more, "model/.cache/hf_token": "x"})
    found = files_of(find_model(run.folder, "other")[0], "model")
    assert {file.name for file in found.files} == UPLOADED - {"README.md"}
    assert found.left_out == tuple(sorted((*beside, ".cache/hf_token")))


def test_a_secret_in_a_file_is_refused_and_not_shown(
    run: Run, model: Path, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (copy := tmp_path / "copy").mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    for secret in (TOKEN, "plain-secret-1234"):
        (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "auth": secret}))
        monkeypatch.setenv("WANDB_API_KEY", "plain-secret-1234")
        run.add(f"leak-{secret[:2]}", {"use": "export"}, model=copy)
        refused = smolrecipe("push", run.folder, "me/toy", "--stage", f"leak-{secret[:2]}", "--dry-run", check=1)
        assert "tokenizer_config.json holds what looks like a token" in refused.stderr
        assert secret not in refused.stderr + refused.stdout


def damage_byte(export: Path) -> None:
    weights = export / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def damage_link(export: Path) -> None:
    target = export / "model" / "generation_config.json"
    target.unlink()
    target.symlink_to("/etc/hostname")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (damage_byte, "model/model.safetensors was changed"),
    "a file less": (lambda export: (export / "model" / "tokenizer.json").unlink(), "model/tokenizer.json is missing"),
    "a file more": (lambda export: (export / "model" / "vocab.json").write_text("{}"), "model/vocab.json was added"),
    "a link": (damage_link, "model/generation_config.json is a link"),
    "no weights": (
        lambda export: (export / "model" / "model.safetensors").unlink(),
        "model/model.safetensors is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_what_was_published_is_not_uploaded(run: Run, smolrecipe: Smolrecipe, damage: str) -> None:
    (export,) = run.folder.glob("export-*")
    do, sentence = DAMAGES[damage]
    do(export)
    refused = smolrecipe("push", run.folder, "me/toy", "--dry-run", check=1)
    assert sentence in refused.stderr and "smolrecipe verify" in refused.stderr and refused.stdout == ""


def test_a_folder_that_is_no_artifact_is_refused(model: Path, smolrecipe: Smolrecipe, run: Run) -> None:
    assert "neither a run nor an artifact" in smolrecipe("push", model, "me/toy", "--dry-run", check=2).stderr
    (export,) = run.folder.glob("export-*")
    (export / "manifest.json").unlink()
    assert "has exported no model" in smolrecipe("push", run.folder, "me/toy", "--dry-run", check=2).stderr
    assert "is no name of a repository" in smolrecipe("push", run.folder, "a/b/c", "--dry-run", check=2).stderr
    assert "is no name of a repository" in smolrecipe("push", run.folder, '";x', "--dry-run", check=2).stderr


@pytest.mark.usefixtures("no_network")
def test_without_token_or_network_it_says_what_to_do(
    run: Run, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "log in with 'hf auth login', or set HF_TOKEN" in smolrecipe("push", run.folder, "me/toy", check=1).stderr
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    unreachable = smolrecipe("push", run.folder, "me/toy", check=1).stderr
    assert "(http://127.0.0.1:9) could not be reached" in unreachable and "nothing was uploaded" in unreachable
    assert TOKEN not in unreachable and "Traceback" not in unreachable
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in smolrecipe("push", run.folder, "me/toy", check=1).stderr


@pytest.mark.usefixtures("no_network")
class TestOnAHubOfItsOwn:
    def push(
        self, hub: Hub, run: Run, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch, *arguments: str, check: int
    ) -> str:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with serving(hub) as address:
            monkeypatch.setenv("HF_ENDPOINT", address)
            done = smolrecipe("push", run.folder, "me/toy", *arguments, check=check)
        assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def test_every_file_arrives_on_its_branch(
        self, run: Run, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = Hub()
        arguments = ("--revisions", "--private", "--license", "apache-2.0")
        told = self.push(hub, run, smolrecipe, monkeypatch, *arguments, check=0)
        assert "uploaded: http://127.0.0.1" in told and hub.private and hub.tokens >= {f"Bearer {TOKEN}"}
        assert list(hub.branches) == ["main", *NAMES] and all(set(files) == UPLOADED for files in hub.branches.values())
        (export,) = run.folder.glob("export-*")
        for name in UPLOADED - {"README.md"}:
            assert hub.branches["main"][name] == (export / "model" / name).read_bytes(), name
        card = hub.branches["main"]["README.md"].decode()
        assert ModelCard(card).data.license == "apache-2.0" and 'name = "me/toy"' in card
        revision = hub.branches["stage1-step-20"]["README.md"].decode()
        assert 'from_pretrained(name, revision="stage1-step-20")' in revision and "as it was at step 20" in revision
        assert hub.messages[-1].startswith("toy, stage export") and hub.messages[0].endswith(", step 20")

    def test_a_public_repository_is_not_taken_for_a_private_one(
        self, run: Run, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = Hub(there=True)
        told = self.push(hub, run, smolrecipe, monkeypatch, "--private", check=1)
        assert "is there already and public" in told and not hub.messages

    def test_a_refusal_says_what_was_done(
        self, run: Run, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = Hub(refuse=403)
        told = self.push(hub, run, smolrecipe, monkeypatch, "--revisions", check=1)
        assert "refused (403): this token may not write to me/toy" in told
        assert "uploaded so far: stage1-step-20. The same command goes on with the rest" in told

    def test_the_hub_s_word_on_the_card_is_passed_on(
        self, run: Run, smolrecipe: Smolrecipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = self.push(Hub(), run, smolrecipe, monkeypatch, "--license", "no-such", check=1)
        assert "refused the card" in told and '"license" cannot be no-such' in told and "nothing was uploaded" in told
