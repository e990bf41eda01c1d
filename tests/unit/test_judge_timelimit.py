"""Time limits: stated or derived, and held against the package's own submissions."""

from __future__ import annotations

import pytest

from sandbox.judge.problem import Case, Expectation, Format, Grading, Group, Problem, ProblemLimits, Submission
from sandbox.judge.timelimit import Limit, check_limit, derive_limit, first_for_limit

S = 1_000_000_000
NEW = {"ac_to_limit": 2.0, "limit_to_tle": 1.5}


def submission(name: str, use: str, permitted: str = "AC", cases: str = "") -> Submission:
    required = frozenset(("TLE",)) if use == "upper" else None
    expectation = Expectation(source="x", cases=cases, permitted=frozenset(permitted.split()), required=required, use_for_time_limit=use)
    return Submission(name=name, files={}, expectations=(expectation,))


SUBMISSIONS = (
    submission("accepted/a", "lower"),
    submission("accepted/b", "lower"),
    submission("wrong_answer/w", "lower", "AC WA"),
    submission("time_limit_exceeded/t", "upper", "AC TLE"),
    submission("brute_force/f", "", "AC TLE RTE"),
)


def problem(form: Format = Format.LEGACY, submissions: tuple[Submission, ...] = SUBMISSIONS, **limits: object) -> Problem:
    cases = tuple(Case(name=f"secret/{number}", input="", answer="") for number in (1, 2))
    secret = Group(name="secret", grading=Grading(), children=cases)
    data = Group(name="", grading=Grading(), children=(secret,))
    return Problem(name="p", format=form, root="", limits=ProblemLimits(**limits), data=data, submissions=submissions)  # type: ignore[arg-type]


def times(**seconds: float) -> dict[str, dict[str, int]]:
    names = {each.name.partition("/")[2]: each.name for each in SUBMISSIONS}
    return {names[name]: {"secret/1": round(value * S), "secret/2": 1} for name, value in seconds.items()}


DERIVED: list[tuple[str, Problem, dict[str, dict[str, int]], tuple[float, float]]] = [
    ("never nothing", problem(), times(a=0.0), (1, 2)),
    ("rounded up", problem(), times(a=0.201, b=0.1), (2, 4)),
    ("exact", problem(), times(a=0.2), (1, 2)),
    ("slowest", problem(), times(a=0.1, b=1.5), (8, 16)),
    ("only accepted ones", problem(), times(a=0.1, w=9, t=9, f=9), (1, 2)),
    ("own multipliers", problem(ac_to_limit=3.0, limit_to_tle=4.0), times(a=1.1), (4, 16)),
    ("resolution", problem(Format.V2025_09, resolution_ns=S // 10, **NEW), times(a=0.42), (0.9, 1.35)),
    ("wrong ones do not make it longer", problem(Format.V2025_09, **NEW), times(a=0.42, w=20), (1, 1.5)),
    ("stated", problem(time_ns=3 * S), times(a=9), (3, 6)),
    ("nothing to go by", problem(), {}, (10, 20)),
]


@pytest.mark.parametrize(("given", "known", "result"), [pytest.param(given, known, result, id=what) for what, given, known, result in DERIVED])
def test_derived_limits(given: Problem, known: dict[str, dict[str, int]], result: tuple[float, float]) -> None:
    limit = derive_limit(given, known)
    assert (limit.limit_ns, limit.upper_ns) == (round(result[0] * S), round(result[1] * S))


def test_sources_in_words() -> None:
    assert derive_limit(problem(), times(a=0.1, b=0.25)).source == "slowest accepted `accepted/b` on `secret/1`, 0.25 s, times 5, in steps of 1 s"
    assert derive_limit(problem(time_ns=S), {}).source == "the package states it"
    assert derive_limit(problem(time_ns=S), {}, stated_ns=4 * S) == Limit(4 * S, 8 * S, "given")
    assert derive_limit(problem(), {}).source == "no accepted submission has run, so there is nothing to derive it from"


def test_only_the_cases_that_a_label_speaks_of_count() -> None:
    one = submission("accepted/a", "lower", cases="secret/2")
    assert derive_limit(problem(submissions=(one,)), {"accepted/a": {"secret/1": 9 * S, "secret/2": S}}).limit_ns == 5 * S


def test_what_is_stated_to_set_the_limit_does() -> None:
    stated = Expectation(source="x", cases="secret/1", permitted=frozenset(("AC", "WA", "RTE")), use_for_time_limit="lower", limit_stated=True)
    one = Submission(name="tle/s", files={}, expectations=(stated,))
    given = problem(submissions=(one,))
    assert first_for_limit(given) == (one,)
    assert derive_limit(given, {"tle/s": {"secret/1": 3 * S, "secret/2": 9 * S}}).limit_ns == 15 * S


def test_what_is_run_first() -> None:
    assert [each.name for each in first_for_limit(problem())] == ["accepted/a", "accepted/b"]
    assert first_for_limit(problem(time_ns=S)) == ()


CHECKED: list[tuple[str, Problem, dict[str, dict[str, int]], tuple[str, ...]]] = [
    ("far enough", problem(time_ns=S), times(a=0.1, t=5), ()),
    ("stated too short", problem(time_ns=S), times(a=0.5), ("time limit is less than 5 times the 0.5 s of `accepted/a`",)),
    ("wrong one too slow", problem(Format.V2025_09, **NEW), times(a=0.1, w=0.9), ("time limit is less than 2 times the 0.9 s of `wrong_answer/w`",)),
    ("legacy asks only accepted ones", problem(), times(a=0.1, w=0.9), ()),
    (
        "slow one nearly passes",
        problem(Format.V2025_09, **NEW),
        times(a=0.1, t=1.2),
        ("time limit times 1.5 is more than the 1.2 s of `time_limit_exceeded/t`, which must be too slow",),
    ),
    ("slow one was ended at the upper limit", problem(Format.V2025_09, **NEW), times(a=0.1, t=1.5), ()),
]


@pytest.mark.parametrize(("given", "known", "found"), [pytest.param(given, known, found, id=what) for what, given, known, found in CHECKED])
def test_checked_limits(given: Problem, known: dict[str, dict[str, int]], found: tuple[str, ...]) -> None:
    assert check_limit(given, derive_limit(given, known), known) == found
