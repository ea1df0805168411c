"""Which attention runs where."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from smolrecipe import ModelDraft, StageError
from smolrecipe_docmask import DocmaskOptions


def refusals(draft: ModelDraft, options: DocmaskOptions) -> Iterator[str]:
    """Yield why the backend asked for cannot compute what the draft is built for, on any machine, and what can."""
    backend = options.backend
    refuse = f"model component 'docmask' with backend: {backend}"
    if draft.device == "cpu" and backend not in ("auto", "sdpa"):
        lack = "has no backward pass" if backend == "flex" else "has no kernel"
        yield f"{refuse} {lack} on a CPU: use backend: auto or sdpa"
    elif draft.context_parallel > 1 and backend in ("varlen", "flash"):
        yield (
            f"{refuse} cannot split a sequence over {draft.context_parallel} devices: "
            "use backend: auto or flex, or context_parallel: 1"
        )


def choose(draft: ModelDraft, options: DocmaskOptions) -> str:
    """The backend for what the draft is built for: ``sdpa``, ``flex``, ``varlen`` or ``flash``.

    Whether flash-attn is installed is asked here and not when the recipe is checked: that may happen elsewhere.

    Raises:
        StageError: when the backend asked for does not run there, with one that does.
    """
    if refusal := next(refusals(draft, options), None):
        raise StageError(refusal)
    backend = options.backend
    if backend == "auto":
        if draft.device == "cpu":
            return "sdpa"
        return "varlen" if draft.context_parallel == 1 else "flex"
    if backend == "flash" and find_spec("flash_attn") is None:
        raise StageError(
            "model component 'docmask' with backend: flash needs the flash-attn library, which is not installed: "
            "pip install 'smolrecipe[flash]', or use backend: varlen"
        )
    return backend
