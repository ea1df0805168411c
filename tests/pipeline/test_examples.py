"""The example plugins as strangers' packages: installed into an environment of their own, tested and run there.

The environment is a fresh one in which this one's packages can be imported, so that nothing is downloaded. Each example
is then a change of one line (``--set``) in a recipe: smollm3-tiny with fewer and smaller steps. All runs share one run
store, so that what they have in common runs once.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

pytestmark = pytest.mark.pipeline

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted((REPOSITORY / "examples" / "plugins").glob("smolrecipe-*"))
NAMES = {"count_tokens", "muon", "qk_norm", "simpo", "sliding_window"}

RECIPE = """
extends: {tiny}
name: examples
model:
  decoder: {{hidden_size: 32, num_heads: 4, head_dim: 8, intermediate_size: 64, vocab_size: 320}}
  attention: {{num_heads: 4, num_kv_heads: 2, head_dim: 8}}
stages:
  tokenizer:
    vocab_size: 320
    data: {{extends: null, sums: {{use: arithmetic, style: text, split: train, rows: 200}}}}
  tokens:
    sources:
      extends: null
      sums: {{use: arithmetic, style: text, split: train, rows: 400}}
      french: {{use: arithmetic, style: text, split: train, languages: [fr], rows: 200}}
  pretrain-1:
    data: {{weights: {{extends: null, sums: 0.8, french: 0.2}}}}
    steps: 6
    trajectory_steps: null
    sequence_length: 64
    global_batch: 4
    micro_batch: 4
    schedule: {{warmup_steps: 1, decay_start: 3, decay_steps: 3}}
    held_out_rows: 4
  pretrain-2: null
  pretrain-3: null
  long-context-32k: null
  long-context-64k: null
  mid-training: null
  sft: null
  reasoning-pairs: null
  apo:
    from: pretrain-1
    data: {{extends: null, sums: {{use: arithmetic, style: preference, mode: no_think, split: train, rows: 16}}}}
    # The same rows: so few steps learn these, and nothing about sums.
    held_out: {{extends: null, sums: {{use: arithmetic, style: preference, mode: no_think, split: train, rows: 16}}}}
    max_steps: 6
    global_batch: 8
    micro_batch: 8
    optimizer: {{lr: 2.0e-3}}
    keep: []
  merge: null
  export: {{from: pretrain-1, components: {{extends: null}}}}
  evaluate: null
"""

MUON = "stages.pretrain-1.optimizer={use: muon, lr: 4.0e-3}"
SIMPO = "stages.apo.loss={use: simpo, beta: 2.0, gamma: 1.2}"
QK_NORM = "model.qk_norm={use: qk_norm}"
QWEN3 = "model.qk_norm={use: qk_norm_qwen3}"
WINDOW = "model.window={use: sliding_window, window: 16}"
COUNTS = "stages.counts={use: count_tokens, from: tokens}"
ONLY_PRETRAINING = ("stages.apo=null", "stages.export=null")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the examples installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "_this_environment.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in here)
    )
    pip = [interpreter, "-m", "pip", "--disable-pip-version-check", "install"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--quiet"]
    ended = subprocess.run(
        [*pip, *offline, *EXAMPLES],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=_environment(),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return interpreter


def _environment() -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, "COLUMNS": "160"}


@pytest.fixture(scope="module")
def smolrecipe(python: Path) -> Run:
    """``smolrecipe ARGUMENTS`` in that environment, in a folder that all runs share."""
    folder = python.parents[1] / "work"
    folder.mkdir()
    recipe = folder / "examples.yaml"
    recipe.write_text(RECIPE.format(tiny=REPOSITORY / "recipes" / "smollm3-tiny.yaml"))

    def run(command: str, *settings: str, check: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        arguments = [part for setting in settings for part in ("--set", setting)]
        arguments += ["--json"] if command == "run" else []
        ended = subprocess.run(
            [python, "-m", "smolrecipe", command, *more.get("targets", ["examples.yaml"]), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=_environment(),
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        assert ended.returncode == check, ended.stdout + ended.stderr
        return ended

    return run


def ran(result: subprocess.CompletedProcess[str]) -> dict[str, bool]:
    return {stage["stage"]: stage["ran"] for stage in json.loads(result.stdout)["stages"]}


def folder_of(result: subprocess.CompletedProcess[str], stage: str, python: Path) -> Path:
    (folder,) = [one["folder"] for one in json.loads(result.stdout)["stages"] if one["stage"] == stage]
    return python.parents[1] / "work" / folder


def measure(result: subprocess.CompletedProcess[str], name: str) -> dict[str, Any]:
    (found,) = [one for one in json.loads(result.stdout)["measures"] if one["name"] == name]
    return found


def tensors(model: Path) -> set[str]:
    with safe_open(model / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def test_they_use_nothing_but_the_public_api() -> None:
    """What they and their tests import of smolrecipe: names of the package itself, its folders' names and the kit."""
    allowed = {"from smolrecipe import", "from smolrecipe.stage import", "from smolrecipe.testing import conformance"}
    seen = set()
    for example in EXAMPLES:
        own = example.name.replace("-", "_")
        for file in example.rglob("*.py"):
            for line in file.read_text(encoding="utf-8").splitlines():
                words = line.split()
                if words[:1] in (["from"], ["import"]) and words[1].startswith("smolrecipe"):
                    if words[1].partition(".")[0] == own:
                        continue
                    assert any(line.strip().startswith(start) for start in allowed), f"{file}: {line}"
                    seen.add(own)
    assert len(seen) == len(EXAMPLES) == len(NAMES)


def test_they_are_found_as_distributions_of_their_own(smolrecipe: Run) -> None:
    plugins = json.loads(smolrecipe("plugins", targets=["--json"]).stdout)
    found = {plugin["plugin"]: plugin for plugin in plugins}
    assert found.keys() > NAMES
    for name in NAMES:
        plugin = found[name]
        assert (plugin["distribution"], plugin["version"]) == (f"smolrecipe-{name.replace('_', '-')}", "0.1.0")
        assert plugin["error"] is None
    assert {plugin["distribution"] for plugin in plugins if plugin["plugin"] not in NAMES} == {"smolrecipe"}


def test_their_own_tests_pass_there(python: Path) -> None:
    """The conformance kit's checks of each, and each one's comparisons with independent implementations."""
    tests = [example / "tests" for example in EXAMPLES]
    pytest_there = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull]
    ended = subprocess.run(
        [*pytest_there, "--rootdir", python.parents[1], *tests],
        cwd=python.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=_environment(),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_muon_pretrains(smolrecipe: Run, python: Path) -> None:
    result = smolrecipe("run", MUON, *ONLY_PRETRAINING)
    loss = measure(result, "held-out loss")
    assert loss["after"] < loss["before"] - 0.1
    plugin = json.loads((folder_of(result, "pretrain-1", python) / "stage.json").read_text())["plugins"]["muon"]
    assert (plugin["distribution"], plugin["version"]) == ("smolrecipe-muon", "0.1.0")


def test_simpo_aligns_without_a_reference(smolrecipe: Run, python: Path) -> None:
    """On the model that Muon has trained: what that run published is not run again."""
    result = smolrecipe("run", MUON, SIMPO, "stages.export=null")
    assert ran(result) == {"tokenizer": False, "tokens": False, "pretrain-1": False, "apo": True}
    loss = measure(result, "held-out preference loss")
    assert loss["after"] < loss["before"] - 0.1
    summary = json.loads((folder_of(result, "apo", python) / "stage.json").read_text())["summary"]
    assert (summary["loss"], summary["reference_model"]) == ("simpo", False)


def test_tokens_are_counted(smolrecipe: Run, python: Path) -> None:
    """The counts are those that the stage which wrote the tokens gives of its own work."""
    result = smolrecipe("run", COUNTS, "stages.pretrain-1=null", *ONLY_PRETRAINING)
    assert ran(result) == {"tokenizer": False, "tokens": False, "counts": True}
    counts = json.loads((folder_of(result, "counts", python) / "counts.json").read_text())
    written = json.loads((folder_of(result, "tokens", python) / "stage.json").read_text())["summary"]["sources"]
    assert {
        source: (splits["train"]["tokens"], splits["train"]["documents"], splits["held_out"]["tokens"])
        for source, splits in counts.items()
    } == {source: (its["tokens"], its["documents"], its["held_out_tokens"]) for source, its in written.items()}
    smolrecipe("verify", targets=[folder_of(result, "counts", python)])


def test_windows_pretrain_and_export_as_transformers_has_them(smolrecipe: Run, python: Path) -> None:
    """``verify`` compares every layer of the exported model with transformers' SmolLM3, which reads the windows."""
    result = smolrecipe("run", WINDOW, "stages.apo=null")
    loss = measure(result, "held-out loss")
    assert loss["after"] < loss["before"] - 0.1
    model = folder_of(result, "export", python) / "model"
    config = json.loads((model / "config.json").read_text())
    assert config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
    assert config["no_rope_layers"] == [1, 1, 1, 0]
    said = smolrecipe("verify", targets=[model]).stdout
    assert "logits equal transformers'" in said

    config["layer_types"] = ["full_attention"] * 3 + ["sliding_attention"]  # as transformers would by itself
    (model / "config.json").write_text(json.dumps(config))
    said = smolrecipe("verify", targets=[model], check=1).stdout
    assert "disagree in layers 0, 1, 2, 3" in said


def test_norms_pretrain_and_a_stage_that_could_not_load_them_is_refused(smolrecipe: Run) -> None:
    refused = smolrecipe("run", QK_NORM, check=2).stderr
    assert "stage 'export' needs a Hugging Face checkpoint from 'pretrain-1', which has none" in refused
    assert "'qk_norm' has no Hugging Face counterpart" in refused
    loss = measure(smolrecipe("run", QK_NORM, *ONLY_PRETRAINING), "held-out loss")
    assert loss["after"] < loss["before"] - 0.1


def test_norms_without_nope_are_exported_as_qwen3(smolrecipe: Run, python: Path) -> None:
    refused = smolrecipe("run", QWEN3, check=2).stderr
    assert "cannot be exported as Qwen3, in which every layer rotates" in refused
    result = smolrecipe("run", QWEN3, "model.nope=null", "stages.apo=null")
    model = folder_of(result, "export", python) / "model"
    assert json.loads((model / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert {f"model.layers.{index}.self_attn.{which}_norm.weight" for index in range(4) for which in "qk"} < tensors(
        model
    )
