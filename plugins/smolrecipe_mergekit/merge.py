"""The ``merge`` stage: mergekit through its public Python interface, checked before and after."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from mergekit import merge_methods  # noqa: TID253
from mergekit.common import ModelPath, ModelReference  # noqa: TID253
from mergekit.config import MergeConfiguration  # noqa: TID253
from mergekit.io.tasks import LoaderCache  # noqa: TID253
from mergekit.merge import run_merge  # noqa: TID253
from mergekit.merge_methods import BasePolicy, MergeMethodSpec, ParameterScope  # noqa: TID253
from mergekit.options import MergeOptions as EngineOptions  # noqa: TID253
from safetensors import safe_open
from transformers import AutoModelForCausalLM  # noqa: TID253

from smolrecipe import Artifact, StageContext, StageError, near_miss, untrusted
from smolrecipe.checkpoint import companion_files, weight_files
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_mergekit.members import Checkpoint, common_dtype, compare, read
from smolrecipe_mergekit.methods import Method, normalizes, problems, uses_base, weights_of
from smolrecipe_mergekit.options import MergeOptions, Setting


def merge(options: MergeOptions, context: StageContext) -> Artifact:
    """Merge the models into ``model/`` of the context's folder.

    Raises:
        StageError: for options or models that mergekit refuses or would merge into something else than was meant.
    """
    method = _method(options)
    refs = {str(ref): ref for ref in (*(member.from_ for member in options.models), options.base)}
    members = {name: read(name, context.input(ref).absolute()) for name, ref in refs.items()}
    base = members[str(options.base)]
    compare(list(members.values()), base)
    dtype = options.out_dtype or common_dtype(list(members.values()))
    weights = weights_of(options)
    if weights and method.name == "linear":
        _say_sum(method, options, weights, context)

    target = context.folder.absolute() / MODEL_FOLDER
    if target.exists():  # shards of an interrupted merge would be taken for this one's
        shutil.rmtree(target)
    context.say(f"merging {', '.join(members)} by '{method.name}' into {dtype}")
    with untrusted(f"mergekit refused the merge of {', '.join(members)}"):
        run_merge(
            _configuration(method, options, members, dtype),
            str(target),
            EngineOptions(
                random_seed=options.seed,
                write_model_card=False,  # it would ask the Hub
                copy_tokenizer=False,
                trust_remote_code=False,
                lazy_unpickle=False,  # members are safetensors alone
                quiet=True,
            ),
        )
    LoaderCache().flush_all()  # mergekit keeps the members' files mapped, which the result is loaded beside
    _copy_all_but_weights(base, target, dtype)
    parameters = _verify(target, base, dtype)
    return Artifact(
        summary={
            "method": method.name,
            "models": [str(member.from_) for member in options.models],
            "weights": weights,
            "base": str(options.base),
            "dtype": dtype,
            "tensors": len(base.tensors),
            "parameters": parameters,
        }
    )


def describe(spec: MergeMethodSpec) -> Method:
    """mergekit's description of a method in the terms of this plugin's table."""
    scoped = {parameter.name: parameter for parameter in spec.parameters}
    contract = spec.contract
    per_model = frozenset(name for name, parameter in scoped.items() if parameter.scope != ParameterScope.SHARED)
    return Method(
        name=spec.name,
        base=BasePolicy(contract.base).value,
        per_model=per_model,
        shared=frozenset(scoped) - per_model,
        required=frozenset(name for name, parameter in scoped.items() if parameter.required),
        base_has_parameters=all(parameter.scope != ParameterScope.NON_BASE for parameter in scoped.values()),
        inputs=(contract.min_inputs, contract.max_inputs),
        members=(contract.min_non_base, contract.max_non_base),
    )


def _method(options: MergeOptions) -> Method:
    if options.defined_in:
        importlib.import_module(options.defined_in)
    known = {method.spec.name: method.spec for method in merge_methods.registered_methods()}
    if options.method not in known:
        hint = near_miss(options.method, known) or f"; known: {', '.join(sorted(known))}"
        raise StageError(f"mergekit has no merge method '{options.method}'{hint}")
    method = describe(known[options.method])
    found = list(problems(method, options))
    if found:
        raise StageError("\n".join(found))
    return method


def _say_sum(method: Method, options: MergeOptions, weights: Mapping[str, float], context: StageContext) -> None:
    total = sum(weights.values())
    if abs(total - 1) > 1e-6:
        effect = "they are divided by it" if normalizes(method, options) else "the result is scaled by it"
        context.say(f"the weights of {', '.join(weights)} sum to {total:g}: {effect}")


def _configuration(
    method: Method, options: MergeOptions, members: Mapping[str, Checkpoint], dtype: str
) -> MergeConfiguration:
    """What mergekit is asked to do.

    Models are given as objects, not as text, in which '@' and '+' would mean a revision and a LoRA. ``base_model`` is
    always explicit: without it mergekit takes the configuration of whichever input comes first in a set. A method that
    ignores the base still gets one of its own models there, since mergekit would add any other as an input.

    Where the result's dtype is not that of all models, they are widened first: mergekit rounds a result to the dtype of
    whichever model is first, and then to the one asked for.
    """

    def reference(name: str) -> ModelReference:
        return ModelReference(model=ModelPath(path=str(members[name].folder)))

    names = [str(member.from_) for member in options.models]
    engine_base: ModelReference | None = reference(str(options.base))
    if method.base == "optional" and not uses_base(method, options):
        engine_base = None  # named, it would leave the merge and become the point of reference
    elif method.base in ("ignored", "forbidden") and str(options.base) not in names:
        engine_base = reference(names[0])
    shared = {key: _setting(value) for key, value in options.parameters.items()}
    if options.normalize is not None:
        shared["normalize"] = options.normalize
    found = {name for member in members.values() for name in member.dtypes}
    computed = None if found == {dtype} else "float64" if "float64" in found else "float32"
    return MergeConfiguration(
        merge_method=method.name,
        base_model=engine_base,
        models=[
            {
                "model": reference(str(member.from_)),
                "parameters": {
                    **{key: _setting(value) for key, value in member.parameters.items()},
                    **({"weight": member.weight} if member.weight is not None else {}),
                },
            }
            for member in options.models
        ],
        parameters=shared or None,
        dtype=computed,
        out_dtype=dtype,
    )


def _setting(value: Setting) -> Any:
    if isinstance(value, Mapping):
        return [{"filter": part, "value": item} for part, item in value.items()]
    return value


def _copy_all_but_weights(base: Checkpoint, target: Path, dtype: str) -> None:
    """Give the merged weights the base's configuration, tokenizer, chat template and generation settings."""
    for file in companion_files(base.folder):
        shutil.copyfile(file, target / file.name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)  # the older name of the same key
    config["dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _verify(target: Path, base: Checkpoint, dtype: str) -> int:
    """Check the merged weights tensor by tensor and load them; return the number of parameters."""
    seen: set[str] = set()
    parameters = 0
    for file in weight_files(target):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a mapping
                tensor = opened.get_tensor(key)
                if key not in base.tensors or tuple(tensor.shape) != base.tensors[key][1]:
                    raise StageError(f"mergekit wrote {key} {list(tensor.shape)}, which '{base.name}' does not have")
                if tensor.dtype != getattr(torch, dtype):
                    raise StageError(f"mergekit wrote {key} as {tensor.dtype}, not {dtype}")
                if not torch.isfinite(tensor).all():
                    raise StageError(f"the merged {key} has values that are not finite: check the weights of the merge")
                seen.add(key)
                parameters += tensor.numel()
    if seen != set(base.tensors):
        raise StageError(f"mergekit wrote no {', '.join(sorted(set(base.tensors) - seen)[:3])}")
    what = f"transformers does not load the merged model with the files of '{base.name}' ({base.folder})"
    with untrusted(what):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            target, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    model, loading = loaded
    wrong = {what: keys for what, keys in loading.items() if keys and what != "conversion_errors"}
    if wrong:
        raise StageError(f"the merged model does not load as its configuration says: {wrong}")
    with torch.inference_mode():
        logits = model(torch.arange(min(8, model.config.vocab_size)).unsqueeze(0)).logits
    if not torch.isfinite(logits).all():
        raise StageError("the merged model's logits are not finite")
    return parameters
