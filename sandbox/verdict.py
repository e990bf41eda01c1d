"""From the facts of a run to its verdict: which limits were met, what proves it, and what goes first.

Pure. The rules are written down in docs/explanation/verdicts.md and nowhere else in code; a change of one is a change of the other.
"""

from __future__ import annotations

from sandbox.record import dataclass
from sandbox.result import Evidence, NearLimit, Usage, Verdict, decode_wait_status, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
else:
    import _signal as signal  # `signal` makes enumerations of it

NEAR_SHARE = 0.05
"""How close to a limit a figure must come, as a share of the limit, for noise to turn the verdict round."""

_NEAR_CPU_NS = 10_000_000
_NEAR_WALL_NS = 50_000_000  # a busy machine delays what uses no CPU time at all
_NEAR_MEMORY_BYTES = 1 << 20
_CERTAIN_SHARE = 0.9
"""What of a limit must have been used for a signal, or an out-of-memory kill, that others can cause as well, to be put down to that limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The raw facts that the supervisor collected, before a verdict is chosen.

    Attributes:
        wait_status: of the payload, None when init could not report it.
        killed_for: the limit for which the supervisor ended the run, if it did.
        usage: what was measured.
        mapped_file_bytes: most file pages that one process was seen to have mapped, where memory is sampled; None where it is counted.
        table_bytes: most page tables that the largest process was seen to have, where memory is sampled.
        denied_fatal: which rule's kill ended it, where that is known.
        idle_ns: wall time less CPU time when the supervisor ended it, for its idle or its CPU time.
        killed_by: who asked for the end, where `killed_for` is ``signaled``.
    """

    wait_status: int | None
    killed_for: Verdict | None
    usage: Usage
    mapped_file_bytes: int | None = None
    table_bytes: int = 0
    idle_ns: int | None = None
    denied_fatal: str | None = None
    killed_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict, what proves it in a person's words, and the facts about every limit."""

    verdict: Verdict
    cause: str
    evidence: tuple[Evidence, ...]
    near_limits: tuple[NearLimit, ...]


def classify_outcome(outcome: Outcome, limits: Mapping[str, int | None]) -> Judgement:
    """Choose the verdict; the first rule that applies.

    Args:
        outcome: what the supervisor saw.
        limits: the enforced limits by name: ``wall_ns``, ``cpu_ns``, ``idle_ns``, ``memory_bytes``, ``processes``, ``output_bytes``.
    """
    facts = _Facts(outcome, limits)
    evidence = facts.gather()
    hits: dict[str, Evidence] = {}
    for fact in evidence:
        if fact.hit:
            hits.setdefault(fact.limit, fact)
    verdict, cause = _choose(outcome, facts, hits)
    return Judgement(verdict=verdict, cause=cause, evidence=evidence, near_limits=facts.near(verdict, hits))


def _choose(outcome: Outcome, facts: _Facts, hits: Mapping[str, Evidence]) -> tuple[Verdict, str]:
    if outcome.killed_for is Verdict.SIGNALED:
        return Verdict.SIGNALED, outcome.killed_by or "killed on request"
    if outcome.killed_for is not None:
        return outcome.killed_for, facts.cause(outcome.killed_for, hits)
    if outcome.wait_status is None:
        if "memory" in hits:  # memory.oom.group takes init along
            return Verdict.MEMORY_LIMIT, facts.cause(Verdict.MEMORY_LIMIT, hits)
        return Verdict.SETUP_FAILED, "the sandbox's init ended without a report"
    code, number = decode_wait_status(outcome.wait_status)
    if number == signal.SIGSYS:
        return Verdict.DENIED_SYSCALL, outcome.denied_fatal or "SIGSYS: the filter killed the process"
    for limit, verdict in _BY_LIMIT.items():
        # A program that copes with a refused fork did nothing wrong; and a sampled peak alone proves that the limit was passed, not that it hurt.
        if limit in hits and (code or limit != "processes"):
            ending = f"; then {_ending(code, number)}" if limit == "processes" or hits[limit].counter == _LARGEST else ""
            return verdict, facts.cause(verdict, hits) + ending
    if number == signal.SIGXFSZ:
        return Verdict.OUTPUT_LIMIT, "SIGXFSZ: RLIMIT_FSIZE of one file"
    if number:
        return Verdict.SIGNALED, _ending(code, number) + facts.foreign_kill(number)
    return (Verdict.NONZERO_EXIT if code else Verdict.OK), _ending(code, number)


_BY_LIMIT = {
    "memory": Verdict.MEMORY_LIMIT,
    "cpu": Verdict.CPU_LIMIT,
    "wall": Verdict.WALL_LIMIT,
    "idle": Verdict.IDLE_LIMIT,
    "output": Verdict.OUTPUT_LIMIT,
    "processes": Verdict.PROCESS_LIMIT,
}
"""In the order of precedence, where several limits were met and none was the one that the supervisor acted on."""

_SAMPLED = "sampled RSS of all processes"
_LARGEST = "ru_maxrss of the largest process, mapped files taken off, page tables added"
_BYTES_A_TABLE_BYTE = 512
"""4 KiB of page table map 2 MiB of small pages."""


class _Facts:
    """What is known about each limit."""

    def __init__(self, outcome: Outcome, limits: Mapping[str, int | None]) -> None:
        self._outcome = outcome
        self._usage = outcome.usage
        self._limits = limits

    def gather(self) -> tuple[Evidence, ...]:
        """Return a fact for each limit that was set and counted, and for each event that was counted without one."""
        usage, killed = self._usage, self._outcome.killed_for
        found: list[Evidence] = []
        for limit, counter, value, unit in (
            ("wall", "CLOCK_MONOTONIC", usage.wall_ns, "ns"),
            ("cpu", usage.cpu_source, usage.cpu_ns, "ns"),
            ("idle", f"CLOCK_MONOTONIC less {usage.cpu_source}", self._idle_ns(), "ns"),
            ("output", "bytes read by the supervisor", usage.output_bytes, "bytes"),
        ):
            bound = self._limits.get("output_bytes" if limit == "output" else f"{limit}_ns")
            if bound is not None:
                hit = value > bound or killed is _BY_LIMIT[limit]
                found.append(Evidence(limit=limit, counter=counter, value=value, bound=bound, unit=unit, hit=hit))
        return (*self._memory(), *found, *self._signals(), *self._processes())

    def _idle_ns(self) -> int:
        """Wall time less CPU time; where the run was ended for that, as it was then: its end costs CPU time on every processor."""
        then = self._outcome.idle_ns if self._outcome.killed_for is Verdict.IDLE_LIMIT else None
        return max(0, self._usage.wall_ns - self._usage.cpu_ns) if then is None else then

    def _memory(self) -> list[Evidence]:
        usage, bound = self._usage, self._limits.get("memory_bytes")
        killed = self._outcome.killed_for is Verdict.MEMORY_LIMIT
        found: list[Evidence] = []
        if usage.oom_kills is not None and (bound is not None or usage.oom_kills):
            counter = usage.oom_source or "oom_kill"
            hit = bool(usage.oom_kills) and not self._foreign_oom()
            found.append(Evidence(limit="memory", counter=counter, value=usage.oom_kills, bound=None, unit="count", hit=hit))
        if bound is None:
            return found
        sampled = usage.memory_sampled_bytes
        if sampled is not None and usage.oom_source is None:
            found.append(
                Evidence(limit="memory", counter=_SAMPLED, value=sampled, bound=bound, unit="bytes", hit=killed or sampled > bound)
            )
        elif usage.memory_peak_bytes is not None:
            # A counted peak cannot pass the limit, and with page cache in it touches it for nothing.
            hit = killed and not any(fact.hit for fact in found)
            found.append(
                Evidence(limit="memory", counter=usage.memory_source or "", value=usage.memory_peak_bytes, bound=bound, unit="bytes", hit=hit)
            )
        largest = self._largest_process()
        if largest is not None:
            failed = self._outcome.wait_status not in (None, 0)
            found.append(Evidence(limit="memory", counter=_LARGEST, value=largest, bound=bound, unit="bytes", hit=failed and largest > bound))
        return found

    def _largest_process(self) -> int | None:
        """The peak of the largest process, where memory is sampled and at least one sample saw what has to be taken off.

        As the samples have it: without file pages, with page tables, of which no more count than its peak can need.
        """
        mapped, peak = self._outcome.mapped_file_bytes, self._usage.maxrss_bytes
        if not mapped or peak is None:
            return None
        return max(0, peak - mapped) + min(self._outcome.table_bytes, peak // _BYTES_A_TABLE_BYTE)

    def _foreign_oom(self) -> bool:
        """Whether the kernel killed, but not for this limit: the host, or a cgroup above, was out of memory."""
        usage, bound = self._usage, self._limits.get("memory_bytes")
        if self._outcome.killed_for is Verdict.MEMORY_LIMIT:
            return False
        if bound is None:
            return True
        return usage.memory_max_hits == 0 and usage.memory_peak_bytes is not None and usage.memory_peak_bytes < _CERTAIN_SHARE * bound

    def foreign_kill(self, number: int) -> str:
        """What to add about a SIGKILL for memory that was not the run's own."""
        if number == signal.SIGKILL and self._usage.oom_kills:
            return ": the kernel killed for memory, but not for this run's limit"
        return ""

    def _signals(self) -> list[Evidence]:
        status, bound = self._outcome.wait_status, self._limits.get("cpu_ns")
        if status is None or self._outcome.killed_for is not None or bound is None or decode_wait_status(status)[1] != signal.SIGXCPU:
            return []
        # RLIMIT_CPU counts ticks, so it may be early by a little; anything below that the program has sent to itself.
        hit = self._usage.cpu_ns >= _CERTAIN_SHARE * bound
        return [Evidence(limit="cpu", counter="SIGXCPU of RLIMIT_CPU", value=1, bound=None, unit="count", hit=hit)]

    def _processes(self) -> list[Evidence]:
        usage, bound = self._usage, self._limits.get("processes")
        found = []
        if usage.process_limit_hits is not None and bound is not None:
            hits = usage.process_limit_hits
            found.append(Evidence(limit="processes", counter="pids.events max", value=hits, bound=None, unit="count", hit=hits > 0))
        if usage.processes_peak is not None and bound is not None:
            killed = self._outcome.killed_for is Verdict.PROCESS_LIMIT
            counter = usage.processes_source or ""
            found.append(Evidence(limit="processes", counter=counter, value=usage.processes_peak, bound=bound, unit="count", hit=killed))
        return found

    def near(self, verdict: Verdict, hits: Mapping[str, Evidence]) -> tuple[NearLimit, ...]:
        """Return the limits, on either side of which the run could have come out by chance; the one that it was ended for is not near, it was met."""
        usage, killed = self._usage, self._outcome.killed_for
        found = []
        for limit, value, bound, least in (
            ("cpu", usage.cpu_ns, self._limits.get("cpu_ns"), _NEAR_CPU_NS),
            ("wall", usage.wall_ns, self._limits.get("wall_ns"), _NEAR_WALL_NS),
            ("idle", usage.wall_ns - usage.cpu_ns, self._limits.get("idle_ns"), _NEAR_WALL_NS),
            ("memory", self._held_bytes(), self._limits.get("memory_bytes"), _NEAR_MEMORY_BYTES),
        ):
            if bound and value is not None and killed is not _BY_LIMIT[limit] and not (limit == "memory" and "memory" in hits):
                margin = max(NEAR_SHARE * bound, min(least, bound // 2))
                if abs(bound - value) <= margin or (limit == "memory" and value > bound):
                    found.append(NearLimit(limit=limit, value=value, bound=bound))
        most, allowed = usage.processes_peak, self._limits.get("processes")
        if most is not None and allowed is not None and most >= allowed and verdict is not Verdict.PROCESS_LIMIT:
            found.append(NearLimit(limit="processes", value=most, bound=allowed))
        return tuple(found)

    def _held_bytes(self) -> int | None:
        """What the run held that could not be dropped, as far as it is known; page cache comes to any limit and bothers nobody."""
        usage = self._usage
        if usage.memory_anon_peak_bytes is not None:
            return usage.memory_anon_peak_bytes + (usage.memory_kernel_peak_bytes or 0) + (usage.memory_sample_step_bytes or 0)
        if self._outcome.mapped_file_bytes is not None:
            return max(self._largest_process() or 0, usage.memory_sampled_bytes or 0)
        return usage.memory_peak_bytes

    def cause(self, verdict: Verdict, hits: Mapping[str, Evidence]) -> str:
        """Name the counter and the limit."""
        usage, limits = self._usage, self._limits
        match verdict:
            case Verdict.WALL_LIMIT:
                return f"wall {usage.wall_ns} ns, limit {limits.get('wall_ns')} ns"
            case Verdict.IDLE_LIMIT:
                return f"wall less CPU time {self._idle_ns()} ns, limit {limits.get('idle_ns')} ns"
            case Verdict.CPU_LIMIT:
                return f"{usage.cpu_source} {usage.cpu_ns} ns, limit {limits.get('cpu_ns')} ns" + _signal_note(hits.get("cpu"))
            case Verdict.MEMORY_LIMIT:
                fact = hits.get("memory")
                if fact is not None and fact.counter in (_LARGEST, _SAMPLED):
                    return f"{fact.counter} {fact.value} bytes, limit {fact.bound} bytes"
                kills = f", {usage.oom_source or 'oom_kill'} {usage.oom_kills}" if usage.oom_kills is not None else ""
                return f"{usage.memory_source} {usage.memory_peak_bytes} bytes, limit {limits.get('memory_bytes')} bytes{kills}"
            case Verdict.OUTPUT_LIMIT:
                return f"output {usage.output_bytes} bytes, limit {limits.get('output_bytes')} bytes"
            case Verdict.PROCESS_LIMIT if usage.process_limit_hits:
                return f"pids.events max {usage.process_limit_hits}"
            case Verdict.PROCESS_LIMIT:
                return f"{usage.processes_source} {usage.processes_peak}, limit {limits.get('processes')}"
            case _:
                return str(verdict)


def _signal_note(fact: Evidence | None) -> str:
    return f", {fact.counter}" if fact is not None and fact.counter.startswith("SIGXCPU") else ""


def _ending(code: int, number: int | None) -> str:
    return f"signal {number} ({signal_name(number)})" if number else f"exit {code}"
