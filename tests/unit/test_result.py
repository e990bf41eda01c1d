"""Verdicts: which evidence gives which, and which goes first."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.result import Enforcement, Evidence, NearLimit, Result, Usage, Verdict, decode_wait_status, signal_name
from sandbox.verdict import Judgement, Outcome, classify_outcome

MS, S, MB = 1_000_000, 1_000_000_000, 1 << 20
USAGE = Usage(wall_ns=5 * S, cpu_user_ns=2 * S, cpu_sys_ns=1 * S, cpu_source="cpu.stat", memory_peak_bytes=9 * MB, memory_source="memory.peak",
              processes_peak=4, processes_source="pids.peak", output_bytes=7, oom_kills=0, oom_source="memory.events oom_kill", memory_max_hits=0,
              process_limit_hits=0)  # fmt: skip
LIMITS = {"wall_ns": 50 * S, "cpu_ns": 20 * S, "idle_ns": 40 * S, "memory_bytes": 90 * MB, "processes": 40, "output_bytes": 70}
OOM = {"oom_kills": 1, "memory_max_hits": 5, "memory_peak_bytes": 90 * MB}
OOM_CAUSE = f"memory.peak {90 * MB} bytes, limit {90 * MB} bytes, memory.events oom_kill 1"


def outcome(
    status: int | None = 0, killed: Verdict | None = None, fatal: str | None = None, mapped: int | None = None, tables: int = 0, **usage: Any
) -> Outcome:
    """Return the facts of a run."""
    return Outcome(wait_status=status, killed_for=killed, usage=replace(USAGE, **usage), denied_fatal=fatal, mapped_file_bytes=mapped, table_bytes=tables)


def judge(facts: Outcome, **limits: int | None) -> Judgement:
    """Classify under the limits above, some of them changed."""
    return classify_outcome(facts, LIMITS | limits)


def exited(code: int) -> int:
    """Return the wait status of an exit."""
    return code << 8


CPU_OVER = {"cpu_user_ns": 20 * S, "cpu_sys_ns": 1}
FALLBACK = {"oom_kills": None, "oom_source": None, "memory_max_hits": None, "process_limit_hits": None, "processes_source": "sampled threads"}


@pytest.mark.parametrize(("facts", "verdict", "cause"), [
    # How it ended, no limit met.
    (outcome(0), Verdict.OK, "exit 0"),
    (outcome(exited(3)), Verdict.NONZERO_EXIT, "exit 3"),
    (outcome(exited(137)), Verdict.NONZERO_EXIT, "exit 137"),
    (outcome(9), Verdict.SIGNALED, "signal 9 (SIGKILL)"),
    (outcome(11 | 0x80), Verdict.SIGNALED, "signal 11 (SIGSEGV)"),
    (outcome(40), Verdict.SIGNALED, "signal 40 (signal 40)"),
    (outcome(None), Verdict.SETUP_FAILED, "the sandbox's init ended without a report"),
    (outcome(31), Verdict.DENIED_SYSCALL, "SIGSYS: the filter killed the process"),
    (outcome(31, fatal="mount, strict.toml:4"), Verdict.DENIED_SYSCALL, "mount, strict.toml:4"),
    (outcome(25), Verdict.OUTPUT_LIMIT, "SIGXFSZ: RLIMIT_FSIZE of one file"),
    # SIGXCPU proves something only beside CPU time: a program can send it to itself.
    (outcome(24), Verdict.SIGNALED, "signal 24 (SIGXCPU)"),
    (outcome(24, cpu_user_ns=18 * S, cpu_sys_ns=0), Verdict.CPU_LIMIT, f"cpu.stat {18 * S} ns, limit {20 * S} ns, SIGXCPU of RLIMIT_CPU"),
    # What the supervisor acted on goes first, for it is why the run ended.
    (outcome(9, killed=Verdict.WALL_LIMIT), Verdict.WALL_LIMIT, f"wall {5 * S} ns, limit {50 * S} ns"),
    (outcome(9, killed=Verdict.IDLE_LIMIT), Verdict.IDLE_LIMIT, f"wall less CPU time {2 * S} ns, limit {40 * S} ns"),
    (outcome(9, killed=Verdict.CPU_LIMIT), Verdict.CPU_LIMIT, f"cpu.stat {3 * S} ns, limit {20 * S} ns"),
    (outcome(9, killed=Verdict.MEMORY_LIMIT), Verdict.MEMORY_LIMIT, f"memory.peak {9 * MB} bytes, limit {90 * MB} bytes, memory.events oom_kill 0"),
    (outcome(9, killed=Verdict.OUTPUT_LIMIT), Verdict.OUTPUT_LIMIT, "output 7 bytes, limit 70 bytes"),
    (outcome(9, killed=Verdict.PROCESS_LIMIT), Verdict.PROCESS_LIMIT, "pids.peak 4, limit 40"),
    (outcome(None, killed=Verdict.WALL_LIMIT), Verdict.WALL_LIMIT, f"wall {5 * S} ns, limit {50 * S} ns"),
    (outcome(0, killed=Verdict.WALL_LIMIT, **OOM), Verdict.WALL_LIMIT, f"wall {5 * S} ns, limit {50 * S} ns"),
    (outcome(31, killed=Verdict.CPU_LIMIT), Verdict.CPU_LIMIT, f"cpu.stat {3 * S} ns, limit {20 * S} ns"),
    # Then the filter's kill, memory, CPU time, wall time, idle time, in this order.
    (outcome(31, **OOM), Verdict.DENIED_SYSCALL, "SIGSYS: the filter killed the process"),
    (outcome(None, **OOM), Verdict.MEMORY_LIMIT, OOM_CAUSE),  # memory.oom.group takes init along
    (outcome(9, **OOM), Verdict.MEMORY_LIMIT, OOM_CAUSE),
    (outcome(exited(1), **OOM), Verdict.MEMORY_LIMIT, OOM_CAUSE),
    (outcome(0, **OOM), Verdict.MEMORY_LIMIT, OOM_CAUSE),  # a part of it was killed, whatever the rest made of that
    (outcome(0, **(OOM | CPU_OVER)), Verdict.MEMORY_LIMIT, OOM_CAUSE),
    (outcome(0, **CPU_OVER), Verdict.CPU_LIMIT, f"cpu.stat {20 * S + 1} ns, limit {20 * S} ns"),  # it ended by itself between two looks
    (outcome(0, **CPU_OVER, wall_ns=51 * S), Verdict.CPU_LIMIT, f"cpu.stat {20 * S + 1} ns, limit {20 * S} ns"),
    (outcome(0, wall_ns=51 * S), Verdict.WALL_LIMIT, f"wall {51 * S} ns, limit {50 * S} ns"),
    (outcome(0, wall_ns=44 * S), Verdict.IDLE_LIMIT, f"wall less CPU time {41 * S} ns, limit {40 * S} ns"),
    (outcome(0, output_bytes=71), Verdict.OUTPUT_LIMIT, "output 71 bytes, limit 70 bytes"),
    (outcome(24, **OOM), Verdict.MEMORY_LIMIT, OOM_CAUSE),
    # A refused fork counts only if the program then failed.
    (outcome(exited(1), process_limit_hits=3), Verdict.PROCESS_LIMIT, "pids.events max 3; then exit 1"),
    (outcome(6, process_limit_hits=1), Verdict.PROCESS_LIMIT, "pids.events max 1; then signal 6 (SIGABRT)"),
    (outcome(0, process_limit_hits=3), Verdict.OK, "exit 0"),
    # The kernel killed, but not for this limit: nothing met it, and the peak is far from it.
    (outcome(9, oom_kills=1), Verdict.SIGNALED, "signal 9 (SIGKILL): the kernel killed for memory, but not for this run's limit"),
    (outcome(9, oom_kills=1, memory_peak_bytes=89 * MB), Verdict.MEMORY_LIMIT, f"memory.peak {89 * MB} bytes, limit {90 * MB} bytes, memory.events oom_kill 1"),
    # Page cache: met the limit a thousand times, and no kill.
    (outcome(0, memory_max_hits=1000, memory_peak_bytes=90 * MB), Verdict.OK, "exit 0"),
    (outcome(exited(1), memory_max_hits=1000, memory_peak_bytes=90 * MB), Verdict.NONZERO_EXIT, "exit 1"),
    # Without a cgroup: the largest process's peak proves it, mapped files taken off, where the program then failed.
    (outcome(exited(1), mapped=6 * MB, maxrss_bytes=100 * MB, **FALLBACK), Verdict.MEMORY_LIMIT,
     f"ru_maxrss of the largest process, mapped files taken off, page tables added {94 * MB} bytes, limit {90 * MB} bytes; then exit 1"),
    (outcome(9, killed=Verdict.MEMORY_LIMIT, mapped=6 * MB, memory_sampled_bytes=91 * MB, maxrss_bytes=80 * MB, **FALLBACK), Verdict.MEMORY_LIMIT,
     f"sampled RSS of all processes {91 * MB} bytes, limit {90 * MB} bytes"),
    (outcome(0, mapped=6 * MB, maxrss_bytes=100 * MB, **FALLBACK), Verdict.OK, "exit 0"),
    (outcome(exited(1), mapped=10 * MB, tables=MB, maxrss_bytes=100 * MB, **FALLBACK), Verdict.MEMORY_LIMIT,
     f"ru_maxrss of the largest process, mapped files taken off, page tables added {90 * MB + 100 * MB // 512} bytes, limit {90 * MB} bytes; then exit 1"),
    (outcome(exited(1), mapped=10 * MB, maxrss_bytes=100 * MB, **FALLBACK), Verdict.NONZERO_EXIT, "exit 1"),
    (outcome(exited(1), mapped=20 * MB, maxrss_bytes=100 * MB, **FALLBACK), Verdict.NONZERO_EXIT, "exit 1"),
    (outcome(exited(1), mapped=0, maxrss_bytes=100 * MB, **FALLBACK), Verdict.NONZERO_EXIT, "exit 1"),  # no sample saw the files
])  # fmt: skip
def test_verdicts(facts: Outcome, verdict: Verdict, cause: str) -> None:
    judged = judge(facts)
    assert (judged.verdict, judged.cause) == (verdict, cause)
    # Whatever the verdict, it has a fact that proves it, or none is there to prove.
    hits = {fact.limit for fact in judged.evidence if fact.hit}
    name = {Verdict.PROCESS_LIMIT: "processes"}.get(verdict, str(verdict).removesuffix("-limit"))
    if str(verdict).endswith("-limit") and not cause.startswith("SIGXFSZ"):
        assert name in hits
    elif verdict is Verdict.OK:
        assert hits <= {"processes"}


def test_every_limit_that_was_met_is_flagged() -> None:
    judged = judge(outcome(9, killed=Verdict.WALL_LIMIT, **(OOM | CPU_OVER), process_limit_hits=2))
    assert {fact.limit for fact in judged.evidence if fact.hit} == {"wall", "cpu", "memory", "processes"}
    assert Evidence(limit="memory", counter="memory.events oom_kill", value=1, bound=None, unit="count", hit=True) in judged.evidence
    assert Evidence(limit="processes", counter="pids.events max", value=2, bound=None, unit="count", hit=True) in judged.evidence
    assert Evidence(limit="cpu", counter="cpu.stat", value=20 * S + 1, bound=20 * S, unit="ns", hit=True) in judged.evidence


def test_idle_time_is_told_as_it_was_judged() -> None:
    """The end of a run, on two processors, took more CPU time than wall time."""
    ended = replace(outcome(9, killed=Verdict.IDLE_LIMIT), idle_ns=40 * S + 1)
    judged = judge(ended)
    assert judged.cause == f"wall less CPU time {40 * S + 1} ns, limit {40 * S} ns"
    (fact,) = [fact for fact in judged.evidence if fact.limit == "idle"]
    assert fact.hit and fact.value == 40 * S + 1
    (fact,) = [fact for fact in judge(replace(ended, killed_for=Verdict.CPU_LIMIT)).evidence if fact.limit == "idle"]
    assert not fact.hit and fact.value == 2 * S, "ended for another limit: as it came out"


def test_limits_that_were_not_asked_for_are_no_evidence() -> None:
    none: dict[str, int | None] = dict.fromkeys(LIMITS)
    assert judge(outcome(0), **none).evidence == ()
    assert judge(outcome(24, cpu_user_ns=99 * S), **none).verdict is Verdict.SIGNALED
    assert judge(outcome(9, oom_kills=1), **none).verdict is Verdict.SIGNALED


@pytest.mark.parametrize(("facts", "near"), [
    (outcome(0), {}),
    (outcome(0, cpu_user_ns=18 * S), {"cpu": 19 / 20}),
    (outcome(0, cpu_user_ns=18 * S - 1), {}),
    (outcome(0, cpu_user_ns=19 * S + 1), {"cpu": 1.0}),  # met, by the exact figure, and ended by itself: it could have been otherwise
    (outcome(9, killed=Verdict.CPU_LIMIT, cpu_user_ns=19 * S + 5 * MS), {}),  # ended for it: how long it would have gone on nobody knows
    (outcome(9, killed=Verdict.WALL_LIMIT, wall_ns=50 * S, cpu_user_ns=18 * S), {"cpu": 19 / 20}),
    (outcome(0, wall_ns=48 * S, cpu_user_ns=16 * S), {"wall": 48 / 50}),
    (outcome(0, memory_peak_bytes=90 * MB, memory_max_hits=9, memory_anon_peak_bytes=30 * MB, memory_kernel_peak_bytes=MB, memory_sample_step_bytes=MB), {}),
    (outcome(0, memory_peak_bytes=90 * MB, memory_anon_peak_bytes=85 * MB, memory_kernel_peak_bytes=MB, memory_sample_step_bytes=MB), {"memory": 87 / 90}),
    (outcome(9, **OOM), {}),
    (outcome(0, memory_peak_bytes=88 * MB), {"memory": 88 / 90}),  # no samples: all that is known is the peak
    (outcome(0, mapped=6 * MB, maxrss_bytes=100 * MB, **FALLBACK), {"memory": 94 / 90}),
    (outcome(0, processes_peak=40, process_limit_hits=2), {"processes": 1.0}),
    (outcome(exited(1), processes_peak=40, **FALLBACK), {"processes": 1.0}),  # a fork may have been refused, or not
    (outcome(exited(1), processes_peak=40, process_limit_hits=2), {}),
])  # fmt: skip
def test_near_limits(facts: Outcome, near: dict[str, float]) -> None:
    found = judge(facts).near_limits
    assert {entry.limit: round(entry.ratio, 6) for entry in found} == {name: round(ratio, 6) for name, ratio in near.items()}


def test_short_limits_are_near_by_milliseconds() -> None:
    assert [entry.limit for entry in judge(outcome(0, cpu_user_ns=91 * MS, cpu_sys_ns=0), cpu_ns=100 * MS).near_limits] == ["cpu"]
    assert judge(outcome(0, cpu_user_ns=4 * MS, cpu_sys_ns=0), cpu_ns=10 * MS).near_limits == ()
    assert NearLimit(limit="cpu", value=1, bound=0).ratio == 1.0


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
    verdict = judge(facts).verdict
    assert judge(facts).cause
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
        evidence=(Evidence(limit="cpu", counter="cpu.stat", value=3, bound=2, unit="ns", hit=True),),
        near_limits=(NearLimit(limit="cpu", value=3, bound=2),),
    )  # fmt: skip
    shown = result.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert list(shown["denials"]) == ["bpf", "mount"]  # type: ignore[call-overload]
    assert "stdout" not in shown and "stderr" not in shown
    assert shown["enforced"] == [{"what": "memory", "how": "cgroup", "weaker": ""}, {"what": "cpu", "how": "sampling", "weaker": "late"}]
    assert not result.ok and replace(result, verdict=Verdict.OK).ok
    assert USAGE.cpu_ns == 3 * S
    assert shown["limits_hit"] == ["cpu"] and shown["cpu_source"] == "cpu.stat" and shown["paused_ns"] == 0
    assert shown["evidence"] == [{"limit": "cpu", "counter": "cpu.stat", "value": 3, "bound": 2, "unit": "ns", "hit": True}]
    assert shown["near_limits"] == [{"limit": "cpu", "value": 3, "bound": 2, "ratio": 1.5}]
