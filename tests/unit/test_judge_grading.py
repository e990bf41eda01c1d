"""Grading: every flag of the legacy default grader, custom graders, aggregation of 2025-09; and the same over whole trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pytest

from sandbox.judge.grading import case_score, grade_group, should_stop, skipped_group, why_skipped
from sandbox.judge.model import CaseResult, Code, GroupResult
from sandbox.judge.pipeline.walk import Rules, Walked, walk
from sandbox.judge.problem import Case, Grading, Group

STATIC = "g/static_validation"
AC, WA, TLE, WTL, RTE, NZE, MLE, OLE, SYS, JE = (Code[name] for name in "AC WA TLE WTL RTE NZE MLE OLE SYS JE".split())


def case(name: str, code: Code = AC, score: float | None = None, multiplier: float | None = None, skipped: str = "") -> CaseResult:
    return CaseResult(case=name, code=code, score=score, multiplier=multiplier, skipped=skipped)


def cases(*codes: Code) -> list[CaseResult]:
    return [case(f"c{number}", code) for number, code in enumerate(codes)]


def legacy(name: str = "g", flags: str = "", **keys: object) -> Group:
    return Group(name=name, grading=Grading(scoring=True, flags=tuple(flags.split()), **keys), children=())  # type: ignore[arg-type]


def leaves(*names: str) -> tuple[Case, ...]:
    return tuple(Case(name=name, input="", answer="") for name in names)


def new(name: str, aggregation: str, count: int, most: float | None, **keys: object) -> Group:
    grading = Grading(scoring=True, on_reject_break=False, aggregation=aggregation, max_score=most, **keys)  # type: ignore[arg-type]
    return Group(name=name, grading=grading, children=leaves(*(f"c{number}" for number in range(count))))


# ---- legacy ------------------------------------------------------------------------------------------------------

# Flags, verdicts of the cases, and what comes of them: verdict, score with accept_score 10 and reject_score 1, who decided.
LEGACY: list[tuple[str, list[Code], tuple[Code, float, str]]] = [
    ("", [], (AC, 0.0, "")),
    ("", [AC, AC], (AC, 20.0, "")),
    ("", [AC, WA], (WA, 11.0, "c1")),
    ("", [WA, TLE], (TLE, 2.0, "c1")),
    ("", [WA, TLE, RTE], (RTE, 3.0, "c2")),
    ("", [TLE, MLE], (MLE, 2.0, "c1")),
    ("", [OLE, WA], (OLE, 2.0, "c0")),
    ("", [OLE, TLE], (TLE, 2.0, "c1")),
    ("", [WTL, WA], (WTL, 2.0, "c0")),
    ("", [TLE, NZE], (NZE, 2.0, "c1")),
    ("", [MLE, SYS], (SYS, 2.0, "c1")),
    ("no_errors", [WA, TLE], (TLE, 2.0, "c1")),
    ("first_error", [AC, WA, RTE], (WA, 12.0, "c1")),
    ("first_error worst_error", [WA, RTE], (RTE, 2.0, "c1")),
    ("worst_error first_error", [WA, RTE], (WA, 2.0, "c0")),
    ("always_accept", [WA, RTE], (AC, 2.0, "")),
    ("accept_if_any_accepted", [WA, AC], (AC, 11.0, "")),
    ("accept_if_any_accepted", [WA, RTE], (RTE, 2.0, "c1")),
    ("accept_if_any_accepted first_error", [WA, RTE], (WA, 2.0, "c0")),
    ("avg", [AC, WA], (WA, 5.5, "c1")),
    ("min", [AC, AC], (AC, 10.0, "")),
    ("min", [AC, WA], (WA, 1.0, "c1")),
    ("max", [AC, WA], (WA, 10.0, "c1")),
    ("sum min max avg", [AC, WA], (WA, 5.5, "c1")),
    ("min always_accept", [AC, WA], (AC, 1.0, "")),
    ("ignore_sample", [WA, AC], (AC, 10.0, "")),
    ("ignore_sample", [AC, WA], (WA, 1.0, "c1")),
    ("ignore_sample", [AC], (AC, 10.0, "")),
    ("ignore_sample", [AC, AC, AC], (JE, 0.0, "g")),
    ("something_else", [AC, AC], (AC, 20.0, "")),
    ("", [AC, JE, WA], (JE, 0.0, "c1")),
    ("always_accept", [JE], (JE, 0.0, "c0")),
]


@pytest.mark.parametrize(("flags", "codes", "result"), LEGACY)
def test_default_grader(flags: str, codes: list[Code], result: tuple[Code, float, str]) -> None:
    found = grade_group(legacy(flags=flags, accept_score=10.0, reject_score=1.0), cases(*codes))
    assert (found.code, found.score, found.decided_by) == result


def test_scores_of_validators_and_groups_count_as_they_are() -> None:
    assert grade_group(legacy(accept_score=10.0), [case("a", AC, 3.5), case("b", AC)]).score == 13.5
    assert grade_group(legacy(flags="min"), [GroupResult(name="x", code=AC, score=4.0), GroupResult(name="y", code=AC, score=2.0)]).score == 2.0


def test_pass_fail_has_no_score() -> None:
    group = Group(name="g", grading=Grading(), children=())
    assert grade_group(group, cases(AC, WA)).score is None


def test_skipped_cases_say_nothing() -> None:
    found = grade_group(legacy(), [case("a", AC), case("b", JE, skipped="stopped")])
    assert (found.code, found.score) == (AC, 1.0)


def test_score_out_of_range_is_the_packages_fault_and_said() -> None:
    found = grade_group(legacy(accept_score=10.0, minimum=0.0, maximum=5.0), cases(AC))
    assert (found.code, found.score) == (AC, 10.0)
    assert found.problems == ("score 10 of `g` is outside of its range, 0 to 5",)
    assert grade_group(legacy(reject_score=10.0, maximum=5.0), cases(WA)).problems == ()


def test_scores_that_no_sum_holds_are_the_packages_fault_and_said() -> None:
    outcomes = [case(name, score=1.7e308) for name in "ab"]
    for group in (legacy(), legacy(flags="avg"), new("g", "sum", 2, None)):
        found = grade_group(group, outcomes)
        assert (found.code, found.problems) == (JE, ("scores of `g` add up to what no number holds",))


@pytest.mark.parametrize("breaks", [True, False])
def test_on_reject(breaks: bool) -> None:
    group = legacy(on_reject_break=breaks)
    assert not should_stop(group, [])
    assert not should_stop(group, cases(WA, AC))
    assert should_stop(group, cases(AC, WA)) is breaks


# ---- custom graders ----------------------------------------------------------------------------------------------


def test_custom_grader_gets_results_and_flags_and_decides() -> None:
    asked = []

    def grader(results: Sequence[tuple[Code, float]], flags: tuple[str, ...]) -> tuple[Code, float | None, str]:
        asked.append((list(results), flags))
        return WA, 3.25, ""

    found = grade_group(legacy(flags="a b", custom=True, accept_score=7.0, reject_score=1.0), [*cases(AC, NZE, WTL), case("c3", WA, 2.0)], grader)
    assert asked == [([(AC, 7.0), (NZE, 1.0), (WTL, 1.0), (WA, 2.0)], ("a", "b"))]
    assert (found.code, found.score, found.decided_by, found.problems) == (WA, 3.25, "c3", ())


@pytest.mark.parametrize(
    ("answer", "code", "score", "decided_by"),
    [
        ((AC, 12.0, ""), AC, 12.0, ""),
        ((AC, -1.5, ""), AC, -1.5, ""),
        ((TLE, None, ""), WTL, 0.0, "c1"),
        ((RTE, 0.0, ""), MLE, 0.0, "c2"),
        ((OLE, 0.0, ""), MLE, 0.0, "c2"),
        ((WA, 0.0, ""), WA, 0.0, ""),
    ],
)
def test_custom_grader_answers(answer: tuple[Code, float | None, str], code: Code, score: float, decided_by: str) -> None:
    """A word of the format's becomes the verdict that it was said of; one that was said of none stays."""
    found = grade_group(legacy(custom=True), cases(AC, WTL, MLE), lambda *_: answer)
    assert (found.code, found.score, found.decided_by) == (code, score, decided_by)


def test_broken_custom_grader_is_a_judge_error() -> None:
    found = grade_group(legacy(custom=True), cases(AC), lambda *_: (JE, None, "grader `g`: exit code 1"))
    assert (found.code, found.score, found.decided_by, found.problems) == (JE, 0.0, "g", ("grader `g`: exit code 1",))


def test_custom_grader_is_not_asked_about_nothing() -> None:
    assert grade_group(legacy(custom=True), []).code is AC


def test_no_grader_is_a_judge_error() -> None:
    assert grade_group(legacy(custom=True), cases(AC)).problems == ("there is no grader for `g`",)


# ---- 2025-09 -----------------------------------------------------------------------------------------------------

NEW: list[tuple[str, Group, list[CaseResult], tuple[Code, float, str]]] = [
    ("all pass", new("g", "pass-fail", 2, 40.0), cases(AC, AC), (AC, 40.0, "")),
    ("one fails", new("g", "pass-fail", 2, 40.0), cases(AC, TLE), (TLE, 0.0, "c1")),
    ("first failure decides", new("g", "pass-fail", 3, 40.0), cases(AC, WA, RTE), (WA, 0.0, "c1")),
    ("not all judged", new("g", "pass-fail", 3, 40.0), cases(AC, AC), (WA, 0.0, "g")),
    ("sum in equal parts", new("g", "sum", 4, 100.0), cases(AC, WA, AC, AC), (AC, 75.0, "")),
    ("sum of nothing", new("g", "sum", 2, 100.0), cases(WA, TLE), (WA, 0.0, "c0")),
    ("min", new("g", "min", 2, 60.0), cases(AC, AC), (AC, 60.0, "")),
    ("min with a failure", new("g", "min", 2, 60.0), cases(AC, WA), (WA, 0.0, "c1")),
    ("score of a validator", new("g", "sum", 2, 100.0), [case("c0", AC, 12.5), case("c1", AC)], (AC, 62.5, "")),
    ("multiplier", new("g", "min", 2, 60.0), [case("c0", AC, None, 0.5), case("c1", AC)], (AC, 30.0, "")),
    ("unbounded", new("g", "sum", 2, None), [case("c0", AC, 1234.5), case("c1", WA)], (AC, 1234.5, "")),
    ("unbounded min", new("g", "min", 2, None), [case("c0", AC, 5.0), case("c1", AC, 3.0)], (AC, 3.0, "")),
    ("score above the most", new("g", "sum", 2, 100.0), [case("c0", AC, 51.0), case("c1", AC)], (JE, 0.0, "c0")),
    ("no score without bound", new("g", "sum", 2, None), cases(AC, AC), (JE, 0.0, "c0")),
    ("multiplier without bound", new("g", "sum", 1, None), [case("c0", AC, None, 0.5)], (JE, 0.0, "c0")),
    ("both", new("g", "sum", 1, 10.0), [case("c0", AC, 1.0, 0.5)], (JE, 0.0, "c0")),
    ("score where it passes or fails", new("g", "pass-fail", 1, 10.0), [case("c0", AC, 1.0)], (JE, 0.0, "c0")),
    ("score of a sample", new("sample", "pass-fail", 1, None), [case("c0", AC, 1.0)], (AC, 0.0, "")),
    ("static part", new("g", "sum", 2, 100.0, static_validation_score=20.0), cases(AC, WA), (AC, 40.0, "")),
    ("static case", new("g", "sum", 2, 100.0, static_validation_score=20.0), [case("g/static_validation", AC), *cases(AC, WA)], (AC, 60.0, "")),
    ("static case failed", new("g", "min", 1, 60.0, static_validation_score=60.0), [case(STATIC, WA), *cases(AC)], (WA, 0.0, STATIC)),
    ("static case not judged", new("g", "min", 1, 60.0, static_validation_score=60.0), cases(AC), (WA, 0.0, "g")),
    ("static case with too much", new("g", "sum", 1, 60.0, static_validation_score=5.0), [case(STATIC, AC, 6.0), *cases(AC)], (JE, 0.0, STATIC)),
    ("judge error", new("g", "sum", 2, 100.0), cases(AC, JE), (JE, 0.0, "c1")),
]


@pytest.mark.parametrize(("group", "outcomes", "result"), [pytest.param(group, outcomes, result, id=what) for what, group, outcomes, result in NEW])
def test_aggregation(group: Group, outcomes: list[CaseResult], result: tuple[Code, float, str]) -> None:
    found = grade_group(group, outcomes)
    assert (found.code, found.score, found.decided_by) == result
    assert bool(found.problems) == (result[0] is JE and not any(each.code is JE for each in outcomes))


def test_score_above_the_maximum_of_the_group_is_a_judge_error() -> None:
    group = Group(name="secret", grading=Grading(scoring=True, aggregation="sum", max_score=100.0), children=())
    found = grade_group(group, [GroupResult(name="a", code=AC, score=60.0), GroupResult(name="b", code=AC, score=60.0)])
    assert (found.code, found.problems) == (JE, ("score 120 of `secret` is above its `max_score`, 100",))


def test_requirements() -> None:
    group = new("secret/g2", "min", 1, 60.0, require_pass=("sample", "secret/g1"))
    passed = {"sample": GroupResult(name="sample", code=AC), "secret/g1": GroupResult(name="secret/g1", code=AC)}
    assert why_skipped(group, passed) == ""
    assert why_skipped(group, {**passed, "secret/g1": GroupResult(name="secret/g1", code=WA)}) == "`secret/g1` was not passed, which it requires"


def test_case_scores_of_the_legacy_format() -> None:
    group = legacy(accept_score=3.0, reject_score=-1.0)
    assert [case_score(group, each) for each in (case("a"), case("a", WA), case("a", AC, 0.0))] == [3.0, -1.0, 0.0]


# ---- trees -------------------------------------------------------------------------------------------------------


def grade_tree(root: Group, results: Mapping[str, CaseResult]) -> Walked:
    """Return what comes of a tree when its cases come out as given, by the walk that judges submissions."""
    asking = walk(root, Rules(grade=grade_group, stops=should_stop, bars=why_skipped, barred=skipped_group))
    try:
        asked = next(asking)
        while True:
            asked = asking.send(results[asked.name])
    except StopIteration as end:
        assert isinstance(end.value, Walked)
        return end.value


def swedish() -> Group:
    """The tree that olympiad packages have: samples count nothing, groups are all or nothing, a part of them is a part of the score."""
    groups = tuple(
        Group(
            name=f"secret/g{number}",
            grading=Grading(scoring=True, accept_score=score, flags=("min",), maximum=score, minimum=0.0),
            children=leaves(f"secret/g{number}/a", f"secret/g{number}/b"),
        )
        for number, score in ((1, 40.0), (2, 60.0))
    )
    sample = Group(name="sample", grading=Grading(scoring=True, accept_score=0.0, on_reject_break=False), children=leaves("sample/1"))
    flags = ("first_error", "accept_if_any_accepted")
    secret = Group(name="secret", grading=Grading(scoring=True, on_reject_break=False, flags=flags), children=groups)
    return Group(name="", grading=Grading(scoring=True, on_reject_break=False, flags=("ignore_sample",)), children=(sample, secret))


@pytest.mark.parametrize(
    ("failing", "code", "score", "decided_by"),
    [
        ({}, AC, 100.0, ""),
        ({"sample/1": WA}, AC, 100.0, ""),
        ({"secret/g1/a": WA}, AC, 60.0, ""),
        ({"secret/g2/b": TLE}, AC, 40.0, ""),
        ({"secret/g1/b": TLE, "secret/g2/a": WA}, TLE, 0.0, "secret"),
    ],
)
def test_olympiad_trees(failing: dict[str, Code], code: Code, score: float, decided_by: str) -> None:
    names = ["sample/1", "secret/g1/a", "secret/g1/b", "secret/g2/a", "secret/g2/b"]
    found = grade_tree(swedish(), {name: case(name, failing.get(name, AC)) for name in names})
    assert (found.final.code, found.final.score, found.final.decided_by) == (code, score, decided_by)
    assert [each.name for each in found.groups] == ["sample", "secret/g1", "secret/g2", "secret", ""]


def test_new_trees_follow_requirements() -> None:
    first = Group(name="secret/a", grading=Grading(scoring=True, aggregation="pass-fail", max_score=40.0), children=leaves("secret/a/1"))
    grading = Grading(scoring=True, aggregation="pass-fail", max_score=60.0, require_pass=("secret/a",))
    second = Group(name="secret/b", grading=grading, children=leaves("secret/b/1"))
    secret = Group(name="secret", grading=Grading(scoring=True, aggregation="sum", max_score=100.0, on_reject_break=False), children=(first, second))
    root = Group(name="", grading=Grading(scoring=True, aggregation="pass-fail", on_reject_break=False), children=(secret,))
    results = {"secret/a/1": case("secret/a/1", WA), "secret/b/1": case("secret/b/1")}
    found = grade_tree(root, results)
    assert (found.final.code, found.final.score, found.groups[0].decided_by) == (WA, 0.0, "secret/a/1")
    assert found.groups[1].skipped == "`secret/a` was not passed, which it requires"
    assert [each.skipped for each in found.cases] == ["", "`secret/a` was not passed, which it requires"]
    found = grade_tree(root, {**results, "secret/a/1": case("secret/a/1")})
    assert (found.final.code, found.final.score) == (AC, 100.0)


def reference(flags: list[str], codes: list[str], scores: list[float]) -> tuple[str, float]:
    """The default grader again, written as the format's table has it."""
    order = ["JE", "IF", "RTE", "MLE", "TLE", "OLE", "WA"]
    mode = ([each for each in flags if each in ("worst_error", "first_error", "always_accept")] or ["worst_error"])[-1]
    scoring = ([each for each in flags if each in ("sum", "avg", "min", "max")] or ["sum"])[-1]
    wrong = [each for each in codes if each != "AC"]
    if mode == "always_accept" or not wrong or ("accept_if_any_accepted" in flags and "AC" in codes):
        verdict = "AC"
    else:
        verdict = wrong[0] if mode == "first_error" else min(wrong, key=order.index)
    score = {"sum": sum(scores), "avg": sum(scores) / len(scores), "min": min(scores), "max": max(scores)}[scoring]
    return verdict, score


def test_default_grader_is_the_table_of_the_format() -> None:
    """All sets of modes and flags over all triples of verdicts: 4 x 5 x 2 x 216."""
    verdicts = ("AC", "WA", "TLE", "RTE", "MLE", "OLE")
    for mode, scoring, anyway in product(
        ("", "worst_error", "first_error", "always_accept"), ("", "sum", "avg", "min", "max"), ("", "accept_if_any_accepted")
    ):
        flags = [each for each in (mode, scoring, anyway) if each]
        for codes in product(verdicts, repeat=3):
            found = grade_group(legacy(flags=" ".join(flags), accept_score=7.0, reject_score=2.0), cases(*(Code(each) for each in codes)))
            verdict, score = reference(flags, list(codes), [7.0 if each == "AC" else 2.0 for each in codes])
            assert (found.code, found.score) == (Code(verdict), pytest.approx(score)), (flags, codes)
