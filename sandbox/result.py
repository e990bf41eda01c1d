"""What came of a run: usage, verdict with its evidence, and the `Result` that carries both.

Pure; anybody may import it. The rules that turn evidence into a verdict live in `sandbox.verdict`.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.api.changes import RunChanges


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

    A source names the counter (``memory.peak``, ``memory.max_usage_in_bytes``, ``sampled RSS of all processes`` …); a sampled figure is a lower bound.

    Attributes:
        wall_ns: from the start of the command to its end, pauses taken off.
        paused_ns: all pauses together.
        cpu_user_ns: user time of all processes, without what starting the sandbox took.
        cpu_sys_ns: system time, likewise.
        memory_peak_bytes: the highest use of memory, page cache included where a cgroup counts it.
        memory_anon_peak_bytes: the largest sample of what cannot be dropped: anonymous memory, tmpfs, memfd, shared memory.
        memory_file_peak_bytes: the largest sample of page cache.
        memory_kernel_peak_bytes: the largest sample of page tables, stacks, inodes, buffers of sockets and pipes.
        memory_samples: how many samples these three come from.
        memory_sample_gap_ns: the longest time without one: what came and went within it was not seen.
        memory_sample_step_bytes: the largest change of anonymous and kernel memory from one sample to the next.
        memory_sampled_bytes: the largest sampled sum over all processes, where there is no cgroup.
        maxrss_bytes: peak of the largest single process, mapped files included.
        oom_kills: processes that the kernel killed for memory, as counted by `oom_source`.
        memory_max_hits: how often an allocation met the memory limit; page cache was then dropped.
        process_limit_hits: refused forks.
        io_read_bytes: read from block devices, as counted by `io_source`.
        io_write_bytes: written to them.
        voluntary_switches: how often a process gave up its processor.
        involuntary_switches: how often it was taken away.
        minor_faults: page faults without I/O.
        major_faults: page faults with I/O.
        throttled_ns: how long runnable processes were held back by a CPU quota.
        throttled_periods: in how many periods that happened.
        pressure_cpu_ns: how long at least one process waited for a processor (PSI).
        pressure_memory_ns: the same for memory.
        pressure_io_ns: the same for block devices.
        instructions: user-mode instructions, where `measure.instructions` asked for them and the host can count them.
        instructions_source: the counter, or why there is none.
    """

    wall_ns: int
    cpu_user_ns: int
    cpu_sys_ns: int
    cpu_source: str
    paused_ns: int = 0
    memory_peak_bytes: int | None = None
    memory_source: str | None = None
    memory_anon_peak_bytes: int | None = None
    memory_file_peak_bytes: int | None = None
    memory_kernel_peak_bytes: int | None = None
    memory_samples: int = 0
    memory_sample_gap_ns: int | None = None
    memory_sample_step_bytes: int | None = None
    memory_sampled_bytes: int | None = None
    maxrss_bytes: int | None = None
    processes_peak: int | None = None
    processes_source: str | None = None
    output_bytes: int = 0
    oom_kills: int | None = None
    oom_source: str | None = None
    memory_max_hits: int | None = None
    process_limit_hits: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    io_source: str | None = None
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    throttled_ns: int | None = None
    throttled_periods: int | None = None
    pressure_cpu_ns: int | None = None
    pressure_memory_ns: int | None = None
    pressure_io_ns: int | None = None
    instructions: int | None = None
    instructions_source: str | None = None

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
class Evidence:
    """One counter beside the limit that it speaks of.

    Attributes:
        limit: ``wall``, ``cpu``, ``idle``, ``memory``, ``processes`` or ``output``.
        counter: what counted: ``memory.events oom_kill``, ``pids.events max``, ``cpuacct.usage``, ``CLOCK_MONOTONIC`` …
        value: what it showed at the end.
        bound: the value that may not be passed; None for a counter of events.
        unit: ``ns``, ``bytes`` or ``count``.
        hit: whether this proves that the limit was met.
    """

    limit: str
    counter: str
    value: int
    bound: int | None
    unit: str
    hit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NearLimit:
    """A limit that the run came so close to, on either side, that the same run might get another verdict next time."""

    limit: str
    value: int
    bound: int

    @property
    def ratio(self) -> float:
        """The figure as a share of the limit."""
        return self.value / self.bound if self.bound else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of one run.

    `exit_code` follows the shell: the payload's own code, or 128+n when signal n ended it.
    `stdout` and `stderr` are None when they were streamed elsewhere. `files` are what `collect` asked for, by path below the working directory.
    `denials` maps syscall names to how often they were refused and recorded.
    `launched` tells what the run was started from: ``spawned`` by the caller, by a resident server everything ``anew``, from a ``template`` of the root,
    from a ``pool``, or in a warm ``interpreter``.
    `changes` are those of a run with `cow=`, kept on the disk; None where nothing was changed.
    `evidence` has a fact for each limit that was set, `near_limits` those that chance could have turned round: docs/explanation/verdicts.md.
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
    files: Mapping[str, bytes] = field(default_factory=dict)
    denials: Mapping[str, int] = field(default_factory=dict)
    denials_suppressed: int = 0
    evidence: tuple[Evidence, ...] = ()
    near_limits: tuple[NearLimit, ...] = ()
    enforced: tuple[Enforcement, ...] = ()
    notes: tuple[str, ...] = ()
    launched: str = "spawned"
    changes: RunChanges | None = None

    @property
    def ok(self) -> bool:
        """Whether the payload ended by itself with exit code 0 inside every limit."""
        return self.verdict is Verdict.OK

    @property
    def limits_hit(self) -> tuple[str, ...]:
        """Every limit that was met, whichever became the verdict, each once."""
        return tuple(dict.fromkeys(fact.limit for fact in self.evidence if fact.hit))

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
            "limits_hit": list(self.limits_hit),
            "near_limits": [{"limit": n.limit, "value": n.value, "bound": n.bound, "ratio": round(n.ratio, 4)} for n in self.near_limits],
            "evidence": [_plain(fact) for fact in self.evidence],
            **_plain(usage),
            "denials": dict(sorted(self.denials.items())),
            "denials_suppressed": self.denials_suppressed,
            "enforced": [{"what": e.what, "how": e.how, "weaker": e.weaker} for e in self.enforced],
            "notes": list(self.notes),
            "launched": self.launched,
            "changes": None if self.changes is None else {"run": self.changes.run_id, **self.changes.counts},
            "profile": {"name": self.profile, "digest": self.profile_digest},
            "policy": {"name": self.policy, "digest": self.policy_digest},
        }


def _plain(value: Evidence | Usage) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9, and ``signal 40`` for a number without a name."""
    from signal import Signals

    try:
        return Signals(number).name
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
