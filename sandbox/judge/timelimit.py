"""The time limit of a package: stated, or derived from its own submissions; and what another limit would have made of them. Pure.

Source: Problem package format, ``legacy``, limits; ``2025-09``, problem timing and time limit inference.
"""

from __future__ import annotations

from typing import NamedTuple

from sandbox.judge.grading import grade_all
from sandbox.judge.model import Code, Format
from sandbox.judge.package.words import Glob
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.judge.grading import Grader
    from sandbox.judge.model import CaseResult, Expectation, Problem, Submission

_SECOND = 1_000_000_000
_UNKNOWN_NS = 10 * _SECOND
_LONGEST_NS = 300 * _SECOND
# A verdict wins over those after it.
PRECEDENCE = (Code.JE, Code.SYS, Code.MLE, Code.TLE, Code.WTL, Code.OLE, Code.RTE, Code.NZE, Code.WA, Code.AC)


class Limit(NamedTuple):
    """A time limit: what counts, up to where a submission may run so that it can be judged by other limits, and where the limit is from, in words."""

    limit_ns: int
    upper_ns: int
    source: str


def first_for_limit(problem: Problem) -> tuple[Submission, ...]:
    """Return the submissions that must be run before there is a limit: those that must be accepted where they bound it. Empty for a stated limit."""
    if problem.limits.time_ns is not None:
        return ()
    return tuple(each for each in problem.submissions if any(_demands_acceptance(one) for one in each.expectations))


def longest_ns(problem: Problem) -> int:
    """Return how long a submission may run while there is no limit yet."""
    return _LONGEST_NS if problem.limits.time_ns is None else round(problem.limits.time_ns * problem.limits.limit_to_tle)


def derive_limit(problem: Problem, times: Mapping[str, Mapping[str, int]], *, stated_ns: int | None = None) -> Limit:
    """Return the time limit.

    The slowest time of a submission that must not be too slow, times the package's multiplier, rounded up to its resolution, and never nothing. Wrong and
    crashing submissions bound a limit of 2025-09 as well; since nothing says how long those take that never end, `check_limit` holds them against it
    afterwards, and only those that must be accepted make it longer.

    Args:
        problem: the package.
        times: CPU nanoseconds by submission and case, as far as they are known.
        stated_ns: a limit that the caller states, which wins.
    """
    limits = problem.limits
    fixed = stated_ns if stated_ns is not None else limits.time_ns
    if fixed is not None:
        return Limit(fixed, round(fixed * limits.limit_to_tle), "given" if stated_ns is not None else "the package states it")
    slowest, name, case = 0, "", ""
    for submission, expectation in _bounds(problem, "lower"):
        if not _demands_acceptance(expectation):
            continue
        for which, time in _matching(expectation, times.get(submission.name, {})):
            if time > slowest or not name:
                slowest, name, case = time, submission.name, which
    if not name:
        return Limit(_UNKNOWN_NS, round(_UNKNOWN_NS * limits.limit_to_tle), "no accepted submission has run, so there is nothing to derive it from")
    step = limits.resolution_ns
    limit = max(1, -(-round(slowest * limits.ac_to_limit) // step)) * step
    source = f"slowest accepted `{name}` on `{case}`, {_s(slowest)} s, times {limits.ac_to_limit:g}, in steps of {_s(step)} s"
    return Limit(limit, round(limit * limits.limit_to_tle), source)


def check_limit(problem: Problem, limit: Limit, times: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """Return where a limit is not as far from the package's submissions as the package wants it to be, in words.

    Args:
        problem: the package.
        limit: of `derive_limit`.
        times: CPU nanoseconds by submission and case; that of a run that was ended is where it was ended.
    """
    limits = problem.limits
    found = []
    for submission, expectation in _bounds(problem, "lower"):
        if problem.format is not Format.V2025_09 and problem.limits.time_ns is None:
            break  # derived from these, and nothing else bounds a legacy limit
        slowest = max((time for _, time in _matching(expectation, times.get(submission.name, {}))), default=0)
        if slowest * limits.ac_to_limit > limit.limit_ns and slowest <= limit.limit_ns:
            found.append(f"time limit is less than {limits.ac_to_limit:g} times the {_s(slowest)} s of `{submission.name}`")
    for submission, expectation in _bounds(problem, "upper"):
        known = [time for _, time in _matching(expectation, times.get(submission.name, {}))]
        # One that ran up to the upper limit was ended there, and nobody knows more.
        if known and max(known) < limit.limit_ns * limits.limit_to_tle and max(known) < limit.upper_ns:
            found.append(f"time limit times {limits.limit_to_tle:g} is more than the {_s(max(known))} s of `{submission.name}`, which must be too slow")
    return tuple(dict.fromkeys(found))


def judge_at(result: CaseResult, limit_ns: int) -> CaseResult:
    """Return what a case would have come to under another limit, as far as its run went.

    Its other flags stay. A run that was too slow for the limit it had and is not for this one is judged by what else held; where nothing else did, it counts
    as accepted, which is what its output was judged to be.
    """
    if result.skipped or result.code in (Code.JE, Code.CE):
        return result
    held: set[Code] = {each for each in (*result.flags, result.code) if each not in (Code.TLE, Code.AC)}
    if result.cpu_ns > limit_ns:
        held.add(Code.TLE)
    flags = tuple(each for each in PRECEDENCE if each in held)
    return replace(result, code=flags[0] if flags else Code.AC, flags=flags)


def sensitivity(problem: Problem, results: Mapping[str, CaseResult], limit: Limit, grader: Grader | None = None) -> tuple[str, ...]:
    """Return the longest limit that the package calls safe with what a submission gets under it, in words, when that is another verdict or score.

    Args:
        problem: the package.
        results: what came of each case, run up to the upper limit.
        limit: of `derive_limit`.
        grader: as for `sandbox.judge.grading.grade_group`.
    """
    here = grade_all(problem.data, {name: judge_at(each, limit.limit_ns) for name, each in results.items()}, grader)
    there = grade_all(problem.data, {name: judge_at(each, limit.upper_ns) for name, each in results.items()}, grader)
    if (there.code, there.score) == (here.code, here.score):
        return ()
    return (f"{_s(limit.upper_ns)} s: {there.code}" + (f" ({there.score:g})" if there.score is not None else ""),)


def _bounds(problem: Problem, kind: str) -> Iterator[tuple[Submission, Expectation]]:
    for submission in problem.submissions:
        for expectation in submission.expectations:
            if expectation.use_for_time_limit == kind:
                yield submission, expectation


def _demands_acceptance(expectation: Expectation) -> bool:
    return expectation.use_for_time_limit == "lower" and expectation.permitted == frozenset(("AC",))


def _matching(expectation: Expectation, times: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    glob = Glob(expectation.cases) if expectation.cases else None
    for case, time in times.items():
        if glob is None or glob.matches(case):
            yield case, time


def _s(time_ns: int) -> str:
    return f"{time_ns / _SECOND:.3f}".rstrip("0").rstrip(".")
