"""What a time limit makes of a measured run, which runs are too near a limit to stand alone, and what several runs of one case come to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.judge.model import CaseResult, Code
from sandbox.judge.running import cut_of, wall_limit_of
from sandbox.judge.verdict import PRECEDENCE, exact_seconds
from sandbox.record import replace
from sandbox.units import format_duration

NEAR_SHARE = 0.1
"""CPU times of one program spread by 2 to 5 % on a quiet machine, and more beside others: so near a limit a run is repeated."""
NEAR_LEAST_NS = 10_000_000
RERUNS = 2
"""How often a case is run alone, at most, before a limit is believed to be too short for it."""
_LIMITS = frozenset({Code.TLE, Code.WTL, Code.MLE})


def under(result: CaseResult, limit_ns: int, allowed_ns: int | None = None) -> CaseResult:
    """Return a result as a time limit makes it: as if the run had not been let go on beyond that, whatever it was allowed.

    Args:
        result: of a run that was allowed at least so much.
        limit_ns: CPU time that the submission may use; its wall limit follows from that.
        allowed_ns: the time limit that the run had; None is a higher one.
    """
    if result.skipped:
        return result
    wall_ns, wall_limit_ns = result.wall_ns if result.own_ns is None else result.own_ns, wall_limit_of(limit_ns)
    late, asleep = result.cpu_ns > limit_ns, wall_ns > wall_limit_ns
    held = set(result.flags) | ({result.code} - {Code.AC})
    longer = allowed_ns is None or limit_ns < allowed_ns
    # It would have been ended at that point: what it came to after that says nothing.
    ended = longer and (result.cpu_ns > cut_of(limit_ns) or asleep)
    flags = ({Code.TLE} if late else set()) | ({Code.WTL} if asleep and longer else set()) | (set() if ended else held)
    ordered = tuple(code for code in PRECEDENCE if code in flags)
    code = ordered[0] if ordered else Code.AC
    cause = result.cause
    if late and code is Code.TLE:
        cause = f"CPU time {exact_seconds(result.cpu_ns)}, limit {exact_seconds(limit_ns)}" + (", and was ended" if Code.TLE in held else "")
    elif asleep and longer and code is Code.WTL:
        whose = "" if result.own_ns is None else " without waiting for the validator"
        cause = f"wall time {exact_seconds(wall_ns)}{whose}, limit {exact_seconds(wall_limit_ns)}" + (f"; {cause}" if result.code is Code.WTL else "")
    near = [word for word in result.near if not word.startswith(("cpu", "wall"))]
    # Where it was ended for wall time nobody knows what it would have come to, and it is not near but over; what computed too long is late anyway.
    if Code.WTL not in held and not late and _is_near(wall_ns, wall_limit_ns):
        near.insert(0, f"wall {format_duration(wall_ns)} of {format_duration(wall_limit_ns)}")
    if _is_near(result.cpu_ns, limit_ns):
        near.insert(0, f"cpu {format_duration(result.cpu_ns)} of {format_duration(limit_ns)}")
    blame = "submission" if result.own_ns is not None and code in (Code.TLE, Code.WTL) else result.blame
    return replace(result, code=code, flags=ordered, cause=cause, near=tuple(near), blame=blame)


def _is_near(time_ns: int, limit_ns: int) -> bool:
    return abs(time_ns - limit_ns) <= max(NEAR_SHARE * limit_ns, min(NEAR_LEAST_NS, limit_ns // 2))


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
    that kept its limits stands. One that was ended for wall time, and for CPU time alone, computed too long. The others are its `reruns`.
    """
    first, *alone = runs
    chosen = first
    if first.code in _LIMITS:
        weaker = _LIMITS if first.code is not Code.WTL else _LIMITS - {Code.TLE}
        chosen = next((run for run in alone if run.code not in weaker), first)
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


__all__ = ["NEAR_SHARE", "RERUNS", "is_enough", "settle", "under", "wants_reruns"]
