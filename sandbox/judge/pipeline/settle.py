"""What a time limit makes of a measured run, which runs are too near a limit to stand alone, and what several runs of one case come to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.judge.model import CaseResult, Code
from sandbox.judge.verdict import PRECEDENCE
from sandbox.record import replace
from sandbox.units import format_duration

NEAR_SHARE = 0.1
"""CPU times of one program spread by 2 to 5 % on a quiet machine, and more beside others: so near a limit a run is repeated."""
NEAR_LEAST_NS = 10_000_000
RERUNS = 2
"""How often a case is run alone, at most, before a limit is believed to be too short for it."""
_LIMITS = frozenset({Code.TLE, Code.WTL, Code.MLE})


def under(result: CaseResult, limit_ns: int) -> CaseResult:
    """Return a result as another time limit makes it.

    Args:
        result: of a run that was allowed at least so much.
        limit_ns: CPU time that the submission may use.
    """
    if result.skipped:
        return result
    # A dialogue that the validator has ended is over: how long the program went on after that is not its fault, nor known.
    decided = bool(result.blame) and result.code is Code.WA
    late = result.cpu_ns > limit_ns and not decided
    flags = set(result.flags) | ({result.code} - {Code.AC})
    cut = Code.TLE in flags  # it was ended by a limit that is no lower than this one
    if late:
        flags.add(Code.TLE)
    near = tuple(word for word in result.near if not word.startswith("cpu"))
    margin = max(NEAR_SHARE * limit_ns, min(NEAR_LEAST_NS, limit_ns // 2))
    if abs(result.cpu_ns - limit_ns) <= margin and not decided:
        near = (f"cpu {format_duration(result.cpu_ns)} of {format_duration(limit_ns)}", *near)
    ordered = tuple(code for code in PRECEDENCE if code in flags)
    code = ordered[0] if ordered else Code.AC
    cause = result.cause
    if late and code is Code.TLE:
        cause = f"CPU time {_seconds(result.cpu_ns)}, limit {_seconds(limit_ns)}" + (", and was ended" if cut else "")
    return replace(result, code=code, flags=ordered, cause=cause, near=near)


def wants_reruns(result: CaseResult) -> bool:
    """Whether another run, with nothing beside it, might come out otherwise: the limit that decided, or could have, is near; or it hardly computed."""
    if result.skipped:
        return False
    near = {word.split(" ")[0] for word in result.near}
    return ("cpu" in near and result.code in (Code.AC, Code.WA, Code.TLE)) or result.code is Code.WTL or (result.code is Code.MLE and "memory" in near)


def is_enough(runs: Sequence[CaseResult]) -> bool:
    """Whether no further run alone is needed: the first was within its limits and once more is enough to tell, or one alone was."""
    first, *alone = runs
    if first.code not in _LIMITS:
        return bool(alone)
    if first.code is Code.WTL and not first.near and alone:
        return True
    return len(alone) >= RERUNS or any(run.code not in _LIMITS for run in alone)


def settle(runs: Sequence[CaseResult]) -> CaseResult:
    """Return what stands for several runs of a case, the first of which was beside others.

    Noise only ever adds to a time. So a limit is passed when every run alone passed it, too; of those that did not, the first stands. A first run
    that kept its limits stands. The others are its `reruns`.
    """
    first, *alone = runs
    chosen = first
    if first.code in _LIMITS:
        chosen = next((run for run in alone if run.code not in _LIMITS), first)
    others = tuple((run.code, run.cpu_ns) for run in runs if run is not chosen)
    notes = chosen.notes
    if chosen is not first:
        notes = (*notes, f"{first.code} beside other runs ({format_duration(first.cpu_ns)} of CPU time), {chosen.code} alone")
    elif any(run.code is not first.code for run in alone):
        notes = (
            *notes,
            f"{first.code} beside other runs, alone also {', '.join(sorted({str(run.code) for run in alone} - {str(first.code)}))}",
        )
    return replace(chosen, reruns=(*chosen.reruns, *others), near=chosen.near or first.near, notes=notes)


def _seconds(ns: int) -> str:
    """Three digits after the point, or as many as make a figure over its limit look like that."""
    return f"{ns / 1e9:.6f}".rstrip("0").rstrip(".") + " s"


__all__ = ["NEAR_SHARE", "RERUNS", "is_enough", "settle", "under", "wants_reruns"]
