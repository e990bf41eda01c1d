"""The judge's verdicts: which conditions give which, what goes first, and what is said of what is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.judge.check import Checked
from sandbox.judge.model import Code, RunLimits
from sandbox.judge.verdict import PRECEDENCE, WORDS, code_of, doubts, near_limits
from sandbox.result import Result, Usage, Verdict
from sandbox.verdict import Outcome, classify_outcome

MS, S, MB = 1_000_000, 1_000_000_000, 1 << 20
LIMITS = RunLimits(cpu_ns=S, cpu_cut_ns=2 * S, wall_ns=8 * S, memory_bytes=90 * MB, output_bytes=70, idle_ns=5 * S)
USAGE = Usage(
    wall_ns=S // 2, cpu_user_ns=S // 4, cpu_sys_ns=0, cpu_source="cpu.stat", memory_peak_bytes=9 * MB, memory_source="memory.peak", processes_peak=1,
    processes_source="pids.peak", output_bytes=7, oom_kills=0, oom_source="memory.events oom_kill", memory_max_hits=0, process_limit_hits=0,
)  # fmt: skip
FALLBACK: dict[str, Any] = {
    "oom_kills": None, "oom_source": None, "memory_max_hits": None, "process_limit_hits": None, "processes_source": "sampled threads",
    "memory_sampled_bytes": 9 * MB, "memory_source": "sampled",
}  # fmt: skip
OOM = {"oom_kills": 1, "memory_max_hits": 5, "memory_peak_bytes": 90 * MB}


def ran(status: int | None = 0, killed: Any = None, by: str = "", mapped: int | None = None, **usage: Any) -> Result:
    """Return the result that the sandbox would make of these facts, under the limits of such a run."""
    outcome = Outcome(wait_status=status, killed_for=Verdict(killed) if killed else None, usage=replace(USAGE, **usage), killed_by=by, mapped_file_bytes=mapped)
    asked = {"wall_ns": 8 * S, "cpu_ns": 2 * S, "idle_ns": 5 * S, "memory_bytes": 90 * MB, "processes": 40, "output_bytes": 70}
    judged = classify_outcome(outcome, asked)
    code, signal = (137, 9) if status is None or killed else ((128 + (status & 0x7F), status & 0x7F) if status & 0x7F else (status >> 8, None))
    if not code and judged.verdict != "ok":
        code = 137
    return Result(
        verdict=judged.verdict, cause=judged.cause, exit_code=code, signal=signal, usage=outcome.usage, run_id="r", profile="judge", profile_digest="",
        policy="judge", policy_digest="", evidence=judged.evidence, near_limits=judged.near_limits,
    )  # fmt: skip


ACCEPTED, REJECTED, SILENT = Checked(accepted=True, exit=42), Checked(accepted=False, exit=43, cause="3 is not 4"), Checked(accepted=None, cause="exit 1")


@pytest.mark.parametrize(("result", "checked", "flags", "cause"), [
    (ran(), ACCEPTED, (), ""),
    (ran(), None, (), ""),
    (ran(), REJECTED, (Code.WA,), "3 is not 4"),
    (ran(), SILENT, (Code.JE,), "exit 1"),
    # How it ended.
    (ran(3 << 8), None, (Code.NZE,), "exit 3"),
    (ran(137 << 8), None, (Code.NZE,), "exit 137"),
    (ran(11), None, (Code.RTE,), "signal 11 (SIGSEGV)"),
    (ran(9), None, (Code.RTE,), "signal 9 (SIGKILL)"),
    (ran(31), None, (Code.SYS,), "SIGSYS: the filter killed the process"),
    # CPU time is judged by the exact number, whatever the run was let go on to.
    (ran(cpu_user_ns=S), ACCEPTED, (), ""),
    (ran(cpu_user_ns=S, cpu_sys_ns=1), ACCEPTED, (Code.TLE,), "CPU time 1 s, limit 1 s"),
    (ran(cpu_user_ns=S, cpu_sys_ns=1000), ACCEPTED, (Code.TLE,), "CPU time 1.000001 s, limit 1 s"),
    (ran(killed="cpu-limit", cpu_user_ns=2 * S + 5 * MS), None, (Code.TLE,), "CPU time 2.005 s, limit 1 s, ended there"),
    (ran(11, cpu_user_ns=3 * S // 2), None, (Code.TLE, Code.RTE), "CPU time 1.5 s, limit 1 s"),
    (ran(1 << 8, cpu_user_ns=3 * S // 2), None, (Code.TLE, Code.NZE), "CPU time 1.5 s, limit 1 s"),
    (ran(cpu_user_ns=3 * S // 2), REJECTED, (Code.TLE, Code.WA), "CPU time 1.5 s, limit 1 s"),
    # SIGXCPU that a program sends to itself is a signal.
    (ran(24), None, (Code.RTE,), "signal 24 (SIGXCPU)"),
    # What sleeps.
    (ran(killed="wall-limit", wall_ns=8 * S), None, (Code.WTL,), "ended after 8 s (wall limit 8 s) with 0.25 s of CPU time used"),
    (ran(killed="idle-limit", wall_ns=6 * S), None, (Code.WTL,), "ended after 6 s (idle limit 5 s) with 0.25 s of CPU time used"),
    (ran(killed="wall-limit", wall_ns=8 * S, cpu_user_ns=S + 1), None, (Code.TLE, Code.WTL), "CPU time 1 s, limit 1 s"),
    # Memory.
    (ran(9, **OOM), None, (Code.MLE,), f"memory.peak {90 * MB} bytes, limit {90 * MB} bytes, memory.events oom_kill 1"),
    (ran(9, **OOM, cpu_user_ns=3 * S), None, (Code.MLE, Code.TLE), f"memory.peak {90 * MB} bytes, limit {90 * MB} bytes, memory.events oom_kill 1"),
    (ran(0, **OOM), None, (Code.MLE,), f"memory.peak {90 * MB} bytes, limit {90 * MB} bytes, memory.events oom_kill 1"),
    (ran(killed="memory-limit", mapped=1, **{**FALLBACK, "memory_sampled_bytes": 95 * MB}), None, (Code.MLE,),
     f"sampled RSS of all processes {95 * MB} bytes, limit {90 * MB} bytes"),
    (ran(mapped=MB, **FALLBACK, maxrss_bytes=92 * MB), ACCEPTED, (Code.MLE,),
     f"ru_maxrss of the largest process, mapped files taken off, page tables added {91 * MB} bytes, limit {90 * MB} bytes"),
    (ran(mapped=MB, **FALLBACK, maxrss_bytes=91 * MB), ACCEPTED, (), ""),
    # A refused allocation of which ru_maxrss is left.
    (ran(6, mapped=1, **FALLBACK, maxrss_bytes=91 * MB), None, (Code.MLE,),
     f"ru_maxrss of the largest process, mapped files taken off, page tables added {91 * MB - 1} bytes, limit {90 * MB} bytes; then signal 6 (SIGABRT)"),
    # The same, but nothing proves it.
    (ran(6, mapped=1, **FALLBACK, maxrss_bytes=20 * MB), None, (Code.RTE,), "signal 6 (SIGABRT)"),
    # Output.
    (ran(killed="output-limit", output_bytes=71), None, (Code.OLE,), "output 71 bytes, limit 70 bytes"),
    (ran(25), None, (Code.OLE,), "SIGXFSZ: RLIMIT_FSIZE of one file"),
    # Forks that were refused: what the program made of it.
    (ran(1 << 8, process_limit_hits=2), None, (Code.NZE,), "exit 1; forks were refused: pids.events max 2"),
    (ran(6, process_limit_hits=2), None, (Code.RTE,), "signal 6 (SIGABRT); forks were refused: pids.events max 2"),
    (ran(0, process_limit_hits=2), ACCEPTED, (), ""),
    # Nobody's fault but ours.
    (ran(None), None, (Code.JE,), "the sandbox failed: the sandbox's init ended without a report"),
    (ran(killed="signaled", by="killed by `sandbox kill`"), None, (Code.JE,), "ended from outside: killed by `sandbox kill`"),
    (ran(killed="signaled"), None, (Code.JE,), "ended from outside: killed on request"),
    (ran(9, oom_kills=1, memory_peak_bytes=5 * MB), None, (Code.JE,),
     "the host ran out of memory: the kernel ended the program, which was within its own limit"),
    (ran(None, cpu_user_ns=3 * S), None, (Code.JE, Code.TLE), "the sandbox failed: the sandbox's init ended without a report"),
])  # fmt: skip
def test_conditions(result: Result, checked: Checked | None, flags: tuple[Code, ...], cause: str) -> None:
    """Every condition that held is a flag, and the first of them the verdict."""
    assert code_of(result, LIMITS, checked) == (flags[0] if flags else Code.AC, flags, cause)


def test_every_verdict_has_a_place_and_a_word() -> None:
    """None is forgotten; and the order is the one that is written down."""
    assert set(PRECEDENCE) == set(Code) == set(WORDS)
    assert [str(code) for code in PRECEDENCE] == "JE CE SYS MLE TLE WTL OLE RTE NZE WA AC".split()
    assert {WORDS[code] for code in Code} == {"AC", "WA", "TLE", "RTE", "CE", "JE"}


STATUSES = st.sampled_from([None, 0, 1 << 8, 42 << 8, 137 << 8, 6, 9, 11, 24, 25, 31])
KILLS = st.sampled_from([None, "cpu-limit", "wall-limit", "idle-limit", "memory-limit", "output-limit", "signaled"])


@settings(deadline=None)
@given(
    STATUSES, KILLS, st.integers(0, 4 * S), st.integers(0, 9 * S), st.integers(0, 100), st.integers(0, 2), st.sampled_from([None, ACCEPTED, REJECTED, SILENT])
)
def test_flags_are_ordered_and_never_accept(
    status: int | None, killed: Any, cpu: int, wall: int, output: int, kills: int, checked: Checked | None
) -> None:
    """Flags are in the order of precedence, each once; AC only of a run that ended well inside every limit, whatever the checker says."""
    result = ran(status, killed, cpu_user_ns=cpu, wall_ns=wall, output_bytes=output, oom_kills=kills)
    code, flags, cause = code_of(result, LIMITS, checked)
    assert list(flags) == sorted(set(flags), key=PRECEDENCE.index) and Code.AC not in flags
    assert code is (flags[0] if flags else Code.AC)
    assert bool(cause) or code is Code.AC
    assert (Code.TLE in flags) == (cpu > S or killed == "cpu-limit")
    if code is Code.AC:
        assert result.ok and result.exit_code == 0 and not result.limits_hit


@pytest.mark.parametrize(("result", "near"), [
    (ran(), ()),
    (ran(cpu_user_ns=960 * MS), ("cpu",)),
    (ran(cpu_user_ns=1040 * MS), ("cpu",)),
    (ran(cpu_user_ns=1100 * MS), ()),
    # Near the cut, which nobody is judged by.
    (ran(cpu_user_ns=1990 * MS), ()),
    (ran(wall_ns=7900 * MS, cpu_user_ns=900 * MS), ("wall",)),
    (ran(memory_peak_bytes=89 * MB), ("memory",)),
])  # fmt: skip
def test_near(result: Result, near: tuple[str, ...]) -> None:
    """CPU time is near the limit that is judged by, not the one at which the run was cut."""
    assert near_limits(result, LIMITS) == near


def test_a_run_that_was_cut_at_its_limit_is_not_near() -> None:
    """Nobody knows how long it would have gone on."""
    tight = replace(LIMITS, cpu_cut_ns=S)
    assert near_limits(ran(killed="cpu-limit", cpu_user_ns=S + MS), tight) == ()
    assert near_limits(ran(cpu_user_ns=S - MS), tight) == ("cpu",)


@pytest.mark.parametrize(("result", "stderr", "words"), [
    (ran(6, mapped=1, **FALLBACK), b"terminate called after throwing an instance of 'std::bad_alloc'", "`std::bad_alloc`"),
    (ran(1 << 8, mapped=1, **FALLBACK), b"x" * 200_000 + b"\nMemoryError\n", "`MemoryError`"),
    (ran(6, mapped=1, **{**FALLBACK, "memory_sampled_bytes": 89 * MB}), b"", "memory was near its limit"),
    (ran(killed="wall-limit", wall_ns=8 * S, cpu_user_ns=5 * S), b"", ""),
    (ran(1 << 8, process_limit_hits=3), b"", "processes and threads was met (pids.events max 3)"),
])  # fmt: skip
def test_what_is_not_known_is_said(result: Result, stderr: bytes, words: str) -> None:
    """A refused allocation, where nothing counts it, is told beside the verdict."""
    code = code_of(result, LIMITS)[0]
    told = " ".join(doubts(result, code, stderr))
    assert words in told if words else not told


def test_a_wall_limit_that_computed() -> None:
    """A program that was ended for wall time while it computed, under a limit that it had not used up: the host is to blame."""
    generous = replace(LIMITS, cpu_ns=20 * S, cpu_cut_ns=20 * S)
    result = ran(killed="wall-limit", wall_ns=8 * S, cpu_user_ns=S + S // 2, pressure_cpu_ns=6 * S)
    assert code_of(result, generous)[0] is Code.WTL
    assert "waited for a processor" in doubts(result, Code.WTL, b"")[0]
    assert not doubts(ran(6), Code.RTE, b"std::bad_alloc")  # with a cgroup it would have been counted
