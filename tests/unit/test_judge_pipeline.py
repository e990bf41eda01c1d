"""The scheduler of a judging: what is run, by whom, how often, and what stands at the end; with programs that are functions."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandbox.errors import SandboxError
from sandbox.judge.errors import PackageError
from sandbox.judge.model import Built, CaseResult, Code, GroupResult, Program, RunLimits
from sandbox.judge.pipeline import workers
from sandbox.judge.pipeline.entry import Handle, Limits
from sandbox.judge.pipeline.judging import Derived, Judging, Options, Times, choose, matches
from sandbox.judge.pipeline.settle import RERUNS, is_enough, settle, under, wants_reruns
from sandbox.judge.pipeline.strict import Together
from sandbox.judge.pipeline.walk import Outcome, Rules, Walked, walk
from sandbox.judge.pipeline.workers import Board, Gate, Stopped, Work
from sandbox.judge.problem import Case, Expectation, Format, Grading, Group, Problem, ProblemLimits, Submission, cases_of  # fmt: skip
from sandbox.judge.progress import Stage, Step
from sandbox.judge.running import cut_of, wall_limit_of
from sandbox.record import replace

S = 1_000_000_000


def case(name: str) -> Case:
    return Case(name=name, input="/in", answer="/ans")


def group(name: str, *children: Case | Group, stop: bool = True) -> Group:
    return Group(name=name, grading=Grading(on_reject_break=stop), children=children)


def names(count: int, where: str) -> list[Case]:
    return [case(f"{where}/{number:02}") for number in range(count)]


def grade(node: Group, outcomes: Sequence[Outcome]) -> GroupResult:
    bad = next((each for each in outcomes if each.code is not Code.AC), None)
    where = "" if bad is None else bad.case if isinstance(bad, CaseResult) else bad.name
    return GroupResult(name=node.name, code=Code.AC if bad is None else bad.code, decided_by=where)


RULES = Rules(
    grade=grade,
    stops=lambda node, outcomes: node.grading.on_reject_break and outcomes[-1].code is not Code.AC,
    bars=lambda node, before: "a group before it failed" if "barred" in node.name and any(g.code is not Code.AC for g in before.values()) else "",
    barred=lambda node, why: GroupResult(name=node.name, code=Code.WA, skipped=why),
)


def result(name: str, code: Code = Code.AC, cpu_ns: int = 0, near: tuple[str, ...] = ()) -> CaseResult:
    return CaseResult(case=name, code=code, flags=() if code is Code.AC else (code,), cpu_ns=cpu_ns, near=near)


# ---- the walk ---------------------------------------------------------------------------------------------------


def follow(root: Group, codes: Mapping[str, Code]) -> tuple[list[str], Walked]:
    asked = []
    steps = walk(root, RULES)
    try:
        wanted = next(steps)
        while True:
            asked.append(wanted.name)
            wanted = steps.send(result(wanted.name, codes.get(wanted.name, Code.AC)))
    except StopIteration as end:
        return asked, end.value


def test_walk_stops_a_group_and_says_why() -> None:
    root = group("", group("sample", *names(2, "sample")), group("secret", *names(4, "secret")), stop=False)
    asked, walked = follow(root, {"secret/01": Code.WA})
    assert asked == ["sample/00", "sample/01", "secret/00", "secret/01"]
    assert [each.case for each in walked.cases] == [each.name for each in cases_of(root)]
    assert [each.skipped for each in walked.cases[4:]] == ["group `secret` stopped at `secret/01`: WA"] * 2
    assert walked.final.code is Code.WA and [each.name for each in walked.groups] == ["sample", "secret", ""]


def test_walk_goes_on_where_a_group_says_so() -> None:
    root = group("", *(group(f"g{number}", *names(3, f"g{number}")) for number in range(3)), stop=False)
    asked, _ = follow(root, {"g0/00": Code.WA, "g1/02": Code.TLE})
    assert asked == ["g0/00", "g1/00", "g1/01", "g1/02", "g2/00", "g2/01", "g2/02"]


def test_a_failed_group_stops_its_parent() -> None:
    root = group("", group("a", group("a/b", *names(2, "a/b")), *names(1, "a")), group("c", *names(1, "c")))
    asked, walked = follow(root, {"a/b/00": Code.RTE})
    assert asked == ["a/b/00"]
    assert {each.case: each.skipped for each in walked.cases if each.skipped} == {
        "a/b/01": "group `a/b` stopped at `a/b/00`: RTE",
        "a/00": "group `a` stopped at `a/b`: RTE",
        "c/00": "the judging stopped at `a`: RTE",
    }


def test_a_barred_group_is_not_run() -> None:
    root = group("", group("a", *names(1, "a")), group("barred", *names(2, "barred")), stop=False)
    assert follow(root, {})[0] == ["a/00", "barred/00", "barred/01"]
    asked, walked = follow(root, {"a/00": Code.WA})
    assert asked == ["a/00"] and walked.cases[2].skipped == "a group before it failed"


def test_walk_takes_any_depth() -> None:
    node = group("deepest", case("deep"))
    for _ in range(5000):
        node = group("g", node)
    assert follow(node, {})[0] == ["deep"]
    assert [each.name for each in cases_of(node)] == ["deep"]


# ---- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cpu_ns", "limit_ns", "expected", "near"),
    [
        (Code.AC, S // 2, S, Code.AC, False),
        (Code.AC, S - 1, S, Code.AC, True),
        (Code.AC, S, S, Code.AC, True),
        (Code.AC, S + 1, S, Code.TLE, True),
        (Code.AC, 3 * S, S, Code.TLE, False),
        (Code.WA, 3 * S, S, Code.TLE, False),
        (Code.RTE, S // 2, S, Code.RTE, False),
        (Code.MLE, S + S // 10, S, Code.MLE, True),
        (Code.JE, S, S, Code.JE, True),
        (Code.TLE, 3 * S, S, Code.TLE, False),
        (Code.WTL, 0, S, Code.WTL, False),
    ],
)
def test_under_another_limit(code: Code, cpu_ns: int, limit_ns: int, expected: Code, near: bool) -> None:
    judged = under(result("a", code, cpu_ns), limit_ns)
    assert judged.code is expected and bool(judged.near) is near
    assert judged.flags[:1] == (() if expected is Code.AC else (expected,))
    assert (code in judged.flags) == (code is not Code.AC and (cpu_ns <= cut_of(limit_ns) or code is Code.TLE))


@pytest.mark.parametrize("code", [code for code in Code if code not in (Code.AC, Code.CE)])
def test_what_a_run_came_to_beyond_a_limit_says_nothing_under_it(code: Code) -> None:
    """A run that was let go on is judged as one that was not: that one would have been ended before."""
    late, asleep = result("a", code, cut_of(S) + 1), replace(result("a", code, S // 2), wall_ns=wall_limit_of(S) + 1)
    assert under(late, S).flags == (Code.TLE,) and under(asleep, S).flags == (Code.WTL,)
    assert code in under(late, S, S).flags, "nothing came after the limit that the run had"
    assert under(asleep, S, S).flags == (code,)
    assert under(result("a", code, cut_of(S) + 1), 2 * S).flags == (code,)


def test_wall_time_is_judged_by_each_limit() -> None:
    slept = replace(result("a", Code.AC, 1), wall_ns=10 * S)
    assert wall_limit_of(S) < 10 * S < wall_limit_of(4 * S)
    assert under(slept, 4 * S, 4 * S).code is Code.AC
    late = under(slept, S, 4 * S)
    assert (late.code, late.flags, late.cause, late.near) == (Code.WTL, (Code.WTL,), "wall time 10 s, limit 5.3 s", ())
    ended = replace(result("b", Code.WTL, 1), cause="ended after 14.3 s", wall_ns=wall_limit_of(4 * S))
    assert under(ended, 4 * S, 4 * S).cause == "ended after 14.3 s", "the limit that it had"
    assert under(ended, S, 4 * S).cause == "wall time 14.3 s, limit 5.3 s; ended after 14.3 s"
    assert under(ended, 4 * S, 4 * S).near == under(ended, S, 4 * S).near == ()
    assert under(replace(slept, wall_ns=5_200_000_000, near=("wall",)), S).near == ("wall 5.20 s of 5.30 s",)
    assert under(replace(slept, near=("wall",)), 4 * S).near == (), "that was another limit's"


def test_a_dialogue_is_judged_by_time_in_which_it_did_not_wait() -> None:
    patient = replace(result("a", Code.WA, S // 2), wall_ns=60 * S, own_ns=S, blame="submission")
    assert under(patient, S) == patient
    slow = replace(patient, own_ns=6 * S)
    assert under(slow, 4 * S) == slow
    judged = under(slow, S)
    assert (judged.flags, judged.cause) == ((Code.WTL,), "wall time 6 s without waiting for the validator, limit 5.3 s")
    broken = replace(result("a", Code.JE, 2 * S), own_ns=3 * S, blame="validator")
    assert under(broken, 4 * S).blame == "validator" and under(broken, S).blame == "submission"
    accepted = replace(result("a", Code.AC, 2 * S), own_ns=3 * S)
    assert (under(accepted, S).code, under(accepted, S).blame) == (Code.TLE, "submission")


def test_under_says_which_limit() -> None:
    assert under(result("a", Code.AC, 2 * S), S).cause == "CPU time 2 s, limit 1 s"
    assert under(result("a", Code.TLE, 2 * S + 1000), S).cause == "CPU time 2.000001 s, limit 1 s, and was ended"
    assert under(result("a", Code.AC, 95 * S // 100, near=("memory", "cpu")), S).near == ("cpu 950 ms of 1.00 s", "memory")
    assert under(result("a", Code.AC, S // 2, near=("cpu",)), S).near == ()


@pytest.mark.parametrize(
    ("first", "alone", "expected", "runs"),
    [
        (Code.TLE, (Code.AC,), Code.AC, 2),
        (Code.TLE, (Code.TLE, Code.AC), Code.AC, 3),
        (Code.TLE, (Code.TLE, Code.TLE), Code.TLE, 3),
        (Code.TLE, (Code.WA,), Code.WA, 2),
        (Code.AC, (Code.TLE,), Code.AC, 2),
        (Code.AC, (Code.AC,), Code.AC, 2),
        (Code.WA, (Code.AC,), Code.WA, 2),
    ],
)
def test_a_limit_has_to_be_passed_alone(first: Code, alone: tuple[Code, ...], expected: Code, runs: int) -> None:
    done = [result("a", first, S, near=("cpu",))]
    for code in alone:
        assert wants_reruns(done[0]) and not is_enough(done)
        done.append(result("a", code, S))
    assert is_enough(done) and len(done) == runs <= 1 + RERUNS
    settled = settle(done)
    assert settled.code is expected and len(settled.reruns) == runs - 1 and settled.near
    assert sorted([settled.code, *(code for code, _ in settled.reruns)]) == sorted([first, *alone])
    assert bool(settled.notes) == (len({first, *alone}) > 1)


def test_what_did_not_compute_is_run_again_once() -> None:
    asleep = result("a", Code.WTL)
    assert wants_reruns(asleep) and is_enough([asleep, asleep]) and settle([asleep, asleep]).code is Code.WTL


@pytest.mark.parametrize(
    ("code", "near", "wanted"),
    [
        (Code.AC, ("cpu 1 s of 1 s",), True),
        (Code.WA, ("cpu 1 s of 1 s",), True),
        (Code.TLE, ("cpu 1 s of 1 s", "wall"), True),
        (Code.MLE, ("memory",), True),
        (Code.WTL, (), True),
        (Code.TLE, (), False),
        (Code.TLE, ("wall",), False),
        (Code.AC, ("wall", "memory"), False),
        (Code.RTE, ("cpu 1 s of 1 s",), False),
        (Code.MLE, ("cpu 1 s of 1 s",), False),
    ],
)
def test_only_what_may_come_out_otherwise_is_run_again(code: Code, near: tuple[str, ...], wanted: bool) -> None:
    assert wants_reruns(result("a", code, near=near)) is wanted


# ---- the gate ---------------------------------------------------------------------------------------------------


def test_alone_is_alone_and_goes_first() -> None:
    gate = Gate()
    inside, seen = Counter[str](), list[tuple[str, int]]()
    lock = threading.Lock()

    def enter(kind: str) -> None:
        with gate.alone() if kind == "alone" else gate.beside():
            with lock:
                inside[kind] += 1
                seen.append((kind, inside.total()))
            with lock:
                inside[kind] -= 1

    threads = [threading.Thread(target=enter, args=("alone" if number % 5 == 0 else "beside",)) for number in range(60)]
    with gate.beside():
        alone = threading.Thread(target=enter, args=("alone",))
        alone.start()
        for thread in threads:
            thread.start()
        assert not seen or all(kind == "beside" for kind, _ in seen)
    for thread in (alone, *threads):
        thread.join()
    assert all(total == 1 for kind, total in seen if kind == "alone") and len(seen) == 61


# ---- the whole --------------------------------------------------------------------------------------------------

Answer = Callable[[str, int], CaseResult]


class Fakes:
    """A problem whose submissions answer by a function of the case's name and how often it was run before."""

    def __init__(self, problem: Problem, answers: Mapping[str, Answer], *, limit_ns: int = S, upper_ns: int = 2 * S) -> None:
        self.problem = problem
        self.rules = RULES
        self.answers = answers
        self.limit_ns, self.upper_ns = limit_ns, upper_ns
        self.lock = threading.Lock()
        self.runs = Counter[tuple[str, str]]()
        self.builds = Counter[str]()
        self.running = self.most = self.opened = self.stops = 0
        self.beside: list[set[str]] = []
        self.times: Mapping[str, int] = {}
        self.meet: threading.Barrier | None = None
        self.hold: threading.Event | None = None
        self.derived: list[Mapping[str, int]] = []
        self.statics: list[tuple[str, str]] = []

    def build(self, submission: Submission) -> Built:
        with self.lock:
            self.builds[submission.name] += 1
        if submission.name.endswith(".absent"):
            return Built(name=submission.name, language="absent", absent="`absentc` is not installed")
        if submission.name.endswith(".crowded") and self.builds[submission.name] == 1:
            return Built(name=submission.name, language="c", code=Code.JE, cause="clone3: EAGAIN")
        if submission.name.endswith(".broken"):
            return Built(name=submission.name, language="c", code=Code.CE, cause="exit 1", output="line 1: error")
        program = Program(name=submission.name, language="c", directory="", command=("x",), time_factor=2.0 if submission.name.endswith(".slow") else 1.0)
        return Built(name=submission.name, language="c", program=program)

    def limits(self, program: Program, limit_ns: int) -> RunLimits:
        cpu_ns = round(limit_ns * program.time_factor)
        return RunLimits(cpu_ns=cpu_ns, cpu_cut_ns=cpu_ns, wall_ns=3 * cpu_ns, memory_bytes=1 << 20, output_bytes=1 << 20)

    @contextmanager
    def open(self, program: Program) -> Iterator[Handle]:
        with self.lock:
            self.opened += 1
        try:
            yield FakeHandle(self, program)
        finally:
            with self.lock:
                self.opened -= 1

    def check_label(self, submission: Submission, walked: Walked) -> tuple[str, ...]:
        wanted = [want for want in submission.expectations if want.final is not None and str(walked.final.code) not in want.final]
        return tuple(f"{want.source}: {walked.final.code}" for want in wanted)

    def setters(self) -> tuple[Submission, ...]:
        return tuple(each for each in self.problem.submissions if any(want.use_for_time_limit for want in each.expectations))

    def validate_static(self, submission: Submission, built: Built, group: Group) -> CaseResult:
        self.statics.append((submission.name, group.name))
        return CaseResult(case=f"{group.name}/static", code=Code.WA if submission.name == "bad" else Code.AC)

    def check_limit(self, limits: Limits, source: str, times: Times) -> tuple[str, ...]:
        self.all_times = times
        return ()

    def derive(self, times: Times, time_limit_ns: int | None) -> Derived:
        self.times = {name: max(cases.values()) for name, cases in times.items()}
        self.derived.append(self.times)
        limit = time_limit_ns or self.problem.limits.time_ns or -(-max(self.times.values(), default=S) * 5 // S) * S
        return Derived(limits=Limits(limit_ns=limit, upper_ns=2 * limit), source="a test")

    def doubts(self) -> tuple[str, ...]:
        return ()

    def check_package(self, together: Together) -> tuple[tuple[str, ...], tuple[str, ...]]:
        called: list[int] = []
        together([lambda number=number: called.append(number) for number in range(20)])
        assert sorted(called) == list(range(20))
        return ("input `secret/00` is refused",), ("a doubt",)

    def stop(self) -> None:
        self.stops += 1
        if self.hold is not None:
            self.hold.set()


class FakeHandle:
    def __init__(self, fakes: Fakes, program: Program) -> None:
        self.fakes, self.program = fakes, program

    def judge(self, case: Case, limits: RunLimits) -> CaseResult:
        fakes = self.fakes
        with fakes.lock:
            before = fakes.runs[self.program.name, case.name]
            fakes.runs[self.program.name, case.name] += 1
            fakes.running += 1
            fakes.most = max(fakes.most, fakes.running)
        if fakes.meet is not None:
            fakes.meet.wait(300)
        if fakes.hold is not None:
            fakes.hold.wait(300)
        try:
            return fakes.answers[self.program.name](case.name, before)
        finally:
            with fakes.lock:
                fakes.running -= 1


def label(source: str, *final: str, sets_limit: bool = False) -> Expectation:
    return Expectation(source=source, final=frozenset(final), use_for_time_limit="lower" if sets_limit else "")


def problem_of(submissions: Mapping[str, Expectation | None], root: Group, *, time_ns: int | None = S) -> Problem:
    made = tuple(Submission(name=name, files={}, expectations=() if want is None else (want,)) for name, want in submissions.items())
    return Problem(name="p", format=Format.LEGACY, root="/p", limits=ProblemLimits(time_ns=time_ns), data=root, submissions=made, digest="0")


ROOT = group("", group("sample", *names(2, "sample")), group("secret", *names(12, "secret")))


def accepts(name: str, before: int) -> CaseResult:
    return result(name, Code.AC, S // 10)


def fails_at(where: str, code: Code = Code.WA) -> Answer:
    return lambda name, before: result(name, code if name == where else Code.AC, S // 10)


@pytest.mark.parametrize("jobs", [1, 2, 3, 8])
def test_results_do_not_depend_on_jobs(jobs: int) -> None:
    answers = {f"s/{number}": fails_at(f"secret/{number:02}") for number in range(12)} | {"s/ok": accepts}
    problem = problem_of({name: label("s", "WA" if name != "s/ok" else "AC") for name in answers}, ROOT)
    fakes = Fakes(problem, answers)
    done = Judging(problem, fakes, Options(jobs=jobs)).run()
    for number, each in enumerate(done.submissions[:-1]):
        assert (each.code, each.decided_by, each.label_ok) == (Code.WA, f"secret/{number:02}", True)
        assert [bool(one.skipped) for one in each.cases] == [False] * (3 + number) + [True] * (11 - number)
    assert done.submissions[-1].code is Code.AC and done.ok and fakes.opened == 0
    assert max(fakes.runs.values()) == 1, "a case was run twice"
    if jobs == 1:
        assert done.runs == sum(2 + number + 1 for number in range(12)) + 14, "something was run that nobody needed"


def test_as_many_at_a_time_as_jobs() -> None:
    """Two submissions and four workers: the two that are left over help. With a barrier for four nothing ends unless four run at once."""
    root = group("", *names(8, "secret"), stop=False)
    problem = problem_of({"a": None, "b": None}, root)
    fakes = Fakes(problem, {"a": accepts, "b": accepts})
    fakes.meet = threading.Barrier(4)
    Judging(problem, fakes, Options(jobs=4)).run()
    assert fakes.most == 4 and fakes.runs.total() == 16


def test_what_waited_without_an_end_is_as_slow_as_can_be() -> None:
    problem = problem_of({"a": None, "b": None}, ROOT)
    waits = fails_at("secret/03", Code.WTL)
    fakes = Fakes(problem, {"a": waits, "b": accepts})
    Judging(problem, fakes, Options(jobs=1)).run()
    assert fakes.all_times["a"]["secret/03"] == fakes.upper_ns == 2 * S
    assert fakes.all_times["a"]["secret/02"] == fakes.all_times["b"]["secret/03"] == S // 10


def test_what_was_run_ahead_for_nothing_is_thrown_away() -> None:
    problem = problem_of({"a": label("a", "WA")}, ROOT)
    ahead = threading.Event()

    def answer(name: str, before: int) -> CaseResult:
        if name == "sample/00":
            assert ahead.wait(300), "nothing was run ahead"
            return result(name, Code.WA)
        ahead.set()
        return result(name)

    fakes = Fakes(problem, {"a": answer})
    done = Judging(problem, fakes, Options(jobs=2)).run()
    assert [each.case for each in done.submissions[0].cases if not each.skipped] == ["sample/00"] and done.ok


def test_a_run_ahead_that_fails_after_all_was_decided_is_nobodys_concern() -> None:
    problem = problem_of({"a": None}, group("", *names(2, "secret")))
    decided = threading.Event()

    def answer(name: str, before: int) -> CaseResult:
        if name == "secret/00":
            return result(name, Code.WA)
        decided.wait(300)
        raise RuntimeError("its sandbox was ended")

    def told(step: Step) -> None:
        if step.result is not None:
            decided.set()

    assert Judging(problem, Fakes(problem, {"a": answer}), Options(jobs=2), told).run().submissions[0].code is Code.WA


def test_near_a_limit_runs_are_repeated_alone() -> None:
    problem = problem_of(dict.fromkeys("abcd"), ROOT)

    def near(name: str, before: int) -> CaseResult:
        with fakes.lock:
            if before:
                fakes.beside.append({f"{fakes.running}"})
        return result(name, Code.AC, 105 * S // 100 if name == "secret/05" and not before else S // 10)

    fakes = Fakes(problem, {"a": near, "b": accepts, "c": accepts, "d": near})
    done = Judging(problem, fakes, Options(jobs=4)).run()
    assert fakes.beside == [{"1"}, {"1"}], "something ran beside a run that was to be alone"
    for index in (0, 3):
        hit = next(each for each in done.submissions[index].cases if each.near)
        assert hit.case == "secret/05" and hit.code is Code.AC and hit.reruns == ((Code.TLE, 105 * S // 100),)
        assert hit.notes == ("TLE beside other runs (1.05 s of CPU time), AC alone",)
        assert done.submissions[index].code is Code.AC
    assert max(fakes.runs.values()) == 2


def test_a_sandbox_that_could_not_be_made_beside_others_is_made_again_alone() -> None:
    """Another submission may have used up the user's processes. One that cannot be made alone either is the judge's error, and what a validator did stays."""
    problem = problem_of({"a.crowded": None, "b": None, "c": None, "d": None, "e": None}, ROOT)

    def fails(name: str, before: int, times: int = 1) -> CaseResult:
        with fakes.lock:
            if before:
                fakes.beside.append({f"{fakes.running}"})
        if name == "secret/03" and before < times:
            return replace(result(name, Code.JE), failed=True, cause="clone3: EAGAIN")
        return result(name)

    fakes = Fakes(
        problem,
        {"a.crowded": accepts, "b": fails, "c": accepts, "d": lambda name, before: fails(name, before, 9), "e": lambda name, _: result(name, Code.JE)},
    )
    done = Judging(problem, fakes, Options(jobs=4)).run()
    assert [each.code for each in done.submissions] == [Code.AC, Code.AC, Code.AC, Code.JE, Code.JE]
    assert fakes.builds["a.crowded"] == 2 and fakes.builds["b"] == 1
    assert fakes.beside == [{"1"}] * 2, "something ran beside a run that was to be alone"
    again = next(each for each in done.submissions[1].cases if each.notes)
    assert (again.case, again.notes) == ("secret/03", ("the judge failed beside other runs: clone3: EAGAIN",))
    assert max(count for (name, _), count in fakes.runs.items() if name == "e") == 1
    fakes.runs.clear(), fakes.builds.clear()
    assert Judging(problem, fakes, Options(jobs=1)).run().submissions[1].code is Code.JE and max(fakes.runs.values()) == 1, "nothing ran beside it"


def test_no_thread_to_work_with_is_an_error_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(SandboxError, match="start a worker: can't start new thread") as caught:
        Judging(problem_of({"a": None}, ROOT), Fakes(problem_of({"a": None}, ROOT), {"a": accepts}), Options()).run()
    assert "ulimit -u" in str(caught.value.hint)


def test_time_limit_is_made_of_those_that_set_it() -> None:
    problem = problem_of(
        {
            "accepted/a": label("accepted", "AC", sets_limit=True),
            "accepted/b.slow": label("accepted", "AC", sets_limit=True),
            "accepted/c.absent": label("accepted", "AC", sets_limit=True),
            "time_limit_exceeded/t": label("time_limit_exceeded", "TLE"),
        },
        ROOT,
        time_ns=None,
    )  # fmt: skip
    answers = {
        "accepted/a": accepts,
        "accepted/b.slow": lambda name, before: result(name, Code.AC, 3 * S // 10 if name == "secret/03" else 0),
        "time_limit_exceeded/t": lambda name, before: result(name, Code.AC, 11 * S // 10 if name == "secret/07" else 0),
    }
    fakes = Fakes(problem, answers)
    done = Judging(problem, fakes, Options(jobs=2)).run()
    assert fakes.derived[0] == {"accepted/a": S // 10, "accepted/b.slow": 15 * S // 100}, "a language's factor was not taken off"
    assert done.time_limit_ns == S and done.ok and [each.name for each in done.absent] == ["accepted/c.absent"]
    assert done.warnings == ("the time limit is without `accepted/c.absent`, which was not run: `absentc` is not installed",)
    late = done.submissions[3]
    assert (late.code, late.decided_by, late.sensitive) == (Code.TLE, "secret/07", ("AC with a limit of 2.00 s",))
    assert max(fakes.runs.values()) - 1 <= RERUNS and max(fakes.builds.values()) == 1


def test_a_limit_above_what_was_allowed_while_nobody_knew_it_is_run_again() -> None:
    """What was ended at the first bound says nothing under a higher one."""
    problem = problem_of({"a": label("a", "AC", sets_limit=True)}, group("", *names(1, "x")), time_ns=None)
    done = Judging(problem, fakes := Fakes(problem, {"a": lambda name, before: result(name, (Code.AC, Code.TLE)[not before], 301 * S)}), Options()).run()
    assert done.submissions[0].code is Code.AC and fakes.runs["a", "x/00"] == 2


def test_what_slept_beyond_the_limit_is_late_whatever_it_was_allowed() -> None:
    problem = problem_of({"a": label("a", "AC", sets_limit=True)}, group("", *names(1, "x")), time_ns=None)
    slept = replace(result("x/00", Code.AC, S // 10), wall_ns=8 * S)
    done = Judging(problem, fakes := Fakes(problem, {"a": lambda name, before: slept}), Options()).run()
    assert done.time_limit_ns == S and (done.submissions[0].code, done.submissions[0].sensitive) == (Code.WTL, ("AC with a limit of 2.00 s",))
    assert fakes.runs["a", "x/00"] == 2, "what hardly computed is run once more, alone"


@pytest.mark.parametrize("busy", [False, True])
def test_a_wall_time_on_a_busy_host_is_doubted(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.judge.pipeline.entry.is_busy", lambda: busy)
    problem = problem_of({"w": label("w", "WTL"), "t": label("t", "TLE"), "d": label("d", "WTL")}, group("", *names(1, "x")))
    answers = {
        "w": lambda n, b: replace(result(n, Code.WTL, 5), wall_ns=9 * S), "t": lambda n, b: result(n, Code.TLE, 3 * S),
        "d": lambda n, b: replace(result(n, Code.WTL, 5), wall_ns=9 * S, own_ns=S // 10, cause="deadlock: both wait"),
    }  # fmt: skip
    asleep, late, stuck = Judging(problem, Fakes(problem, answers), Options()).run().submissions
    assert any("the host's doing" in note for note in asleep.cases[0].notes) is busy and not late.cases[0].notes
    assert not stuck.cases[0].notes, "a deadlock is proved, and no host's doing"


@pytest.mark.parametrize("busy", [False, True])
def test_what_computes_on_a_busy_host_is_given_the_time_to_show_that(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a twelfth of a processor an endless loop meets the wall limit first; more of that makes TLE of it, and nothing better of a program that sleeps."""
    monkeypatch.setattr("sandbox.judge.pipeline.entry.is_busy", lambda: busy)
    problem = problem_of({"loops": label("t", "TLE"), "sleeps": label("w", "WTL"), "dozes": label("w", "WTL")}, group("", *names(1, "x")))
    given: list[tuple[str, int]] = []

    class Waits(Fakes):
        @contextmanager
        def open(self, program: Program) -> Iterator[Handle]:
            def judge(case: Case, limits: RunLimits) -> CaseResult:
                given.append((program.name, limits.wall_ns // S))
                share, cpu_ns = {"loops": (12, 20 * S), "sleeps": (9999, S // 100), "dozes": (40, S // 2)}[program.name]
                used = min(cpu_ns, limits.wall_ns // share)
                if used >= limits.cpu_cut_ns:
                    return replace(result(case.name, Code.TLE, limits.cpu_cut_ns), wall_ns=share * limits.cpu_cut_ns)
                return replace(result(case.name, Code.AC if used == cpu_ns else Code.WTL, used), wall_ns=share * used)

            yield cast("Handle", SimpleNamespace(judge=judge))

    loops, sleeps, dozes = Judging(problem, Waits(problem, {}), Options()).run().submissions
    assert (loops.code, sleeps.code, dozes.code) == (Code.TLE if busy else Code.WTL, Code.WTL, Code.WTL)
    assert sorted(given) == sorted([("loops", 6), ("loops", 24 if busy else 6), ("sleeps", 6), ("sleeps", 6), ("dozes", 6), ("dozes", 24 if busy else 6)])
    if busy:
        assert loops.cases[0].notes == ("WTL beside other runs (500 ms of CPU time), TLE alone",)


def test_what_waits_is_too_slow() -> None:
    problem = problem_of({"a": label("a", "AC"), "w": label("w", "WTL")}, group("", *names(2, "x")))
    fakes = Fakes(problem, {"a": accepts, "w": lambda name, before: result(name, Code.WTL, 5)})
    Judging(problem, fakes, Options()).run()
    assert fakes.all_times == {"a": {"x/00": S // 10, "x/01": S // 10}, "w": {"x/00": 2 * S}}


def test_a_submission_that_was_not_asked_for_still_sets_the_limit() -> None:
    problem = problem_of({"accepted/a": label("accepted", "AC", sets_limit=True), "wrong/b": label("wrong", "WA")}, ROOT, time_ns=None)
    fakes = Fakes(problem, {"accepted/a": accepts, "wrong/b": fails_at("secret/00")})
    done = Judging(problem, fakes, Options(jobs=2, submissions=("wrong/*",))).run()
    assert [each.name for each in done.submissions] == ["wrong/b"] and fakes.derived[0] == {"accepted/a": S // 10}


@pytest.mark.parametrize(("spent", "words"), [(195, ["1.00 s, and 2.00 s", "10% more"]), (205, ["2.00 s, and 1.00 s", "10% less"]), (150, [])])
def test_a_limit_that_hangs_on_little_is_said(spent: int, words: list[str]) -> None:
    problem = problem_of({"accepted/a": label("accepted", "AC", sets_limit=True)}, ROOT, time_ns=None)
    fakes = Fakes(problem, {"accepted/a": lambda name, before: result(name, Code.AC, spent * S // 1000)})
    warnings = Judging(problem, fakes, Options()).run().warnings
    assert len(warnings) == bool(words) and all(word in warnings[0] for word in words)


@pytest.mark.parametrize("stated", [False, True])
def test_how_long_measuring_may_take_is_said_before_it_begins(stated: bool) -> None:
    labels = {name: label("accepted", "AC", sets_limit=True) for name in ("accepted/a", "accepted/b")}
    problem = problem_of({**labels, "wrong/c": label("wrong", "WA")}, ROOT, time_ns=S if stated else None)
    steps: list[Step] = []
    Judging(problem, Fakes(problem, {**dict.fromkeys(labels, accepts), "wrong/c": fails_at("secret/00")}), Options(), steps.append).run()
    said = [step for step in steps if step.stage is Stage.MEASURE and step.text]
    assert [step.text for step in said] == ([] if stated else ["2 submissions, each case up to 300.00 s of CPU time"])
    assert stated or steps.index(said[0]) == 0


def test_a_limit_without_a_time_is_doubtful() -> None:
    problem = problem_of({"accepted/a.absent": label("accepted", "AC", sets_limit=True), "b": label("b", "WA")}, ROOT, time_ns=None)
    fakes = Fakes(problem, {"b": fails_at("secret/00")})
    done = Judging(problem, fakes, Options()).run()
    assert done.warnings == (
        "the time limit is without `accepted/a.absent`, which was not run: `absentc` is not installed",
        "nothing sets the time limit; `--time-limit` does",
    )


def test_a_wrong_label_with_extra_time() -> None:
    """A wrong answer that is late as well keeps its label, as in the reference tool; one that is accepted given more time keeps none."""
    problem = problem_of({"w": label("w", "WA"), "a": label("a", "AC")}, group("", *names(1, "x")))
    answers = {"w": lambda n, b: result(n, Code.WA, 15 * S // 10), "a": lambda n, b: result(n, Code.AC, 15 * S // 10)}
    wrong, accepted = Judging(problem, Fakes(problem, answers), Options()).run().submissions
    assert (wrong.code, wrong.label_ok, wrong.sensitive) == (Code.TLE, True, ("WA with a limit of 2.00 s, as its label says",))
    assert (accepted.code, accepted.label_ok, accepted.sensitive) == (Code.TLE, False, ("AC with a limit of 2.00 s",))


def test_what_does_not_compile_and_what_cannot_be_compiled() -> None:
    problem = problem_of({"a.broken": label("a", "AC"), "b.absent": label("b", "AC"), "c.broken": None}, ROOT)
    fakes = Fakes(problem, {})
    done = Judging(problem, fakes, Options(strict=True)).run()
    broken, absent, unlabelled = done.submissions
    assert (broken.code, broken.label_ok, broken.label_problems) == (Code.CE, False, ("a: CE",))
    assert (absent.code, absent.label_ok, absent.absent) == (None, None, "`absentc` is not installed")
    assert unlabelled.label_ok is None and all(each.skipped == "it does not compile" for each in unlabelled.cases)
    assert done.problems == ("input `secret/00` is refused", "a doubt", "`b.absent` was not judged: `absentc` is not installed")
    assert not done.ok


@pytest.mark.parametrize(("allowed", "said"), [(("c", "absent"), ()), (("absent",), ("`a` is in `c`",)), ((), ())])
def test_a_language_that_the_package_does_not_name_is_said(allowed: tuple[str, ...], said: tuple[str, ...]) -> None:
    problem = problem_of({"a": None, "b.absent": None}, ROOT)
    done = Judging(replace(problem, languages=allowed), Fakes(problem, {"a": accepts}), Options()).run()
    assert done.warnings == tuple(f"{each}, which the package's `languages` do not name" for each in said)


def test_files_of_a_submission_are_a_case_of_groups_that_ask_for_it() -> None:
    asking = Group(name="secret", grading=Grading(static_validation_score=5.0), children=tuple(names(2, "secret")))
    problem = problem_of({"good": None, "bad": None}, group("", group("sample", *names(1, "sample")), asking))
    fakes = Fakes(problem, {"good": accepts, "bad": accepts})
    good, bad = Judging(problem, fakes, Options()).run().submissions
    assert [each.case for each in good.cases] == ["sample/00", "secret/static", "secret/00", "secret/01"]
    assert (bad.code, bad.decided_by) == (Code.WA, "secret/static") and [bool(each.skipped) for each in bad.cases] == [False, False, True, True]
    assert fakes.statics == [("good", "secret"), ("bad", "secret")]


def test_repeat_runs_what_is_needed_as_often() -> None:
    problem = problem_of({"a": None}, group("", *names(3, "x")))
    fakes = Fakes(problem, {"a": lambda name, before: result(name, Code.WA if name == "x/01" and before != 1 else Code.AC, before)})
    done = Judging(problem, fakes, Options(jobs=2, repeat=4)).run()
    first, second, third = done.submissions[0].cases
    assert first.reruns == ((Code.AC, 1), (Code.AC, 2), (Code.AC, 3))
    assert second.code is Code.WA and [code for code, _ in second.reruns] == [Code.AC, Code.WA, Code.WA] and third.skipped


def test_one_failure_ends_all() -> None:
    problem = problem_of({"a": None, "b": None}, ROOT)

    def broken(name: str, before: int) -> CaseResult:
        raise RuntimeError("no sandbox")

    fakes = Fakes(problem, {"a": broken, "b": accepts})
    with pytest.raises(RuntimeError, match="no sandbox"):
        Judging(problem, fakes, Options(jobs=3)).run()
    assert fakes.opened == 0 and fakes.stops and fakes.running == 0


def test_an_interruption_ends_all() -> None:
    """What a signal's handler raises in the caller's thread, here raised by the progress of a worker's first step and of the caller itself."""
    problem = problem_of(dict.fromkeys("abcdef"), ROOT)
    fakes = Fakes(problem, dict.fromkeys("abcdef", accepts))
    fakes.hold = threading.Event()  # every run goes on until tools.stop()
    told: list[Step] = []
    judging = Judging(problem, fakes, Options(jobs=3), told.append)
    threading.Thread(target=lambda: (_until(lambda: fakes.running == 3), _interrupt_main()), daemon=True).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            judging.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert fakes.opened == 0 and fakes.running == 0 and fakes.runs.total() == 3
    assert not [step for step in told if step.case or step.result], "a run that was ended was taken for one"


def _until(met: Callable[[], bool]) -> None:
    wait = threading.Event()
    while not met():
        wait.wait(0.001)


def _interrupt_main() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGINT)


def test_steps_are_told_one_at_a_time() -> None:
    problem = problem_of(dict.fromkeys("abcd"), ROOT)
    steps: list[Step] = []
    lock = threading.Lock()

    def told(step: Step) -> None:
        assert lock.acquire(blocking=False), "two at once"
        steps.append(step)
        lock.release()

    done = Judging(problem, Fakes(problem, dict.fromkeys("abcd", accepts)), Options(jobs=4), told).run()
    assert [step.runs for step in steps] == sorted(step.runs for step in steps) and steps[-1].runs == done.runs == 56
    assert sorted(step.result.name for step in steps if step.result is not None) == list("abcd")
    assert all(second.judged - first.judged in (0, 1) for first, second in pairwise(steps))


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("accepted/a.py", ["accepted/a.py"]),
        ("a.py", ["accepted/a.py", "wrong/a.py"]),
        ("accepted", ["accepted/a.py", "accepted/b.c"]),
        ("accepted/", ["accepted/a.py", "accepted/b.c"]),
        ("*.c", ["accepted/b.c"]),
        ("wrong/*", ["wrong/a.py"]),
        ("submissions/wrong/a.py", ["wrong/a.py"]),
        ("./submissions/wrong/", ["wrong/a.py"]),
        ("/home/me/p/submissions/accepted/*.py", ["accepted/a.py"]),
    ],
)
def test_globs(glob: str, expected: list[str]) -> None:
    problem = problem_of(dict.fromkeys(("accepted/a.py", "accepted/b.c", "wrong/a.py")), ROOT)
    assert [each.name for each in choose(problem, (glob,))] == expected


def test_a_glob_that_names_nothing() -> None:
    with pytest.raises(PackageError, match="is called `c`") as caught:
        choose(problem_of({"a": None}, ROOT), ("a", "c"))
    assert caught.value.hint == "there are `a`"
    assert not matches("a/b", "")
    for path in ("other/submissions/a", "p/submissions/", "p/submissions", "p/xsubmissions/a"):
        with pytest.raises(PackageError, match=f"is called `{path}`"):
            choose(problem_of({"a": None}, ROOT), (path,))


def test_a_stopped_board_refuses() -> None:
    board = Board(1)
    board.stop()
    with pytest.raises(Stopped):
        board.run([], lambda work: None)
    assert board.join(1.0)


@pytest.mark.parametrize(("words", "slow"), [("AC TLE", True), ("AC TLE RTE", False)])
def test_what_writes_without_an_end_is_as_slow_as_its_label_demands(words: str, slow: bool) -> None:
    want = Expectation(source="a", permitted=frozenset(words.split()))
    problem = problem_of({"a": want}, group("", *names(2, "x")))
    done = Judging(problem, fakes := Fakes(problem, {"a": fails_at("x/00", Code.OLE)}), Options()).run()
    assert fakes.all_times["a"]["x/00"] == (2 * S if slow else S // 10)
    assert [text for text in done.warnings if "as too slow" in text] == (
        ["label of `a` holds if too much output counts as too slow: is OLE on `x/00`, and was ended before it could be too slow (a)"] if slow else []
    )


def test_signals_are_waited_for_before_there_is_a_worker_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that raised while the pair of descriptors was made left both open, and signals were told to one that was closed."""
    told: list[int] = []

    def begin(*arguments: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            told.append(signal.set_wakeup_fd(-1))
            signal.set_wakeup_fd(told[0])
        real(*arguments)

    real = workers._begin
    monkeypatch.setattr(workers, "_begin", begin)
    Board(1).run([cast("Work", SimpleNamespace(claim_ahead=lambda: None))], lambda work: None)
    assert told == [fd for fd in told if fd >= 0] and told


def test_a_signal_that_another_thread_got_ends_the_wait() -> None:
    """The kernel gives a signal to any thread; the handler runs in the main one, which waits for its workers."""

    class Asked(BaseException):
        pass

    def ask(number: int, frame: object) -> None:
        raise Asked

    asked, in_time = threading.Event(), list[bool]()

    def act(work: Work) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        in_time.append(asked.wait(60))

    board = Board(1)
    before = signal.signal(signal.SIGUSR1, ask)
    try:
        with pytest.raises(Asked):
            board.run([cast("Work", SimpleNamespace(claim_ahead=lambda: None))], act)
    finally:
        signal.signal(signal.SIGUSR1, before)
        asked.set()
    assert board.join(60)
    assert in_time == [True]
