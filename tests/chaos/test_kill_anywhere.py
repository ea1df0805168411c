"""A stage that is killed goes on to the very bytes that it would have published, each step done and told once.

Each case kills one process of the real pipeline, by SIGKILL at a chosen change to the file system, and runs again. The
long form, at every change that there is, is ``test_kill_everywhere.py``.
"""

from __future__ import annotations

import pytest
from chaos_work import Case

CASES = [
    Case(stage="tokenizer", role="worker", where=r"tokenizer/|result\.json"),
    Case(stage="tokens", role="worker", where=r"\.ds"),
    Case(stage="tokens", role="worker", where=r"tokens/.*json|counts"),
    Case(stage="pretrain-1", role="worker", where=r"step-4/"),
    Case(stage="pretrain-1", role="worker", where=r"partial/model"),
    Case(stage="pretrain-1", role="runner", where=r"manifest|stage\.json"),
    Case(stage="pretrain-2", role="worker", where=r"step-8/|step-10/"),
    Case(stage="sft", role="worker", where=r"checkpoint-4/"),
    Case(stage="sft", role="worker", where=r"partial/rows"),
    Case(stage="sft", role="runner", where=r"\.partial$|\.lock$"),
    Case(stage="apo", role="worker", where=r"checkpoint-6/"),
    Case(stage="apo", role="worker", where=r"checkpoints/0\.5"),
    Case(stage="merge", role="worker", where=r"model/"),
    Case(stage="export", role="worker", where=r"model/"),
    Case(stage="evaluate", role="worker", where=r"results|samples"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_killed_stage_ends_as_if_it_had_not_been(killed: list[str], case: Case) -> None:
    assert killed == []
