"""Statistics over repeated runs."""

from __future__ import annotations

import itertools
import json
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.judge.model import CaseResult, Code, SubmissionResult
from sandbox.judge.repeat import count_runs, measure_determinism, measure_spread, pass_at_k, percentile, repeats_of, settle
from sandbox.judge.verdict import PRECEDENCE


def test_spread_of_one_is_none() -> None:
    spread = measure_spread([7])
    assert (spread.count, spread.minimum, spread.median, spread.p95, spread.maximum, spread.ratio) == (1, 7, 7, 7, 7, 1.0)


def test_spread_of_a_hundred() -> None:
    spread = measure_spread(range(100, 201))
    assert (spread.minimum, spread.median, spread.p95, spread.maximum) == (100, 150, 195, 200)
    assert spread.to_dict() == {"count": 101, "minimum": 100, "median": 150, "p95": 195, "maximum": 200, "ratio": 1.3}


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=60))
def test_percentiles_are_those_of_the_standard_library(values: list[int]) -> None:
    ordered = sorted(values)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive")
    assert percentile(ordered, 95) == pytest.approx(cuts[94])
    assert percentile(ordered, 50) == pytest.approx(statistics.median(ordered))
    assert (percentile(ordered, 0), percentile(ordered, 100)) == (ordered[0], ordered[-1])


def test_no_measurement_is_refused() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        measure_spread([])
    with pytest.raises(ValueError, match="no run"):
        settle([])


def test_median_of_zero_has_no_ratio() -> None:
    assert measure_spread([0, 0, 5]).ratio == 1.0


def test_a_flip_is_seen_and_counted() -> None:
    repeats = count_runs("secret/1", [(Code.AC, 900), (Code.TLE, 1100), (Code.AC, 950)], limit_ns=1000)
    assert repeats.flipped and repeats.straddles
    assert list(repeats.codes.items()) == [(Code.AC, 2), (Code.TLE, 1)]
    assert json.loads(json.dumps(repeats.to_dict()))["codes"] == {"AC": 2, "TLE": 1}


def test_same_verdict_is_no_flip() -> None:
    repeats = count_runs("secret/1", [(Code.AC, 900), (Code.AC, 901)], limit_ns=1000)
    assert not repeats.flipped and not repeats.straddles


def test_a_case_that_ran_once_says_nothing() -> None:
    assert repeats_of(CaseResult(case="a", code=Code.AC)) is None
    assert repeats_of(CaseResult(case="a", code=Code.AC, reruns=((Code.AC, 1),), skipped="group failed")) is None


@pytest.mark.parametrize(
    ("codes", "stands"),
    [
        ([Code.AC], Code.AC),
        ([Code.AC, Code.TLE, Code.AC], Code.AC),
        ([Code.AC, Code.TLE, Code.TLE], Code.TLE),
        ([Code.AC, Code.TLE], Code.TLE),
        ([Code.JE, Code.JE, Code.AC], Code.AC),
        ([Code.JE, Code.JE], Code.JE),
        ([Code.WA, Code.RTE], Code.RTE),
    ],
)
def test_which_verdict_stands(codes: list[Code], stands: Code) -> None:
    assert settle(codes) is stands
    assert all(settle(list(order)) is stands for order in itertools.permutations(codes))


def test_every_code_has_a_place() -> None:
    assert sorted(PRECEDENCE) == sorted(Code)


def test_determinism_names_the_widest_and_the_flips() -> None:
    steady = CaseResult(case="steady", code=Code.AC, cpu_ns=100, reruns=((Code.AC, 101), (Code.AC, 99)))
    wide = CaseResult(case="wide", code=Code.AC, cpu_ns=100, reruns=((Code.TLE, 300), (Code.AC, 100)))
    once = CaseResult(case="once", code=Code.AC, cpu_ns=5)
    found = measure_determinism(SubmissionResult(name="a.py", cases=(steady, once, wide)), limit_ns=200)
    assert (found.flips, found.widest) == (("wide",), "wide")
    assert found.ratio == pytest.approx(2.8)
    assert [case.case for case in found.cases] == ["steady", "wide"]
    assert json.loads(json.dumps(found.to_dict()))["flips"] == ["wide"]


def test_determinism_of_nothing() -> None:
    found = measure_determinism(SubmissionResult(name="a.py"))
    assert (found.cases, found.flips, found.widest, found.ratio) == ((), (), "", 1.0)


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_pass(samples: int, data: st.DataObject) -> None:
    passed, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations(range(samples), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(min(draw) < passed for draw in draws) / len(draws))


@pytest.mark.parametrize(("samples", "passed", "k"), [(0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0)])
def test_pass_at_k_of_nonsense(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match="no sense"):
        pass_at_k(samples, passed, k)
