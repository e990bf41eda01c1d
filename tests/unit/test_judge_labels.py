"""Labels: what each demands, over all cases or some, and the words in which it is said that it does not hold."""

from __future__ import annotations

import pytest

from sandbox.judge.labels import check_label, doubt_label, doubt_output
from sandbox.judge.model import CaseResult, Code, GroupResult
from sandbox.judge.problem import Expectation, Format, Grading, Group, Problem, ProblemLimits, Submission

AC, WA, TLE, WTL, RTE, NZE, MLE, OLE, SYS, CE, JE = (Code[name] for name in "AC WA TLE WTL RTE NZE MLE OLE SYS CE JE".split())


def problem(*, maximise: bool = True, score_range: tuple[float, float] = (0.0, 100.0)) -> Problem:
    data = Group(name="", grading=Grading(), children=())
    return Problem(name="p", format=Format.LEGACY, root="", limits=ProblemLimits(), data=data, maximise=maximise, score_range=score_range)


def want(**demands: object) -> Expectation:
    words = ("permitted", "required", "final", "or_final")
    made = {key: frozenset(value.split()) if key in words and isinstance(value, str) else value for key, value in demands.items()}
    return Expectation(source="here", **made)  # type: ignore[arg-type]


def check(expectation: Expectation, codes: list[Code], final: Code | None = None, score: float | None = None, **given: object) -> tuple[str, ...]:
    results = [CaseResult(case=f"secret/{number}", code=code) for number, code in enumerate(codes)]
    return check_label(problem(), Submission(name="s", files={}, expectations=(expectation,)), results, final or AC, score, **given)  # type: ignore[arg-type]


ACCEPTED = want(permitted="AC")
WRONG = want(permitted="AC WA", required="WA")
LATE = want(permitted="AC TLE", required="TLE")
CRASH = want(permitted="AC RTE", required="RTE")

LABELS: list[tuple[Expectation, list[Code], tuple[str, ...]]] = [
    (ACCEPTED, [AC, AC], ()),
    (ACCEPTED, [AC, WA, TLE], ("is WA on `secret/1`, `secret/2`, may only be AC (here)",)),
    (ACCEPTED, [WA] * 5, ("is WA on `secret/0`, `secret/1`, `secret/2` and 2 more, may only be AC (here)",)),
    (WRONG, [AC, WA], ()),
    (WRONG, [AC, AC], ("no case is WA (here)",)),
    (WRONG, [WA, TLE], ("is TLE on `secret/1`, may only be AC or WA (here)",)),
    (LATE, [AC, TLE], ()),
    (LATE, [AC, WTL], ()),
    (LATE, [AC, OLE], ()),
    (want(permitted="AC", required="TLE"), [OLE], ("is OLE on `secret/0`, may only be AC (here)",)),
    (want(permitted="TLE RTE", required="RTE"), [OLE], ()),
    (LATE, [TLE, WA], ("is WA on `secret/1`, may only be AC or TLE (here)",)),
    (CRASH, [AC, RTE], ()),
    (CRASH, [NZE, MLE, SYS, OLE], ()),
    (CRASH, [AC, WA], ("is WA on `secret/1`, may only be AC or RTE (here)", "no case is RTE (here)")),
    (WRONG, [OLE], ("is OLE on `secret/0`, may only be AC or WA (here)", "no case is WA (here)")),
    (ACCEPTED, [AC, JE], ("judge error on `secret/1`",)),
    (want(final="WA TLE"), [], ("is AC, must be WA or TLE (here)",)),
    (want(cases="secret/0", permitted="AC"), [AC, WA], ()),
    (want(cases="secret/1", permitted="AC"), [AC, WA], ("is WA on `secret/1`, may only be AC (here)",)),
    (want(cases="secret/{0,1}", required="TLE"), [AC, WA, TLE], ("no case of `secret/{0,1}` is TLE (here)",)),
    (want(cases="secret", required="TLE"), [AC, WA, TLE], ()),
]


@pytest.mark.parametrize(("expectation", "codes", "problems"), LABELS)
def test_labels(expectation: Expectation, codes: list[Code], problems: tuple[str, ...]) -> None:
    assert check(expectation, codes) == problems


@pytest.mark.parametrize(
    ("final", "code", "holds"),
    [("RTE", NZE, True), ("RTE", MLE, True), ("MLE", MLE, True), ("MLE", NZE, False), ("OLE", OLE, True),
     ("TLE", WTL, True), ("CE", CE, True), ("AC", CE, False)],
)
def test_words_for_the_whole(final: str, code: Code, holds: bool) -> None:
    assert (check(want(final=final), [], code) == ()) is holds


def test_a_label_without_demands_holds_always() -> None:
    assert check_label(problem(), Submission(name="s", files={}), [CaseResult(case="a", code=JE)], JE) == ()


def test_what_does_not_compile() -> None:
    assert check(ACCEPTED, [], CE) == ("does not compile",)
    assert check(want(required="WA"), [], CE) == ("does not compile",)


def test_cases_that_were_not_run_are_mentioned() -> None:
    cases = [CaseResult(case="a", code=AC), CaseResult(case="b", code=JE, skipped="stopped")]
    found = check_label(problem(), Submission(name="s", files={}, expectations=(WRONG,)), cases, AC)
    assert found == ("no case is WA (some were not run) (here)",)


def test_messages_of_judges() -> None:
    submission = Submission(name="s", files={}, expectations=(want(message="line 3"),))
    assert check_label(problem(), submission, [CaseResult(case="a", code=WA, judge_message="at line 3, no")], WA) == ()
    assert check_label(problem(), submission, [CaseResult(case="a", code=WA, judge_message="at LINE 3")], WA) == (
        "no judge's message has `line 3` (here)",
    )


@pytest.mark.parametrize(
    ("score", "final", "problems"),
    [(50.0, AC, ()), (100.0, AC, ("has the full score, 100 (here)",)), (0.0, AC, ()), (0.0, WA, ("is WA, must be AC (here)",)),
     (50.0, WA, ("is WA, must be AC, though it scores 50: `accept_if_any_accepted` among the `grader_flags` of its groups accepts a part (here)",))],
)  # fmt: skip
def test_partially_accepted(score: float, final: Code, problems: tuple[str, ...]) -> None:
    assert check(want(final="AC", partial=True), [AC, WA], final, score) == problems


def test_partially_accepted_when_less_is_better_or_nobody_knows() -> None:
    submission = Submission(name="s", files={}, expectations=(want(final="AC", partial=True),))
    assert check_label(problem(maximise=False), submission, [], AC, 0.0) == ("has the full score, 0 (here)",)
    assert check_label(problem(maximise=False), submission, [], AC, 100.0) == ()
    assert check_label(problem(score_range=(0.0, float("inf"))), submission, [], AC, 1e9) == ()


@pytest.mark.parametrize(
    ("wanted", "score", "final", "problems"),
    [
        ((40.0, 40.0), 40.0, AC, ()),
        ((40.0, 40.0), 39.5, AC, ("score is 39.5, must be 40 (here)",)),
        ((10.0, 20.0), 20.0, AC, ()),
        ((10.0, 20.0), 25.0, AC, ("score is 25, must be 10 to 20 (here)",)),
        ((0.0, 0.0), 30.0, WA, ()),
        ((10.0, 20.0), None, AC, ("score is 0, must be 10 to 20 (here)",)),
    ],
)
def test_scores(wanted: tuple[float, float], score: float | None, final: Code, problems: tuple[str, ...]) -> None:
    assert check(want(score=wanted), [AC], final, score) == problems


def test_scores_of_groups() -> None:
    groups = [GroupResult(name="secret/g1", code=AC, score=40.0), GroupResult(name="secret/g2", code=AC, score=7.0)]
    assert check(want(cases="secret/g1", score=(40.0, 40.0)), [AC], groups=groups) == ()
    assert check(want(cases="secret/*", score=(40.0, 40.0)), [AC], groups=groups) == ("score of `secret/g2` is 7, must be 40 (here)",)
    assert check(want(cases="secret/g9", score=(40.0, 40.0)), [AC], groups=groups) == ("`secret/g9` is no group that has a score (here)",)


EITHER = want(permitted="AC WA", required="WA", or_final="WA")


@pytest.mark.parametrize(
    ("codes", "final", "problems", "doubts"),
    [
        ([AC, WA], WA, (), ()),
        ([WA, TLE], WA, (), ("is TLE on `secret/1`, may only be AC or WA (here)",)),
        ([WA, TLE], TLE, ("is TLE on `secret/1`, may only be AC or WA (here)",), ()),
        ([AC, WA], AC, (), ()),
        ([AC, AC], AC, ("no case is WA (here)",), ()),
        ([WA, JE], JE, ("judge error on `secret/1`",), ()),
    ],
)
def test_legacy_labels_hold_over_all_cases_or_by_the_whole(
    codes: list[Code], final: Code, problems: tuple[str, ...], doubts: tuple[str, ...]
) -> None:
    assert check(EITHER, codes, final) == problems
    results = [CaseResult(case=f"secret/{number}", code=code) for number, code in enumerate(codes)]
    assert doubt_label(Submission(name="s", files={}, expectations=(EITHER,)), results, final) == doubts


@pytest.mark.parametrize(
    ("expectation", "codes", "doubts"),
    [
        (LATE, [AC, OLE], ("is OLE on `secret/1`, and was ended before it could be too slow (here)",)),
        (want(final="TLE"), [OLE], ("is OLE on `secret/0`, and was ended before it could be too slow (here)",)),
        (LATE, [AC, TLE], ()),
        (want(permitted="AC TLE RTE"), [OLE], ()),
        (want(permitted="AC TLE OLE"), [OLE], ()),
        (CRASH, [OLE], ()),
        (want(cases="secret/0", permitted="AC TLE"), [AC, OLE], ()),
    ],
)
def test_too_much_output_stands_for_too_slow_and_is_doubted(expectation: Expectation, codes: list[Code], doubts: tuple[str, ...]) -> None:
    """It is ended at once here, where the reference tools let it write on until its time is over."""
    results = [CaseResult(case=f"secret/{number}", code=code) for number, code in enumerate(codes)]
    assert doubt_output(Submission(name="s", files={}, expectations=(expectation,)), results) == doubts
