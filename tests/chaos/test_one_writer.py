"""Only one process writes a run: a second is told of the first, and a dead one's lock holds nobody up."""

from __future__ import annotations

import time
from pathlib import Path

from chaos_compare import LAUNCHED_ANOTHER_WAY, differences
from chaos_runs import STORE, Bench, await_end, children, end_group
from chaos_stores import artifacts, copy_store
from chaos_work import Reference

TOKEN = "one-writer-3f1c"


def test_a_second_run_is_refused_by_name_of_the_first_and_a_stale_lock_is_not_kept_to(
    reference: Reference, tmp_path: Path
) -> None:
    """The first is started as users start it: its stage is a process of its own, in a session of its own."""
    runs, bench = tmp_path / "runs", Bench()
    store = copy_store(reference.store, runs, without=["tokens"])
    first = bench.start(runs, tmp_path / "first.txt", environment={"CHAOS_TOKEN": TOKEN})
    try:
        end = time.monotonic() + 120
        while not (children(first.pid) and [*store.glob("tokens-*.partial")]):
            assert first.poll() is None and time.monotonic() < end, (tmp_path / "first.txt").read_text()
            time.sleep(0.01)
        second = bench.run(runs)
        assert first.poll() is None, "the first had ended: the second was alone"
        assert second.code != 0 and "Traceback" not in second.output
        assert f"process {first.pid}" in second.output, second.output
    finally:
        end_group(first)  # by SIGKILL
    await_end(TOKEN)
    bench.run(runs).check(0)
    one, other = artifacts(reference.store)["tokens"], artifacts(runs / STORE)["tokens"]
    assert differences(one, other, LAUNCHED_ANOTHER_WAY) == []
