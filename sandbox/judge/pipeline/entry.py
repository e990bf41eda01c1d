"""One submission being judged: built, run on what is needed, graded under one time limit or another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sandbox.judge.model import Built, CaseResult, Code, Program, RunLimits
from sandbox.judge.pipeline.cores import is_busy
from sandbox.judge.pipeline.lane import Lane
from sandbox.judge.pipeline.settle import is_enough, settle, under, wants_reruns
from sandbox.judge.pipeline.walk import Rules, Walked, skipped, walk
from sandbox.judge.pipeline.workers import Board, Stopped
from sandbox.judge.problem import Case, Group, Problem, Submission, cases_of
from sandbox.record import dataclass, replace


class Handle(Protocol):
    """A program that is ready to be run on cases; any thread may, several at a time."""

    def judge(self, case: Case, limits: RunLimits) -> CaseResult:
        """Run it on one case and have the output checked."""


class Tools(Protocol):
    """What a judging needs of the rooms that build, run, check and grade."""

    problem: Problem
    rules: Rules

    def build(self, submission: Submission) -> Built:
        """Build a submission."""

    def limits(self, program: Program, limit_ns: int) -> RunLimits:
        """Return the limits of one run of a program, given the time limit for a language without a factor."""

    def open(self, program: Program) -> AbstractContextManager[Handle]:
        """Make a program ready to be run."""

    def validate_static(self, submission: Submission, built: Built, group: Group) -> CaseResult:
        """Have the static validator look at a submission's files for a group that asks for it."""

    def check_label(self, submission: Submission, walked: Walked) -> tuple[str, ...]:
        """Return what of a submission's label does not hold."""

    def stop(self) -> None:
        """End everything that runs in a sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The time limit that verdicts are about and the one to which programs are let run, for a language without a factor of its own."""

    limit_ns: int
    upper_ns: int


UNKNOWN = Limits(limit_ns=300_000_000_000, upper_ns=300_000_000_000)
"""How long a program may compute while its time is what the limit is to be made of; what the reference tool allows."""

_PATIENCE = 4
"""What the wall limit is multiplied with for a second run of a program that may have waited for a processor."""


class Entry:
    """A submission with what is known of it so far.

    Args:
        board: where the workers are.
        tools: what builds and runs.
        submission: which.
        repeat: how often each case that is needed is run.
        told: called after every run with the case's name, and whether it was alone.
    """

    def __init__(
        self,
        board: Board,
        tools: Tools,
        submission: Submission,
        *,
        repeat: int = 1,
        told: Callable[[str, bool], None] = lambda case, alone: None,
    ) -> None:
        self.submission = submission
        self.built: Built | None = None
        self._board = board
        self._tools = tools
        self._repeat = repeat
        self._told = told
        self._order = tuple(cases_of(tools.problem.data))
        self._lane: Lane | None = None
        self._allowed = UNKNOWN
        self._open: AbstractContextManager[Handle] | None = None
        self._handle: Handle | None = None
        self._opening = threading.Lock()
        self._closed = False
        self._settled: dict[str, CaseResult] = {}
        self._static: dict[str, CaseResult] = {}

    @property
    def program(self) -> Program | None:
        """The built program, None where there is none."""
        return None if self.built is None else self.built.program

    def claim_ahead(self) -> Callable[[], None] | None:
        """See `pipeline.workers.Work`."""
        return None if self._lane is None else self._lane.claim_ahead()

    def build(self) -> Built:
        """Build it, once."""
        if self.built is None:
            with self._board.gate.beside():
                self._board.check()
                built = self._tools.build(self.submission)
                self._board.check()  # a compiler that was ended with everything else says nothing of the submission
            if built.code is Code.JE and self._board.jobs > 1:  # the host may have been out of what another submission used up
                with self._board.gate.alone():
                    self._board.check()
                    built = self._tools.build(self.submission)
                    self._board.check()
            self.built = built
        return self.built

    def judge(self, limits: Limits, *, final: bool) -> tuple[Walked, Walked] | None:
        """Judge it under the upper limit, and under the limit; None where it could not be built.

        What was run before, under limits no lower, is not run again. With `final`, runs near the limit are repeated alone, and every run as often as asked.
        """
        if self.build().program is None:
            return None
        self._closed = False
        if self._lane is None or limits.upper_ns > self._allowed.upper_ns:
            self._allowed = limits
            self._lane = Lane(self._board, self._order, self._run)
        try:
            above = self._walk(limits.upper_ns, final=False)
            return above, self._walk(limits.limit_ns, final=final)
        finally:
            self._lane.close()
            self.close()

    def close(self) -> None:
        """End the program's sandbox, and what was run ahead in it for nothing; `judge` makes another when it needs one."""
        with self._opening:
            self._closed = True
            opened, self._open, self._handle = self._open, None, None
        if opened is not None:
            opened.__exit__(None, None, None)

    def _walk(self, limit_ns: int, *, final: bool) -> Walked:
        assert self._lane is not None and self.program is not None
        limit_ns = round(limit_ns * self.program.time_factor)
        steps = walk(self._tools.problem.data, self._tools.rules, self._validate_static)
        try:
            case = next(steps)
            while True:
                result = self._under(self._lane.need(case), limit_ns)
                case = steps.send(self._settle(case, result, limit_ns) if final else result)
        except StopIteration as end:
            walked: Walked = end.value
            return walked

    def _validate_static(self, group: Group) -> CaseResult:
        if group.name not in self._static:
            built = self.built
            assert built is not None
            with self._board.gate.beside():
                self._board.check()
                result = self._tools.validate_static(self.submission, built, group)
                self._board.check()
            self._static[group.name] = result
        return self._static[group.name]

    def _settle(self, case: Case, first: CaseResult, limit_ns: int) -> CaseResult:
        known = self._settled.get(case.name)
        if known is not None:
            return known
        repeated = [self._under(self._run(case), limit_ns) for _ in range(self._repeat - 1)]
        runs = [first]
        while wants_reruns(first) and not is_enough(runs):
            starved = _is_starved(first, limit_ns)
            with self._board.gate.alone():
                again = self._measure(case, alone=True, patience=_PATIENCE if starved else 1)
            runs.append(under(again, limit_ns) if starved else self._under(again, limit_ns))
        result = settle(runs)
        if repeated:
            result = replace(result, reruns=(*((run.code, run.cpu_ns) for run in repeated), *result.reruns))
        # What was ended in less was not waited for: a deadlock was proved.
        waited_ns = result.wall_ns if result.own_ns is None else result.own_ns
        if result.code is Code.WTL and waited_ns > limit_ns and is_busy():
            result = replace(result, notes=(*result.notes, "more programs want a processor than there are: the wall time may be the host's doing"))
        self._settled[case.name] = result
        return result

    def _under(self, result: CaseResult, limit_ns: int) -> CaseResult:
        assert self.program is not None
        return under(result, limit_ns, round(self._allowed.upper_ns * self.program.time_factor))

    def _run(self, case: Case) -> CaseResult:
        with self._board.gate.beside():
            result = self._measure(case, alone=False)
        if not result.failed or self._board.jobs == 1:
            return result
        # Another submission may have used up what the host has: no sandbox is made then, or a validator is late, and that is nobody's verdict.
        with self._board.gate.alone():
            again = self._measure(case, alone=True)
        return replace(again, notes=(*again.notes, f"the judge failed beside other runs: {result.cause}"))

    def _measure(self, case: Case, *, alone: bool, patience: int = 1) -> CaseResult:
        self._board.check()
        program = self.program
        assert program is not None
        with self._opening:
            if self._closed:
                raise Stopped
            if self._handle is None:
                self._open = self._tools.open(program)
                self._handle = self._open.__enter__()
            handle = self._handle
        limits = self._tools.limits(program, self._allowed.upper_ns)
        result = handle.judge(case, limits if patience == 1 else replace(limits, wall_ns=limits.wall_ns * patience))
        self._board.check()
        if handle is not self._handle:
            raise Stopped  # it was closed meanwhile: what came of that says nothing of the program
        self._told(case.name, alone)
        return result


def _is_starved(result: CaseResult, limit_ns: int) -> bool:
    """Whether wall time ended a program that was computing, where others want the processors: with more of it, it may show that it computes too long."""
    return result.code is Code.WTL and result.own_ns is None and result.cpu_ns > limit_ns // 10 and is_busy()


def not_run(problem: Problem, reason: str) -> tuple[CaseResult, ...]:
    """Return every case as one that was not run."""
    return tuple(skipped(case, reason) for case in cases_of(problem.data))


def slowest(cases: Sequence[CaseResult]) -> CaseResult | None:
    """Return the case that took the most CPU time, None where none was run."""
    return max((case for case in cases if not case.skipped), key=lambda case: case.cpu_ns, default=None)


def deciding(walked: Walked) -> str:
    """Return the name of the case that a verdict rests on, "" where it is AC or nothing was run."""
    final = walked.final
    if final.code is Code.AC:
        return ""
    if final.decided_by:
        by_group = {group.name: group for group in walked.groups}
        name, seen = final.decided_by, set[str]()
        while name in by_group and name not in seen and by_group[name].decided_by:  # a group's verdict rests on a case of it
            seen.add(name)
            name = by_group[name].decided_by
        return name
    return next((case.case for case in walked.cases if not case.skipped and case.code is final.code), "")


__all__ = ["UNKNOWN", "Entry", "Handle", "Limits", "Tools", "deciding", "not_run", "slowest"]
