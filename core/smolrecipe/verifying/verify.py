"""All that can be proven of a target: its files, what its stage kind proves, what plugins prove of its models."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve

from smolrecipe.catalog import Catalog
from smolrecipe.components import StageKind
from smolrecipe.errors import Place, UserError
from smolrecipe.options import Use
from smolrecipe.proof import Proof
from smolrecipe.recipe.converter import make_converter
from smolrecipe.recipe.problems import structuring_problems
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER, STAGE_FILE, StageContext
from smolrecipe.strict_json import printable, read_mapping
from smolrecipe.verifying.from_config import read_model, unlike
from smolrecipe.verifying.integrity import files_as_published
from smolrecipe.verifying.targets import CONFIG_FILE, Target, is_artifact, parent_folders, read_record

MOST_CONFIG_BYTES = 2**24


def verify(target: Target, catalog: Catalog, hook: Any) -> Iterator[Proof]:
    """Yield a proof for each claim that can be checked, as it is checked. Nothing is written."""
    if target.kind == "model":
        yield from _verify_model(target.folder, catalog, hook)
        return
    yield files_as_published(target.folder)
    yield from _verify_stage(target.folder, catalog)
    for model in _models(target.folder):
        where = f" ({model.parent.name})" if model.parent != target.folder else ""
        for proof in _verify_model(model, catalog, hook):
            yield evolve(proof, claim=proof.claim + where)


def _models(folder: Path) -> list[Path]:
    """The Hugging Face checkpoints of an artifact, the final one first."""
    found = [folder / MODEL_FOLDER, *sorted(folder.glob(f"{CHECKPOINTS_FOLDER}/*/{MODEL_FOLDER}"))]
    return [model for model in found if (model / CONFIG_FILE).is_file()]


def _verify_stage(folder: Path, catalog: Catalog) -> Iterator[Proof]:
    """What the artifact's stage kind proves of it, from the options that it was made with."""
    try:
        record = read_record(folder)
    except ValueError as error:
        yield Proof(claim="the record of the stage is readable", holds=False, note=str(error))
        return
    parents = parent_folders(folder, record)
    gone = [name for name, parent in parents.items() if not is_artifact(parent)]
    if gone:
        yield Proof(
            claim="what it was made from is there",
            holds=False,
            measured=f"{len(gone)} of {len(parents)} parents are gone",
            bound="0",
            note=f"without {', '.join(gone)} only the artifact's own files were checked",
        )
        return
    try:
        use = make_converter(catalog, artifacts=parents).structure(dict(record["options"]), Use[StageKind])
    except Exception as error:
        problems = structuring_problems(error, (), "the stage", lambda path: Place(STAGE_FILE))
        yield Proof(
            claim="its options are those of the installed plugins",
            holds=False,
            note="; ".join(problem.message for problem in problems),
        )
        return
    if use.component.verify is not None:
        context = StageContext(recipe=record["recipe"], stage=record["stage"], folder=folder, inputs=parents)
        yield from _guarded(f"stage kind '{use.name}'", partial(use.component.verify, use.options, context))


def _verify_model(folder: Path, catalog: Catalog, hook: Any) -> Iterator[Proof]:
    """What plugins prove of a Hugging Face checkpoint, once its config is understood."""
    claim = "config.json is what the model components write"
    try:
        config = read_mapping(folder / CONFIG_FILE, most_bytes=MOST_CONFIG_BYTES)
        model = read_model(config, catalog)
        differing = unlike(config, model)
    except (ValueError, UserError) as error:
        yield Proof(claim=claim, holds=False, note=str(error))
        return
    except Exception as error:  # a value that no model component has thought of
        what = f"{type(error).__name__}: {printable(str(error))}"
        yield Proof(claim=claim, holds=False, note=f"{folder / CONFIG_FILE}: no model component can read it ({what})")
        return
    note = "; ".join(f"{key} is {_shown(there)}, not {_shown(here)}" for key, (there, here) in differing.items())
    yield Proof.same(claim, len(differing), len(model.to_hf()), of="keys", note=note)
    given = {"folder": folder, "model": model}
    for implementation in hook.smolrecipe_verify_model.get_hookimpls():
        wanted = {name: given[name] for name in implementation.argnames}
        yield from _guarded(f"plugin '{implementation.plugin_name}'", partial(implementation.function, **wanted))


def _shown(value: Any) -> str:
    return printable(repr(value))


def _guarded(who: str, proofs: Callable[[], Iterable[Proof]]) -> Iterator[Proof]:
    """The proofs of one plugin; one that breaks off is a claim that does not hold, not the end of all others."""
    try:
        yield from proofs()
    except UserError as error:
        yield Proof(claim=f"{who} could check it", holds=False, note=str(error))
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a library in Rust that panics over a damaged file raises no Exception
        traceback.print_exc()
        yield Proof(
            claim=f"{who} could check it",
            holds=False,
            note="".join(traceback.format_exception_only(error)).strip() + "; the log has more",
        )
