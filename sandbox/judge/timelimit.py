"""The time limit of a package: stated, or derived from its own submissions. Pure.

Source: Problem package format, ``legacy``, limits; ``2025-09``, problem timing and time limit inference.
"""

from __future__ import annotations

from typing import NamedTuple

from sandbox.judge.package.words import Glob
from sandbox.judge.problem import Format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.judge.problem import Expectation, Problem, Submission

_SECOND = 1_000_000_000
_UNKNOWN_NS = 10 * _SECOND


class Limit(NamedTuple):
    """A time limit: what counts, up to where a submission may run so that it can be judged by other limits, and where the limit is from, in words."""

    limit_ns: int
    upper_ns: int
    source: str


def first_for_limit(problem: Problem) -> tuple[Submission, ...]:
    """Return the submissions that must be run before there is a limit: those that must be accepted, or are stated to set it. Empty for a stated limit."""
    if problem.limits.time_ns is not None:
        return ()
    return tuple(each for each in problem.submissions if any(_sets_limit(one) for one in each.expectations))


def derive_limit(problem: Problem, times: Mapping[str, Mapping[str, int]], *, stated_ns: int | None = None) -> Limit:
    """Return the time limit.

    The slowest time of a submission that must not be too slow, times the package's multiplier, rounded up to its resolution, and never nothing. Wrong and
    crashing submissions bound a limit of 2025-09 as well; since nothing says how long those take that never end, `check_limit` holds them against it
    afterwards, and only those that must be accepted, or are stated to, make it longer.

    Args:
        problem: the package.
        times: CPU nanoseconds by submission and case, as far as they are known.
        stated_ns: a limit that the caller states, which wins.
    """
    limits = problem.limits
    fixed = stated_ns if stated_ns is not None else limits.time_ns
    if fixed is not None:
        return Limit(fixed, round(fixed * limits.limit_to_tle), "given" if stated_ns is not None else "the package states it")
    slowest, name, case, word = 0, "", "", ""
    for submission, expectation in _bounds(problem, "lower"):
        if not _sets_limit(expectation):
            continue
        for which, time in _matching(expectation, times.get(submission.name, {})):
            if time > slowest or not name:
                slowest, name, case = time, submission.name, which
                word = "slowest that is to set it" if expectation.limit_stated else "slowest accepted"
    if not name:
        return Limit(_UNKNOWN_NS, round(_UNKNOWN_NS * limits.limit_to_tle), "no accepted submission has run, so there is nothing to derive it from")
    step = limits.resolution_ns
    limit = max(1, -(-round(slowest * limits.ac_to_limit) // step)) * step
    source = f"{word} `{name}` on `{case}`, {_s(slowest)} s, times {limits.ac_to_limit:g}, in steps of {_s(step)} s"
    return Limit(limit, round(limit * limits.limit_to_tle), source)


def check_limit(problem: Problem, limit: Limit, times: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """Return where a limit is not as far from the package's submissions as the package wants it to be, in words.

    Args:
        problem: the package.
        limit: of `derive_limit`.
        times: CPU nanoseconds by submission and case; that of a run that was ended is where it was ended, and of one that waited without an end the upper
            limit.
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


def _bounds(problem: Problem, kind: str) -> Iterator[tuple[Submission, Expectation]]:
    for submission in problem.submissions:
        for expectation in submission.expectations:
            if expectation.use_for_time_limit == kind:
                yield submission, expectation


def _sets_limit(expectation: Expectation) -> bool:
    return expectation.use_for_time_limit == "lower" and (expectation.limit_stated or expectation.permitted == frozenset(("AC",)))


def _matching(expectation: Expectation, times: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    glob = Glob(expectation.cases) if expectation.cases else None
    for case, time in times.items():
        if glob is None or glob.matches(case):
            yield case, time


def _s(time_ns: int) -> str:
    return f"{time_ns / _SECOND:.3f}".rstrip("0").rstrip(".")
