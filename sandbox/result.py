"""What came of a run: usage, verdict with its evidence, and the `Result` that carries both.

Pure; anybody may import it. The rules that turn evidence into a verdict live in `classify_outcome`
and nowhere else, in the order in which they are written down there.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """How a run ended, in one word."""

    OK = "ok"
    NONZERO_EXIT = "nonzero-exit"
    SIGNALED = "signaled"
    CPU_LIMIT = "cpu-limit"
    WALL_LIMIT = "wall-limit"
    IDLE_LIMIT = "idle-limit"
    MEMORY_LIMIT = "memory-limit"
    OUTPUT_LIMIT = "output-limit"
    PROCESS_LIMIT = "process-limit"
    DENIED_SYSCALL = "denied-syscall"
    SETUP_FAILED = "setup-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the run used; None means that this host could not measure it.

    `memory_source` and `cpu_source` name the counter (``memory.peak``, ``memory.max_usage_in_bytes``,
    ``sampled-rss`` …); a sampled figure is a lower bound.
    """

    wall_ns: int
    paused_ns: int = 0
    cpu_user_ns: int
    cpu_sys_ns: int
    cpu_source: str
    memory_peak_bytes: int | None = None
    memory_source: str | None = None
    processes_peak: int | None = None
    processes_source: str | None = None
    output_bytes: int = 0
    oom_kills: int | None = None
    process_limit_hits: int | None = None

    @property
    def cpu_ns(self) -> int:
        """User plus system time of every process of the run, in nanoseconds."""
        return self.cpu_user_ns + self.cpu_sys_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """One protection or limit of the run and the mechanism that enforced it.

    `weaker` is empty, or says in words what this mechanism cannot do that the asked-for one could.
    """

    what: str
    how: str
    weaker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The raw facts that the supervisor collected, before a verdict is chosen."""

    wait_status: int | None
    killed_for: Verdict | None
    usage: Usage
    denied_fatal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of one run.

    `exit_code` follows the shell: the payload's own code, or 128+n when signal n ended it.
    `stdout` and `stderr` are None when they were streamed elsewhere.
    `denials` maps syscall names to how often they were refused and recorded.
    """

    verdict: Verdict
    cause: str
    exit_code: int
    signal: int | None
    usage: Usage
    run_id: str
    profile: str
    profile_digest: str
    policy: str
    policy_digest: str
    stdout: bytes | None = None
    stderr: bytes | None = None
    denials: Mapping[str, int] = field(default_factory=dict)
    denials_suppressed: int = 0
    enforced: tuple[Enforcement, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the payload ended by itself with exit code 0 inside every limit."""
        return self.verdict is Verdict.OK

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types; streams are left out, times are nanoseconds, sizes are bytes."""
        usage = self.usage
        return {
            "schema": 1,
            "run": self.run_id,
            "verdict": str(self.verdict),
            "cause": self.cause,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "wall_ns": usage.wall_ns,
            "cpu_user_ns": usage.cpu_user_ns,
            "cpu_sys_ns": usage.cpu_sys_ns,
            "cpu_source": usage.cpu_source,
            "memory_peak_bytes": usage.memory_peak_bytes,
            "memory_source": usage.memory_source,
            "processes_peak": usage.processes_peak,
            "processes_source": usage.processes_source,
            "output_bytes": usage.output_bytes,
            "oom_kills": usage.oom_kills,
            "process_limit_hits": usage.process_limit_hits,
            "denials": dict(sorted(self.denials.items())),
            "denials_suppressed": self.denials_suppressed,
            "enforced": [{"what": e.what, "how": e.how, "weaker": e.weaker} for e in self.enforced],
            "notes": list(self.notes),
            "profile": {"name": self.profile, "digest": self.profile_digest},
            "policy": {"name": self.policy, "digest": self.policy_digest},
        }


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9, and ``signal 40`` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def decode_wait_status(status: int) -> tuple[int, int | None]:
    """Split a wait(2) status into the shell's exit code and the signal, if one ended it.

    Source: wait(2), NOTES; kernel include/linux/wait.h.
    """
    number = status & 0x7F
    if number:
        return 128 + number, number
    return (status >> 8) & 0xFF, None


def classify_outcome(outcome: Outcome, limits: Mapping[str, int | None]) -> tuple[Verdict, str]:
    """Choose the verdict and name the evidence.

    Precedence, first match wins: what the supervisor killed it for (it saw that limit passed) · an out-of-memory
    kill counted by the cgroup · the kernel's own CPU limit (SIGXCPU) · a filter's kill (SIGSYS) · any other
    signal · exit code. Hitting the process limit is reported only when the payload then failed, because a
    program that handles EAGAIN did nothing wrong.

    Args:
        outcome: what the supervisor saw.
        limits: the enforced limits by name (``cpu_ns``, ``memory_bytes``, ``processes``, …), for the text.
    """
    usage = outcome.usage
    if outcome.killed_for is not None:
        return outcome.killed_for, _limit_cause(outcome.killed_for, usage, limits)
    if outcome.wait_status is None:
        if usage.oom_kills:  # memory.oom.group takes init along
            return Verdict.MEMORY_LIMIT, _limit_cause(Verdict.MEMORY_LIMIT, usage, limits)
        return Verdict.SETUP_FAILED, "the sandbox's init ended without a report"
    code, number = decode_wait_status(outcome.wait_status)
    if usage.oom_kills and (number == signal.SIGKILL or code):
        return Verdict.MEMORY_LIMIT, _limit_cause(Verdict.MEMORY_LIMIT, usage, limits)
    if number == signal.SIGXCPU:
        return Verdict.CPU_LIMIT, "SIGXCPU: RLIMIT_CPU of one process"
    if number == signal.SIGXFSZ:
        return Verdict.OUTPUT_LIMIT, "SIGXFSZ: RLIMIT_FSIZE of one file"
    if number == signal.SIGSYS:
        return Verdict.DENIED_SYSCALL, outcome.denied_fatal or "SIGSYS: the filter killed the process"
    if (number or code) and usage.process_limit_hits:
        return Verdict.PROCESS_LIMIT, f"pids.events max {usage.process_limit_hits}; then {_ending(code, number)}"
    if number:
        return Verdict.SIGNALED, _ending(code, number)
    if code:
        return Verdict.NONZERO_EXIT, _ending(code, number)
    return Verdict.OK, "exit 0"


def _ending(code: int, number: int | None) -> str:
    return f"signal {number} ({signal_name(number)})" if number else f"exit {code}"


def _limit_cause(verdict: Verdict, usage: Usage, limits: Mapping[str, int | None]) -> str:
    match verdict:
        case Verdict.WALL_LIMIT:
            return f"wall {usage.wall_ns} ns, limit {limits.get('wall_ns')} ns"
        case Verdict.CPU_LIMIT:
            return f"{usage.cpu_source} {usage.cpu_ns} ns, limit {limits.get('cpu_ns')} ns"
        case Verdict.MEMORY_LIMIT:
            kills = f", oom kills {usage.oom_kills}" if usage.oom_kills is not None else ""
            return f"{usage.memory_source} {usage.memory_peak_bytes} bytes, limit {limits.get('memory_bytes')} bytes{kills}"
        case Verdict.OUTPUT_LIMIT:
            return f"output {usage.output_bytes} bytes, limit {limits.get('output_bytes')} bytes"
        case Verdict.PROCESS_LIMIT:
            return f"{usage.processes_source} {usage.processes_peak}, limit {limits.get('processes')}"
        case _:
            return str(verdict)
