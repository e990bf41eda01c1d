"""From what a run left behind to a judge's verdict: which conditions held, which goes first, and why. Pure.

The rules are told in docs/explanation/judge-verdicts.md; a change of one is a change of the other.
"""

from __future__ import annotations

from sandbox.judge.model import Code
from sandbox.result import Verdict, signal_name
from sandbox.verdict import NEAR_SHARE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.judge.check import Checked
    from sandbox.judge.model import RunLimits
    from sandbox.result import Evidence, Result

PRECEDENCE = (Code.JE, Code.CE, Code.SYS, Code.MLE, Code.TLE, Code.WTL, Code.OLE, Code.RTE, Code.NZE, Code.WA, Code.AC)
"""The first whose condition holds is the verdict."""

WORDS = {
    Code.AC: "AC", Code.WA: "WA", Code.TLE: "TLE", Code.WTL: "TLE",
    Code.RTE: "RTE", Code.NZE: "RTE", Code.MLE: "RTE", Code.SYS: "RTE", Code.OLE: "RTE", Code.CE: "CE", Code.JE: "JE",
}  # fmt: skip
"""What packages, which know four verdicts, call each of ours."""

_NEAR_CPU_NS = 10_000_000
_BUSY_SHARE = 0.5
# What the runtimes of languages print when an allocation was refused. It proves nothing, and is told beside the verdict, never made one.
_REFUSED = (
    b"std::bad_alloc", b"MemoryError", b"java.lang.OutOfMemoryError", b"JavaScript heap out of memory", b"runtime: out of memory", b"NoMemoryError",
    b"System.OutOfMemoryException", b"Out of memory", b"out of memory", b"Allowed memory size", b"heap exhausted", b"Cannot allocate memory",
)  # fmt: skip
_NO_PROCESS = (
    b"Resource temporarily unavailable", b"can't start new thread", b"unable to create native thread", b"pthread_create failed", b"uv_thread_create",
)  # fmt: skip
_LOOK_BYTES = 64 << 10


def code_of(result: Result, limits: RunLimits, checked: Checked | None = None) -> tuple[Code, tuple[Code, ...], str]:
    """Return the verdict about one run, every verdict whose condition held (in the order of precedence, empty for AC), and why.

    Args:
        result: of the submission's run.
        limits: what it is judged by; the run itself may have been let go on to `limits.cpu_cut_ns`.
        checked: what a checker said of its output; None where it was not asked, and then nothing is said of the answer.
    """
    causes = _conditions(result, limits)
    if checked is not None:
        if checked.accepted is None:
            causes[Code.JE] = checked.cause or "the checker came to no answer"
        elif not checked.accepted:
            causes[Code.WA] = checked.cause or "the answer is not the right one"
    flags = tuple(code for code in PRECEDENCE if code in causes)
    if not flags:
        return Code.AC, (), checked.cause if checked is not None else ""
    return flags[0], flags, causes[flags[0]]


def _conditions(result: Result, limits: RunLimits) -> dict[Code, str]:
    """Return why, for each verdict whose condition held."""
    verdict, hits, found = result.verdict, set(result.limits_hit), dict[Code, str]()
    if verdict is Verdict.SETUP_FAILED:
        found[Code.JE] = f"the sandbox failed: {result.cause}"
    elif verdict is Verdict.SIGNALED and not result.cause.startswith("signal "):
        found[Code.JE] = f"ended from outside: {result.cause}"
    elif _host_ran_out(result):
        found[Code.JE] = "the host ran out of memory: the kernel ended the program, which was within its own limit"
    if verdict is Verdict.DENIED_SYSCALL:
        found[Code.SYS] = result.cause
    over = _over_memory(result)
    if verdict is Verdict.MEMORY_LIMIT or "memory" in hits:
        found[Code.MLE] = _told(result, Verdict.MEMORY_LIMIT, "memory")
    elif over is not None:
        found[Code.MLE] = f"{over.counter} {over.value} bytes, limit {over.bound} bytes"
    cpu_ns = result.usage.cpu_ns
    if cpu_ns > limits.cpu_ns or verdict is Verdict.CPU_LIMIT or "cpu" in hits:
        cut = verdict is Verdict.CPU_LIMIT and cpu_ns > limits.cpu_ns
        found[Code.TLE] = f"CPU time {exact_seconds(cpu_ns)}, limit {exact_seconds(limits.cpu_ns)}" + (", ended there" if cut else "")
    for kind, limit in ((Verdict.WALL_LIMIT, "wall"), (Verdict.IDLE_LIMIT, "idle")):
        if Code.WTL not in found and (verdict is kind or limit in hits):
            bound = limits.wall_ns if limit == "wall" else limits.idle_ns or 0
            found[Code.WTL] = (
                f"ended after {exact_seconds(result.usage.wall_ns)} ({limit} limit {exact_seconds(bound)}) with {exact_seconds(cpu_ns)} of CPU time used"
            )
    if verdict is Verdict.OUTPUT_LIMIT or "output" in hits:
        found[Code.OLE] = _told(result, Verdict.OUTPUT_LIMIT, "output")
    if Code.JE not in found and verdict not in _ENDED_BY_US:
        forks = "; forks were refused: " + result.cause.partition(";")[0] if verdict is Verdict.PROCESS_LIMIT else ""
        if result.signal is not None and verdict is not Verdict.DENIED_SYSCALL:
            found[Code.RTE] = f"signal {result.signal} ({signal_name(result.signal)}){forks}"
        elif result.signal is None and result.exit_code:
            found[Code.NZE] = f"exit {result.exit_code}{forks}"
    return found


# The end of these is the sandbox's doing, or its exit code is one that stands for the limit.
_ENDED_BY_US = (
    Verdict.MEMORY_LIMIT, Verdict.CPU_LIMIT, Verdict.WALL_LIMIT, Verdict.IDLE_LIMIT, Verdict.OUTPUT_LIMIT, Verdict.SETUP_FAILED,
)  # fmt: skip


def _told(result: Result, verdict: Verdict, limit: str) -> str:
    """The sandbox's own words where they speak of this limit, else the fact that proves it."""
    if result.verdict is verdict:
        return result.cause
    fact = next(fact for fact in result.evidence if fact.limit == limit and fact.hit)
    return f"{fact.counter} {fact.value}" + (f" {fact.unit}, limit {fact.bound}" if fact.bound is not None else "")


def _over_memory(result: Result) -> Evidence | None:
    """The figure that proves that the limit was passed, also of a run that ended well: nothing hurt, but a judge's limit is the same for all."""
    return next((fact for fact in result.evidence if fact.limit == "memory" and fact.bound is not None and fact.value > fact.bound), None)


def _host_ran_out(result: Result) -> bool:
    """Whether the kernel killed for memory, and not for the run's limit."""
    return result.verdict is Verdict.SIGNALED and result.signal == 9 and "the kernel killed for memory, but not for this run's limit" in result.cause


def near_limits(result: Result, limits: RunLimits) -> tuple[str, ...]:
    """Return the limits that the run came so close to that the next might get another verdict; CPU time beside the limit that is judged by."""
    cut = limits.cpu_cut_ns
    found = {each.limit for each in result.near_limits if each.limit != "cpu" or cut == limits.cpu_ns}
    margin = max(NEAR_SHARE * limits.cpu_ns, min(_NEAR_CPU_NS, limits.cpu_ns // 2))
    if abs(result.usage.cpu_ns - limits.cpu_ns) <= margin and not (result.verdict is Verdict.CPU_LIMIT and cut == limits.cpu_ns):
        found.add("cpu")
    return tuple(limit for limit in ("memory", "cpu", "wall", "idle", "processes") if limit in found)


def doubts(result: Result, code: Code, stderr: bytes) -> tuple[str, ...]:
    """Return what the verdict does not know, in words: whether memory was refused where nothing counts that, and whether the host was too busy."""
    found: list[str] = []
    usage = result.usage
    if code in (Code.RTE, Code.NZE) and usage.oom_source is None:
        word = _said(stderr, _REFUSED)
        near = any(each.limit == "memory" for each in result.near_limits)
        if word:
            found.append(f"standard error says `{word}`: an allocation may have been refused for the memory limit, which without a cgroup nothing counts")
        elif near:
            found.append("memory was near its limit: an allocation may have been refused, which without a cgroup nothing counts")
    if code in (Code.RTE, Code.NZE) and usage.process_limit_hits is None:
        word = _said(stderr, _NO_PROCESS)
        if word:
            found.append(f"standard error says `{word}`: a process or thread may have been refused, which without a cgroup nothing counts")
    if code is Code.WTL and usage.cpu_ns > _BUSY_SHARE * usage.wall_ns and result.verdict is Verdict.WALL_LIMIT:
        found.append("most of the wall time was CPU time: the wall limit is short for this time limit, or the host is too busy to judge on")
    elif code is Code.WTL and (usage.pressure_cpu_ns or 0) > _BUSY_SHARE * usage.wall_ns:
        found.append("most of the time the program waited for a processor: the host is too busy to judge on")
    if result.limits_hit.count("processes") and code is not Code.AC:
        found.append(_processes(result.evidence))
    return tuple(found)


def _said(stderr: bytes, words: tuple[bytes, ...]) -> str:
    """Return the first of the words that is near the beginning or the end of what a program said, or nothing."""
    return next((word.decode() for word in words if word in stderr[:_LOOK_BYTES] or word in stderr[-_LOOK_BYTES:]), "")


def weaker_of(result: Result) -> tuple[str, ...]:
    """Return what this host enforced or measured less well than was asked for, with how it did."""
    return tuple(f"{each.what}, by {each.how}: {each.weaker}" for each in result.enforced if each.weaker)


def _processes(evidence: Iterable[Evidence]) -> str:
    fact = next(fact for fact in evidence if fact.limit == "processes" and fact.hit)
    return f"its limit of processes and threads was met ({fact.counter} {fact.value})"


def exact_seconds(ns: int) -> str:
    """Return a time with as many digits as make a figure over its limit look like that."""
    return f"{ns / 1e9:.6f}".rstrip("0").rstrip(".") + " s"


__all__ = ["PRECEDENCE", "WORDS", "code_of", "doubts", "near_limits", "weaker_of"]
