"""The passes of a case: how many are played, with what, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from sandbox.judge.check import Checked
from sandbox.judge.model import CaseResult, Code
from sandbox.judge.passes import UNREAD, Pass, failed_pass, judge_passes
from sandbox.judge.problem import Case, Format, Grading, Group, Problem, ProblemLimits
from sandbox.result import Result, Usage, Verdict

CASE = Case(name="secret/1", input="", answer="")
USAGE = Usage(
    wall_ns=7, cpu_user_ns=3, cpu_sys_ns=0, cpu_source="cpu.stat", memory_peak_bytes=50, memory_source="memory.peak", processes_peak=1,
    processes_source="pids.peak", output_bytes=0, oom_kills=0, oom_source="memory.events oom_kill", memory_max_hits=0, process_limit_hits=0,
)  # fmt: skip
AGAIN = Checked(accepted=True, exit=42, next_pass=b"more", feedback={"log": b"1"}, score=1.0, judge_message="first")
ENOUGH = Checked(accepted=True, exit=42, score=2.0, judge_message="second", team_message="good")


def problem(*, multi_pass: bool = True, passes: int = 3) -> Problem:
    return Problem(
        name="p", format=Format.V2025_09, root="/", limits=ProblemLimits(validation_passes=passes), multi_pass=multi_pass,
        data=Group(name="", grading=Grading(), children=(CASE,)),
    )  # fmt: skip


def ran(*, exit_code: int = 0, denials: Mapping[str, int] | None = None, **usage: Any) -> Result:
    return Result(
        verdict=Verdict.OK, cause="", exit_code=exit_code, signal=None, usage=replace(USAGE, **usage), run_id="r", profile="judge", profile_digest="",
        policy="judge", policy_digest="", denials=denials or {},
    )  # fmt: skip


def played(*passes: Pass) -> tuple[Callable[[bytes | None, Mapping[str, bytes]], Pass], list[tuple[bytes | None, Mapping[str, bytes]]]]:
    """Return what plays these passes one after another, and what it was asked."""
    asked: list[tuple[bytes | None, Mapping[str, bytes]]] = []

    def play(given: bytes | None, feedback: Mapping[str, bytes]) -> Pass:
        asked.append((given, feedback))
        return passes[len(asked) - 1]

    return play, asked


def judge(*passes: Pass, most: int = 3, multi_pass: bool = True) -> CaseResult:
    return judge_passes(problem(passes=most, multi_pass=multi_pass), CASE, played(*passes)[0], blame="validator")


def test_the_next_pass_gets_what_was_asked_for() -> None:
    play, asked = played(Pass(code=Code.AC, result=ran(), checked=AGAIN), Pass(code=Code.AC, result=ran(), checked=ENOUGH))
    found = judge_passes(problem(), CASE, play)
    assert asked == [(None, {}), (b"more", {"log": b"1"})]
    assert (found.code, found.passes, found.score, found.judge_message, found.team_message) == (Code.AC, 2, 2.0, "second", "good")


@pytest.mark.parametrize(("one", "multi_pass"), [
    (Pass(code=Code.AC, result=ran(), checked=AGAIN), False),
    (Pass(code=Code.WA, flags=(Code.WA,), result=ran(), checked=AGAIN), True),
    (Pass(code=Code.TLE, flags=(Code.TLE,), result=ran()), True),
    (failed_pass("no sandbox"), True),
])  # fmt: skip
def test_there_is_no_other_pass(one: Pass, multi_pass: bool) -> None:
    """Not in a problem of one, nor after a rejection or a failure."""
    found = judge(one, multi_pass=multi_pass)
    assert found.passes == 1 and found.notes == (() if multi_pass else (UNREAD,)), "a type that was forgotten is told"


@pytest.mark.parametrize("most", [2, 1, 0])
def test_more_passes_than_there_may_be_are_the_judges_failure(most: int) -> None:
    """Whose, is said by who plays them."""
    found = judge(*[Pass(code=Code.AC, result=ran(), checked=AGAIN)] * 3, most=most)
    allowed = max(1, most)
    told = f"the output validator asks for more passes than {most}"
    assert (found.code, found.flags, found.passes, found.blame) == (Code.JE, (Code.JE,), allowed, "validator")
    assert found.cause == (f"pass {allowed}: {told}" if allowed > 1 else told)


def test_figures_are_of_the_largest_pass_and_counts_of_all() -> None:
    """Words, score and the end are those of the last."""
    first = Pass(
        code=Code.AC, result=ran(wall_ns=90, memory_peak_bytes=None, denials={"socket": 1, "mount": 2}), cpu_ns=8, stdout_bytes=5, checked=AGAIN,
        near=("cpu",), notes=("a", "b"), transcript=("< 1",), stderr=b"before",
    )  # fmt: skip
    last = Pass(
        code=Code.NZE, flags=(Code.NZE,), cause="exit 3", result=ran(exit_code=3, wall_ns=10, memory_peak_bytes=40, denials={"socket": 4}), cpu_ns=2,
        stdout_bytes=6, near=("memory", "cpu"), notes=("b", "c"), transcript=("< 2",), stderr=b"after\x1b",
    )  # fmt: skip
    found = judge(first, last)
    assert (found.cause, found.cpu_ns, found.wall_ns, found.memory_bytes, found.stdout_bytes) == ("pass 2: exit 3", 8, 90, 40, 11)
    assert found.denials == {"socket": 5, "mount": 2} and found.near == ("cpu", "memory") and found.notes == ("a", "b", "c")
    assert found.transcript == ("pass 1", "< 1", "pass 2", "< 2") and found.stderr == "after\\x1b"
    assert (found.exit_code, found.signal, found.score, found.validator_exit) == (3, None, None, None)


def test_an_end_that_is_ours_says_nothing_of_the_submission() -> None:
    found = judge(Pass(code=Code.WTL, flags=(Code.WTL,), result=ran(exit_code=137), ours=True))
    assert (found.exit_code, found.signal) == (None, None)


def test_where_the_sandbox_failed_there_are_no_figures() -> None:
    found = judge(Pass(code=Code.AC, result=ran(), cpu_ns=5, checked=AGAIN), failed_pass("run `a`: no memory"))
    assert (found.code, found.cause, found.cpu_ns, found.passes) == (Code.JE, "pass 2: run `a`: no memory", 0, 2)
