"""Twenty ways and more to get past each limit, each tried under its limit and again without it.

Under the limit a way comes to nothing beyond it: it is refused the next piece, or the run is ended with the limit's verdict and the evidence for it. What a
fallback cannot hold is marked in the register, with the reason, and then the run must say so. Without the limit the same way gets past it; if it did not,
the first test would prove nothing. Whatever happens, nothing of the run is left.

The figures of such runs are in docs/reference/limits-table.md, which `table.py` writes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from limits.trial import Limit, Outcome, Watch, Way, attempt
from limits.ways import LIMITS, WAYS

from sandbox.errors import UnsupportedError
from sandbox.result import Result, Verdict

OURS = {"memory": "memory", "cpu": "cpu-time accounting", "processes": "processes"}
"""What the result's `enforced` calls the limits that have a fallback."""


def every(ways: tuple[Way, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("way", ways, ids=[way.key.replace(": ", "-") for way in ways])


@every(WAYS)
def test_a_way_comes_to_nothing(way: Way, watch: Watch) -> None:
    limit = LIMITS[way.limit]
    try:
        # What has to be ended in time goes on for longer than a busy machine keeps who ends it waiting.
        outcome = attempt(limit, way, watch, times=5 if limit.name in ("cpu", "wall", "idle") else 1)
    except UnsupportedError as refusal:
        assert limit.controller and os.geteuid(), "only where an ordinary user was given no such controller"
        assert f"`limits.{limit.name}`" in str(refusal) and "hint:" in str(refusal), "refused, with the way to get it"
        return
    assert outcome.left == (), "processes of the run live on"
    if way.weak and outcome.backend == "fallback":
        said_so(way, outcome.run.result)
    elif not way.unheld:
        held(limit, way, outcome)


@pytest.mark.slow
@every(WAYS)
def test_without_the_limit_it_gets_past(way: Way, watch: Watch) -> None:
    limit = LIMITS[way.limit]
    bound: float = limit.bound
    if limit.name == "cpus":  # what others leave of the machine may be less than that: a plain program, which no limit holds, tells
        with plain_share() as share:
            outcome = attempt(limit, way, watch, lifted=True)
            bound = min(bound, share() / 4)
    else:
        outcome = attempt(limit, way, watch, lifted=True)
    result = outcome.run.result
    assert outcome.left == ()
    assert result.verdict not in limit.verdicts, result.cause
    if limit.name == "cpus" and outcome.backend == "fallback" and way.name.startswith("unheeded"):
        pytest.skip("without a cgroup nobody counts the CPU time of children that nobody waits for, and the limit is refused there")
    assert outcome.got > bound, (result.cause, outcome.run.facts)


@contextlib.contextmanager
def plain_share() -> Iterator[Callable[[], float]]:
    """Run a plain program beside the trial that computes without rest; yield what tells how much of a processor it has got, in per cent."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"], start_new_session=True) as process:
        began = time.monotonic_ns()
        try:
            yield lambda: 100 * int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / (time.monotonic_ns() - began)
        finally:
            process.kill()


def held(limit: Limit, way: Way, outcome: Outcome) -> None:
    """Assert that the limit stood: nothing beyond it, and if the run was ended for it, rightly so and with evidence."""
    result = outcome.run.result
    if limit.name == "cpus":
        assert outcome.got <= 2 * limit.bound, "a quota is for 100 ms, of which a short run may see the ends"
    elif limit.exact:
        assert outcome.got <= limit.bound, (result.cause, outcome.run.facts)
    elif outcome.got > limit.bound:
        assert result.verdict in limit.verdicts, (result.verdict, result.cause, outcome.run.facts)
    if result.verdict in limit.verdicts:
        evident(limit, way, outcome)
    if limit.name == "processes":
        assert outcome.tasks <= limit.bound, "seen by the host"


def evident(limit: Limit, way: Way, outcome: Outcome) -> None:
    """Assert that the result proves the verdict."""
    result, usage = outcome.run.result, outcome.run.result.usage
    match result.verdict:
        case Verdict.MEMORY_LIMIT:
            assert usage.memory_peak_bytes is not None and usage.memory_source is not None
            bound = limit.bound << 20
            if outcome.backend == "fallback":
                assert usage.memory_peak_bytes > bound, result.cause
            else:
                # v1 tells by an event that the limit is met, and the run may be ended before the kernel has counted a kill
                assert usage.oom_kills or (outcome.backend == "cgroup1" and usage.memory_peak_bytes > bound - (64 << 10)), result.cause
                # What the network brings is charged after it has come: cgroup v2 had 12 KiB of TCP buffers beyond the limit.
                beyond = 64 << 10 if "tcp" in way.name else 0
                assert bound - (1 << 20) < usage.memory_peak_bytes <= bound + beyond, "the kernel lets no byte more be charged"
        case Verdict.IDLE_LIMIT:
            assert outcome.got >= limit.bound and "done" not in outcome.run.facts, result.cause
        case Verdict.CPU_LIMIT:
            assert usage.cpu_ns > limit.bound * 10**6, result.cause
        case Verdict.WALL_LIMIT:
            assert usage.wall_ns >= limit.bound * 10**6 and "done" not in outcome.run.facts, result.cause
        case Verdict.OUTPUT_LIMIT:
            assert usage.output_bytes > limit.bound << 10 if limit.name == "output" else "SIGXFSZ" in result.cause


def said_so(way: Way, result: Result) -> None:
    """Assert that a result names in words that this limit was not fully held."""
    entry = next(entry for entry in result.enforced if entry.what == OURS[way.limit])
    assert not entry.how.startswith("cgroup") and entry.weaker, entry
    assert result.notes, "nor do the notes say it"
