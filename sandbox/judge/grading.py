"""How outcomes below a group become one: legacy graders with all their flags, and the aggregation of 2025-09. Pure.

Source: Problem package format, ``legacy``, graders; ``2025-09``, result aggregation.
"""

from __future__ import annotations

import math

from sandbox.judge.model import CaseResult, Code, GroupResult
from sandbox.judge.problem import Case, Group
from sandbox.judge.verdict import WORDS
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # What runs a package's own grader: gets results and flags, returns a verdict, a score, and why there is no other where the verdict is JE.
    Grader = Callable[[Sequence[tuple[Code, float]], tuple[str, ...]], tuple[Code, float | None, str]]

# The default grader's order of verdicts; ours that it does not know stand beside their kin.
_WORST = (Code.JE, Code.CE, Code.SYS, Code.RTE, Code.NZE, Code.MLE, Code.TLE, Code.WTL, Code.OLE, Code.WA)
_VERDICT_MODES = ("worst_error", "no_errors", "first_error", "always_accept")
_SCORE_MODES = ("sum", "avg", "min", "max")
_ERROR = 1e-9


def should_stop(group: Group, outcomes: Sequence[CaseResult | GroupResult]) -> bool:
    """Whether judging a group ends with what was judged last: it was not accepted, and the group says ``on_reject: break``."""
    return group.grading.on_reject_break and bool(outcomes) and outcomes[-1].code is not Code.AC


def why_skipped(group: Group, done: Mapping[str, GroupResult]) -> str:
    """Return why a group is not judged, "" when it is.

    Args:
        group: of 2025-09 with ``require_pass``.
        done: what came of earlier groups, by name.
    """
    for name in group.grading.require_pass:
        if name in done and done[name].code is not Code.AC:
            return f"`{name}` was not passed, which it requires"
    return ""


def skipped_group(group: Group, why: str) -> GroupResult:
    """Return the result of a group that was not judged: not accepted, no score."""
    return GroupResult(name=group.name, code=Code.WA, score=0.0 if group.grading.scoring else None, decided_by=group.name, skipped=why)


def grade_group(group: Group, outcomes: Sequence[CaseResult | GroupResult], grader: Grader | None = None) -> GroupResult:
    """Return what came of a group.

    Args:
        group: the group.
        outcomes: what came of its children, in order; fewer where judging stopped, none for cases that were skipped.
        grader: runs the package's own grader, needed where the group asks for it.

    Returns:
        Its verdict and score; the score is None for problems without.
    """
    judged = [each for each in outcomes if not (isinstance(each, CaseResult) and each.skipped)]
    error = next((each for each in judged if each.code is Code.JE), None)
    if error is not None:
        return GroupResult(name=group.name, code=Code.JE, score=0.0 if group.grading.scoring else None, decided_by=_name(error))
    if group.grading.aggregation:
        result = _aggregate(group, judged)
    elif group.grading.custom:
        result = _ask(group, judged, grader)
    else:
        result = _default(group, judged)
    return result if group.grading.scoring else replace(result, score=None)


def static_case(group: Group) -> str:
    """Return the name of the case of a group that is the submission's own files."""
    return f"{group.name}/static_validation"


def case_score(group: Group, result: CaseResult) -> float | str:
    """Return the score of a case in its group, or what the validator did wrong, in words.

    Legacy: what the validator gave, else ``accept_score`` or ``reject_score``. 2025-09: what it gave, or its multiplier times the most that the case can get.
    """
    grading = group.grading
    if not grading.aggregation:
        if result.score is not None:
            return result.score
        return grading.accept_score if result.code is Code.AC else grading.reject_score
    if result.code is not Code.AC:
        return 0.0
    gave = result.score is not None or result.multiplier is not None
    if grading.aggregation == "pass-fail":
        return f"validator gave a score for `{result.case}`, which passes or fails" if gave and group.name != "sample" else 0.0
    most = (grading.static_validation_score or 0.0) if result.case == static_case(group) else _most(group)
    if result.score is not None and result.multiplier is not None:
        return f"validator gave both a score and a multiplier for `{result.case}`"
    if math.isinf(most):
        return result.score if result.score is not None else f"validator gave no score for `{result.case}`, whose score has no bound"
    if result.multiplier is not None:
        return most * result.multiplier
    if result.score is None:
        return most
    return result.score if result.score <= most + _ERROR else f"validator gave `{result.case}` {result.score:g}, more than its {most:g}"


def _most(group: Group) -> float:
    """Return the most that a case of a group can get, infinite where there is no bound. Source: ``2025-09``, scoring problems."""
    grading = group.grading
    if grading.max_score is None:
        return math.inf
    if grading.aggregation == "min":
        return grading.max_score
    return (grading.max_score - (grading.static_validation_score or 0.0)) / max(1, sum(isinstance(each, Case) for each in group.children))


def _aggregate(group: Group, outcomes: list[CaseResult | GroupResult]) -> GroupResult:
    """Grade a group of 2025-09. The root's score is that of ``secret``."""
    grading = group.grading
    failed = next((each for each in outcomes if each.code is not Code.AC), None)
    if not group.name:
        secret = next((each for each in outcomes if isinstance(each, GroupResult) and each.name == "secret"), None)
        if grading.scoring and secret is not None:
            return GroupResult(name="", code=secret.code, score=secret.score, decided_by="secret")
        return GroupResult(name="", code=failed.code if failed else Code.AC, score=0.0, decided_by=_name(failed))
    scores: list[float] = []
    for each in outcomes:
        score = case_score(group, each) if isinstance(each, CaseResult) else each.score or 0.0
        if isinstance(score, str):
            return GroupResult(name=group.name, code=Code.JE, score=0.0, decided_by=_name(each), problems=(score,))
        scores.append(score)
    # A case that was not judged is not accepted.
    complete = len(outcomes) == len(group.children) + (grading.static_validation_score is not None)
    if not grading.scoring or grading.aggregation == "pass-fail":
        total = (grading.max_score or 0.0) if failed is None and complete else 0.0
    elif grading.aggregation == "min":
        total = min(scores, default=0.0) if complete else 0.0
    else:
        total = _sum(scores)
    if math.isinf(total):
        return _too_large(group)
    if grading.max_score is not None and total > grading.max_score + _ERROR:
        problem = f"score {total:g} of `{group.name}` is above its `max_score`, {grading.max_score:g}"
        return GroupResult(name=group.name, code=Code.JE, score=0.0, decided_by=group.name, problems=(problem,))
    # With a sum, a submission that got a part of it is accepted, with that part for a score.
    if (failed is None and complete) or (grading.scoring and grading.aggregation == "sum" and total > 0):
        return GroupResult(name=group.name, code=Code.AC, score=total)
    if failed is not None:
        return GroupResult(name=group.name, code=failed.code, score=total, decided_by=_name(failed))
    return replace(skipped_group(group, "not all of its cases were judged"), score=total)


def _default(group: Group, outcomes: list[CaseResult | GroupResult]) -> GroupResult:
    """Grade as the default grader of the legacy format does."""
    flags = group.grading.flags
    if not outcomes:
        return GroupResult(name=group.name, code=Code.AC, score=0.0)
    if "ignore_sample" in flags:
        if len(outcomes) > 2:
            problem = f"`ignore_sample` is for a sample and a secret group, `{group.name or 'data'}` has {len(outcomes)} results"
            return GroupResult(name=group.name, code=Code.JE, score=0.0, decided_by=group.name, problems=(problem,))
        outcomes = outcomes[-1:]
    verdict_mode = next((flag for flag in reversed(flags) if flag in _VERDICT_MODES), "worst_error")
    score_mode = next((flag for flag in reversed(flags) if flag in _SCORE_MODES), "sum")
    failed = [each for each in outcomes if each.code is not Code.AC]
    if verdict_mode == "always_accept" or not failed or ("accept_if_any_accepted" in flags and len(failed) < len(outcomes)):
        decisive = None
    else:
        decisive = failed[0] if verdict_mode == "first_error" else min(failed, key=lambda each: _WORST.index(each.code))
    scores = [_score(group, each) for each in outcomes]
    total = _sum(scores)
    if score_mode != "sum":
        total = total / len(scores) if score_mode == "avg" else min(scores) if score_mode == "min" else max(scores)
    if math.isinf(total):
        return _too_large(group)
    code = decisive.code if decisive is not None else Code.AC
    return GroupResult(name=group.name, code=code, score=total, decided_by=_name(decisive), problems=_out_of_range(group, total, code))


def _ask(group: Group, outcomes: list[CaseResult | GroupResult], grader: Grader | None) -> GroupResult:
    """Let the package's own grader decide."""
    if not outcomes:
        return GroupResult(name=group.name, code=Code.AC, score=0.0)
    if grader is None:
        code, score, cause = Code.JE, None, f"there is no grader for `{group.name or 'data'}`"
    else:
        code, score, cause = grader([(each.code, _score(group, each)) for each in outcomes], group.grading.flags)
    if code is Code.JE:
        return GroupResult(name=group.name, code=code, score=0.0, decided_by=group.name, problems=(cause,) if cause else ())
    score = score or 0.0
    decisive = next((each for each in reversed(outcomes) if WORDS[each.code] == WORDS[code]), None) if code is not Code.AC else None
    return GroupResult(
        name=group.name,
        code=decisive.code if decisive is not None else code,
        score=score,
        decided_by=_name(decisive) if decisive is not None else "",
        problems=_out_of_range(group, score, code),
    )


def _score(group: Group, outcome: CaseResult | GroupResult) -> float:
    if isinstance(outcome, GroupResult):
        return outcome.score or 0.0
    score = case_score(group, outcome)
    assert not isinstance(score, str)
    return score


def _sum(scores: Sequence[float]) -> float:
    """Return a sum, infinite where no number holds it."""
    try:
        return math.fsum(scores)
    except OverflowError:
        return math.inf


def _too_large(group: Group) -> GroupResult:
    problem = f"scores of `{group.name or 'data'}` add up to what no number holds"
    return GroupResult(name=group.name, code=Code.JE, score=0.0, decided_by=group.name, problems=(problem,))


def _out_of_range(group: Group, score: float, code: Code) -> tuple[str, ...]:
    grading = group.grading
    if not grading.scoring or code is not Code.AC or grading.minimum - _ERROR <= score <= grading.maximum + _ERROR:
        return ()
    return (f"score {score:g} of `{group.name or 'data'}` is outside of its range, {grading.minimum:g} to {grading.maximum:g}",)


def _name(outcome: CaseResult | GroupResult | None) -> str:
    if outcome is None:
        return ""
    return outcome.case if isinstance(outcome, CaseResult) else outcome.name
