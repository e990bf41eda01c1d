"""Whether a submission came out as its label says. Pure.

The words of packages are AC, WA, TLE and RTE. TLE is too much CPU time or wall time; RTE is every other end that is no answer: a signal, an exit code other
than 0, too much memory, too much output, an end by the filter. So too much output is no wrong answer: none of the formats says it is, and the reference tool
gives it a verdict of its own. A judge's error is never what a label says.

A program that writes without an end is ended at the output limit here, where the reference tools let it go on until its time is over and call it too slow. So
OLE is also what a label that wants TLE may have meant, and `doubt_output` says that it is not known.

The legacy format speaks of all cases, its reference tool looks at the verdict of the whole. A legacy label holds by either; where it holds by the whole alone,
`doubt_label` says so.
"""

from __future__ import annotations

import math

from sandbox.judge.model import Code
from sandbox.judge.package.words import Glob
from sandbox.judge.problem import Format
from sandbox.judge.verdict import WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox.judge.model import CaseResult, GroupResult
    from sandbox.judge.problem import Expectation, Problem, Submission

_ERROR = 1e-6
_MAXIMUM_NAMED = 3


def check_label(
    problem: Problem,
    submission: Submission,
    cases: Sequence[CaseResult],
    final: Code | None,
    score: float | None = None,
    *,
    groups: Sequence[GroupResult] = (),
) -> tuple[str, ...]:
    """Return what of a submission's label does not hold, in words; nothing when all does, or nothing is demanded.

    Args:
        problem: the package.
        submission: with its expectations.
        cases: what came of its cases; those that were skipped say nothing.
        final: the verdict of the whole; `Code.CE` when it does not compile.
        score: of the whole, None without.
        groups: what came of its groups, for labels about the score of one.
    """
    if not submission.expectations:
        return ()
    if final is Code.CE:
        return () if any("CE" in (each.final or ()) for each in submission.expectations) else ("does not compile",)
    judged = [each for each in cases if not each.skipped]
    broken = [each for each in judged if each.code is Code.JE]
    if broken or final is Code.JE:
        return (f"judge error{_named(broken)}",)
    found: list[str] = []
    for expectation in submission.expectations:
        if not _holds_by_whole(expectation, final):
            found += [f"{text} ({expectation.source})" for text in _check_cases(expectation, judged, len(judged) < len(cases))]
        found += [f"{text} ({expectation.source})" for text in _check_whole(problem, expectation, judged, final, score, groups)]
    return tuple(dict.fromkeys(found))


def doubt_label(submission: Submission, cases: Sequence[CaseResult], final: Code | None) -> tuple[str, ...]:
    """Return what of a label that holds by the verdict of the whole does not hold over all cases, in words."""
    judged = [each for each in cases if not each.skipped]
    found: list[str] = []
    for expectation in submission.expectations:
        if _holds_by_whole(expectation, final):
            found += [f"{text} ({expectation.source})" for text in _check_cases(expectation, judged, len(judged) < len(cases))]
    return tuple(dict.fromkeys(found))


def doubt_output(submission: Submission, cases: Sequence[CaseResult]) -> tuple[str, ...]:
    """Return on which cases too much output stands for the TLE that a label demands, in words."""
    found: list[str] = []
    for expectation in submission.expectations:
        demands = [words for words in (expectation.permitted, expectation.required, expectation.final) if words is not None]
        flooded = [
            each
            for each in _matching(expectation, [each for each in cases if not each.skipped])
            if any(_stands_for_late(each.code, words) for words in demands)
        ]
        if flooded:
            found.append(f"is OLE{_named(flooded)}, and was ended before it could be too slow ({expectation.source})")
    return tuple(dict.fromkeys(found))


def _holds_by_whole(expectation: Expectation, final: Code | None) -> bool:
    return expectation.or_final is not None and final is not None and _is_one_of(final, expectation.or_final)


def _check_cases(expectation: Expectation, judged: list[CaseResult], partly: bool) -> Iterable[str]:
    cases = _matching(expectation, judged)
    if expectation.permitted is not None:
        wrong = [each for each in cases if not _is_one_of(each.code, expectation.permitted)]
        if wrong:
            yield f"is {wrong[0].code}{_named(wrong)}, may only be {_list(expectation.permitted)}"
    if expectation.required is not None and not any(_is_one_of(each.code, expectation.required) for each in cases):
        where = f" of `{expectation.cases}`" if expectation.cases else ""
        yield f"no case{where} is {_list(expectation.required)}{' (some were not run)' if partly else ''}"


def _check_whole(
    problem: Problem,
    expectation: Expectation,
    judged: list[CaseResult],
    final: Code | None,
    score: float | None,
    groups: Sequence[GroupResult],
) -> Iterable[str]:
    if expectation.final is not None and (final is None or not _is_one_of(final, expectation.final)):
        part = expectation.partial and bool(score) and problem.format is not Format.V2025_09
        hint = f", though it scores {score:g}: `accept_if_any_accepted` among the `grader_flags` of its groups accepts a part" if part else ""
        yield f"is {final or 'without a verdict'}, must be {_list(expectation.final)}{hint}"
    if expectation.message and not any(expectation.message in each.judge_message for each in _matching(expectation, judged)):
        yield f"no judge's message has `{expectation.message[:80]}`"
    if expectation.score is not None:
        yield from _check_score(expectation, final, score, groups)
    if expectation.partial and final is Code.AC and score is not None:
        low, high = problem.score_range
        best = high if problem.maximise else low
        if not math.isinf(best) and math.isclose(score, best, rel_tol=0.0, abs_tol=_ERROR):
            yield f"has the full score, {score:g}"


def _matching(expectation: Expectation, cases: list[CaseResult]) -> list[CaseResult]:
    glob = Glob(expectation.cases) if expectation.cases else None
    return [each for each in cases if glob is None or glob.matches(each.case)]


def _check_score(expectation: Expectation, final: Code | None, score: float | None, groups: Sequence[GroupResult]) -> Iterable[str]:
    assert expectation.score is not None
    glob = Glob(expectation.cases) if expectation.cases else None
    low, high = expectation.score
    scores = {"": score} if glob is None else {f" of `{each.name}`": each.score for each in groups if each.name and glob.matches(each.name)}
    if not scores:
        yield f"`{expectation.cases}` is no group that has a score"
    for name, found in scores.items():
        # A submission that is not accepted has no score, which is as good as none.
        value = 0.0 if found is None or (glob is None and final is not Code.AC) else found
        if not low - _ERROR <= value <= high + _ERROR:
            yield f"score{name} is {value:g}, must be {low:g}" + (f" to {high:g}" if high != low else "")


def _is_one_of(code: Code, words: frozenset[str]) -> bool:
    return WORDS[code] in words or code.value in words or _stands_for_late(code, words)


def _stands_for_late(code: Code, words: frozenset[str]) -> bool:
    return code is Code.OLE and "TLE" in words and not words & {"RTE", "OLE"}


def _named(cases: Sequence[CaseResult]) -> str:
    if not cases:
        return ""
    names = ", ".join(f"`{each.case}`" for each in cases[:_MAXIMUM_NAMED])
    return f" on {names}" + (f" and {len(cases) - _MAXIMUM_NAMED} more" if len(cases) > _MAXIMUM_NAMED else "")


def _list(words: frozenset[str]) -> str:
    order = ("AC", "WA", "TLE", "RTE", "MLE", "OLE", "CE")
    return " or ".join(each for each in order if each in words)
