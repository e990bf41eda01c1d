"""Verdicts: which evidence gives which, and which goes first."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.result import Enforcement, Outcome, Result, Usage, Verdict, classify_outcome, decode_wait_status, signal_name

USAGE = Usage(wall_ns=5, cpu_user_ns=2, cpu_sys_ns=1, cpu_source="cpu.stat", memory_peak_bytes=9, memory_source="memory.peak", processes_peak=4,
              processes_source="pids.peak", output_bytes=7)  # fmt: skip
LIMITS = {"wall_ns": 50, "cpu_ns": 20, "memory_bytes": 90, "processes": 40, "output_bytes": 70}


def outcome(status: int | None = 0, killed: Verdict | None = None, fatal: str | None = None, **usage: int) -> Outcome:
    """Return the facts of a run."""
    return Outcome(wait_status=status, killed_for=killed, usage=replace(USAGE, **usage), denied_fatal=fatal)


def exited(code: int) -> int:
    """Return the wait status of an exit."""
    return code << 8


@pytest.mark.parametrize(("facts", "verdict", "cause"), [
    (outcome(0), Verdict.OK, "exit 0"),
    (outcome(exited(3)), Verdict.NONZERO_EXIT, "exit 3"),
    (outcome(exited(137)), Verdict.NONZERO_EXIT, "exit 137"),
    (outcome(9), Verdict.SIGNALED, "signal 9 (SIGKILL)"),
    (outcome(11 | 0x80), Verdict.SIGNALED, "signal 11 (SIGSEGV)"),
    (outcome(40), Verdict.SIGNALED, "signal 40 (signal 40)"),
    (outcome(24), Verdict.CPU_LIMIT, "SIGXCPU: RLIMIT_CPU of one process"),
    (outcome(25), Verdict.OUTPUT_LIMIT, "SIGXFSZ: RLIMIT_FSIZE of one file"),
    (outcome(31), Verdict.DENIED_SYSCALL, "SIGSYS: the filter killed the process"),
    (outcome(31, fatal="mount, strict.toml:4"), Verdict.DENIED_SYSCALL, "mount, strict.toml:4"),
    (outcome(None), Verdict.SETUP_FAILED, "the sandbox's init ended without a report"),
    (outcome(None, oom_kills=1), Verdict.MEMORY_LIMIT, "memory.peak 9 bytes, limit 90 bytes, oom kills 1"),
    (outcome(9, oom_kills=2), Verdict.MEMORY_LIMIT, "memory.peak 9 bytes, limit 90 bytes, oom kills 2"),
    (outcome(exited(1), oom_kills=1), Verdict.MEMORY_LIMIT, "memory.peak 9 bytes, limit 90 bytes, oom kills 1"),
    (outcome(0, oom_kills=1), Verdict.OK, "exit 0"),  # it got over the loss of a child
    (outcome(exited(1), process_limit_hits=3), Verdict.PROCESS_LIMIT, "pids.events max 3; then exit 1"),
    (outcome(6, process_limit_hits=1), Verdict.PROCESS_LIMIT, "pids.events max 1; then signal 6 (SIGABRT)"),
    (outcome(0, process_limit_hits=3), Verdict.OK, "exit 0"),
    (outcome(9, killed=Verdict.WALL_LIMIT), Verdict.WALL_LIMIT, "wall 5 ns, limit 50 ns"),
    (outcome(9, killed=Verdict.CPU_LIMIT), Verdict.CPU_LIMIT, "cpu.stat 3 ns, limit 20 ns"),
    (outcome(9, killed=Verdict.MEMORY_LIMIT), Verdict.MEMORY_LIMIT, "memory.peak 9 bytes, limit 90 bytes"),
    (outcome(9, killed=Verdict.OUTPUT_LIMIT), Verdict.OUTPUT_LIMIT, "output 7 bytes, limit 70 bytes"),
    (outcome(9, killed=Verdict.PROCESS_LIMIT), Verdict.PROCESS_LIMIT, "pids.peak 4, limit 40"),
    (outcome(None, killed=Verdict.WALL_LIMIT), Verdict.WALL_LIMIT, "wall 5 ns, limit 50 ns"),
    (outcome(0, killed=Verdict.WALL_LIMIT, oom_kills=1), Verdict.WALL_LIMIT, "wall 5 ns, limit 50 ns"),  # what we saw goes first
    (outcome(24, oom_kills=1), Verdict.MEMORY_LIMIT, "memory.peak 9 bytes, limit 90 bytes, oom kills 1"),
    (outcome(24, process_limit_hits=1), Verdict.CPU_LIMIT, "SIGXCPU: RLIMIT_CPU of one process"),
])  # fmt: skip
def test_verdicts(facts: Outcome, verdict: Verdict, cause: str) -> None:
    assert classify_outcome(facts, LIMITS) == (verdict, cause)


@given(st.integers(0, 255))
def test_exit_statuses_are_decoded_as_the_library_does(code: int) -> None:
    status = exited(code)
    assert os.WIFEXITED(status)
    assert decode_wait_status(status) == (os.WEXITSTATUS(status), None) == (code, None)


@pytest.mark.parametrize("dumped", [0, 0x80])
@pytest.mark.parametrize("number", range(1, 65))
def test_signal_statuses_are_decoded_as_the_library_does(number: int, dumped: int) -> None:
    status = number | dumped
    assert os.WIFSIGNALED(status)
    assert decode_wait_status(status) == (128 + os.WTERMSIG(status), number)


@given(
    st.none() | st.integers(0, 0xFFFF), st.none() | st.sampled_from(list(Verdict)), st.none() | st.integers(0, 5), st.none() | st.integers(0, 5)
)  # fmt: skip
def test_a_run_is_ok_only_if_it_ended_by_itself_with_0(
    status: int | None, killed: Verdict | None, ooms: int | None, hits: int | None
) -> None:
    facts = Outcome(wait_status=status, killed_for=killed, usage=replace(USAGE, oom_kills=ooms, process_limit_hits=hits))
    verdict, cause = classify_outcome(facts, LIMITS)
    assert cause
    if verdict is Verdict.OK and killed is not Verdict.OK:
        assert killed is None and status is not None and decode_wait_status(status) == (0, None)


def test_names_of_signals() -> None:
    assert [signal_name(n) for n in (9, 31, 64, 33)] == ["SIGKILL", "SIGSYS", "SIGRTMAX", "signal 33"]
    assert signal_name(signal.SIGTERM) == "SIGTERM"


def test_to_dict_is_plain_json_and_leaves_streams_out() -> None:
    result = Result(
        verdict=Verdict.SIGNALED, cause="signal 9 (SIGKILL)", exit_code=137, signal=9, usage=USAGE, run_id="r", profile="p", profile_digest="d",
        policy="q", policy_digest="e", stdout=b"\xff", stderr=b"", denials={"mount": 2, "bpf": 1},
        enforced=(Enforcement(what="memory", how="cgroup"), Enforcement(what="cpu", how="sampling", weaker="late")), notes=("n",),
    )  # fmt: skip
    shown = result.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert list(shown["denials"]) == ["bpf", "mount"]  # type: ignore[call-overload]
    assert "stdout" not in shown and "stderr" not in shown
    assert shown["enforced"] == [{"what": "memory", "how": "cgroup", "weaker": ""}, {"what": "cpu", "how": "sampling", "weaker": "late"}]
    assert not result.ok and replace(result, verdict=Verdict.OK).ok
    assert USAGE.cpu_ns == 3
