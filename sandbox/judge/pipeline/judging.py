"""All of a package's submissions: which are judged, under which time limit, and what comes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, cast

from sandbox.judge.answers import ANSWERS
from sandbox.judge.errors import PackageError
from sandbox.judge.labels import doubt_label, doubt_output
from sandbox.judge.model import CaseResult, Code, GroupResult, PackageResult, SubmissionResult
from sandbox.judge.pipeline.entry import UNKNOWN, Entry, Limits, Tools, deciding, not_run, slowest
from sandbox.judge.pipeline.settle import NEAR_SHARE
from sandbox.judge.pipeline.strict import Together
from sandbox.judge.pipeline.walk import Walked
from sandbox.judge.pipeline.workers import Board, Work
from sandbox.judge.problem import Problem, Submission
from sandbox.judge.progress import Progress, Stage, Step
from sandbox.record import dataclass
from sandbox.units import format_duration

_STOP_S = 0.8
"""How long workers may take to end after an interruption, so that all of it is over within a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to judge.

    Attributes:
        submissions: globs for names below ``submissions/``, or for their last part; empty means all.
        jobs: how many runs at a time, at least 1.
        time_limit_ns: in the place of the package's.
        strict: check the package as well, and count what is doubtful as wrong.
        repeat: how often each case is run, at least 1.
    """

    submissions: tuple[str, ...] = ()
    jobs: int = 1
    time_limit_ns: int | None = None
    strict: bool = False
    repeat: int = 1


Times = Mapping[str, Mapping[str, int]]
"""CPU time in nanoseconds by submission and case, as if its language had no factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """Time limits with where they come from."""

    limits: Limits
    source: str


class PackageTools(Tools, Protocol):
    """What a whole package needs besides."""

    def setters(self) -> tuple[Submission, ...]:
        """Return the submissions that a limit which nobody states is made of."""

    def derive(self, times: Times, time_limit_ns: int | None) -> Derived:
        """Return the limits, given the times of the submissions that they may be made of."""

    def check_limit(self, limits: Limits, source: str, times: Times) -> tuple[str, ...]:
        """Return where the limit contradicts times of the package's submissions."""

    def check_package(self, together: Together) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Check inputs, answers and what has to be refused; return problems and warnings."""

    def doubts(self) -> tuple[str, ...]:
        """Return what about the package showed only while judging."""


def choose(problem: Problem, globs: Sequence[str]) -> tuple[Submission, ...]:
    """Return the submissions that globs name, all of them without one.

    Raises:
        PackageError: a glob names none.
    """
    below = [_below(glob, problem) for glob in globs]
    for glob, wanted in zip(globs, below, strict=True):
        if not any(matches(each.name, wanted) for each in problem.submissions):
            known = ", ".join(f"`{each.name}`" for each in problem.submissions[:8])
            raise PackageError(
                f"no submission of `{problem.name}` is called `{glob}`", hint=f"there are {known}" if known else "it has none"
            )
    return tuple(each for each in problem.submissions if not globs or any(matches(each.name, glob) for glob in below))


def _below(glob: str, problem: Problem) -> str:
    """Return a glob for names below ``submissions/``; a path to there, as a shell completes it, is taken for its end."""
    package, found, end = f"/{glob}".rpartition("/submissions/")
    return end if found and package.rpartition("/")[2] in ("", ".", problem.name) else glob


def matches(name: str, glob: str) -> bool:
    """Whether a glob means a submission: its whole name, its last part, or its directory."""
    directory, _, last = name.rpartition("/")
    return any(fnmatchcase(part, glob.rstrip("/")) for part in (name, last, directory) if part)


class _Call:
    """A function as work."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def claim_ahead(self) -> None:
        """Nobody can help with it."""


class Judging:
    """One judging of a package.

    Args:
        problem: staged.
        tools: for this problem.
        options: how.
        progress: told of each step, one at a time.
    """

    def __init__(self, problem: Problem, tools: PackageTools, options: Options, progress: Progress | None = None) -> None:
        self._problem = problem
        self._tools = tools
        self._options = options
        self._progress = progress
        self._telling = threading.Lock()
        self._board = Board(options.jobs)
        self._chosen = choose(problem, options.submissions)
        self._results: dict[str, SubmissionResult] = {}
        self._entries: dict[str, Entry] = {}
        self._runs = 0
        self._stage = Stage.JUDGE
        self._problems: list[str] = []
        self._warnings: list[str] = list(problem.warnings)

    def run(self) -> PackageResult:
        """Judge.

        Raises:
            PackageError: the package cannot be judged.
            SandboxError: a sandbox failed.
            BaseException: what a signal's handler raised; everything that was started has been ended then.
        """
        began = time.monotonic_ns()
        try:
            return self._judge(began)
        except BaseException:
            self._end()
            raise

    def _judge(self, began: int) -> PackageResult:
        options = self._options
        if options.strict:
            self._tell(stage=Stage.CHECK)
            wrong, doubtful = self._tools.check_package(self._together)
            self._problems += wrong
            self._warnings += doubtful
        derived = self._find_limits()
        limit = format_duration(derived.limits.limit_ns)
        self._tell(stage=Stage.LIMIT, text=f"{limit}: {derived.source}")
        self._stage = Stage.JUDGE
        entries = [self._entry(each) for each in self._chosen]
        self._board.run(cast("Sequence[Work]", entries), lambda work: self._finish(cast("Entry", work), derived.limits))
        results = tuple(self._results[each.name] for each in self._chosen)
        self._warnings += self._tools.check_limit(derived.limits, derived.source, self._times(derived.limits))
        self._warnings += self._tools.doubts()
        for each, result in zip(self._chosen, results, strict=True):
            doubts = doubt_label(each, result.cases, result.code) if result.label_ok else ()
            self._warnings += [f"label of `{each.name}` holds by its verdict, but not over all cases: {text}" for text in doubts]
            doubts = doubt_output(each, result.cases) if result.label_ok else ()
            self._warnings += [f"label of `{each.name}` holds if too much output counts as too slow: {text}" for text in doubts]
        allowed = self._problem.languages
        self._warnings += [
            f"`{each.name}` is in `{each.language}`, which the package's `languages` do not name"
            for each in results
            if allowed and each.language and each.language not in (ANSWERS, *allowed)
        ]
        problems = list(self._problems)
        if options.strict:
            problems += self._warnings
            problems += [f"`{each.name}` was not judged: {each.absent}" for each in results if each.absent]
        return PackageResult(
            problem=self._problem.name,
            format=self._problem.format,
            digest=self._problem.digest,
            time_limit_ns=derived.limits.limit_ns,
            time_limit_source=derived.source,
            upper_limit_ns=derived.limits.upper_ns,
            submissions=results,
            problems=tuple(dict.fromkeys(problems)),
            warnings=tuple(dict.fromkeys(() if options.strict else self._warnings)),
            enforced=tuple(dict.fromkeys(text for each in results for case in each.cases for text in case.weaker)),
            strict=options.strict,
            repeat=options.repeat,
            jobs=options.jobs,
            runs=self._runs,
            wall_ns=time.monotonic_ns() - began,
        )

    def _together(self, calls: Sequence[Callable[[], None]]) -> None:
        self._board.run([_Call(call) for call in calls], lambda work: cast("_Call", work).call())

    # ---- the time limit -----------------------------------------------------------------------------------------

    def _find_limits(self) -> Derived:
        """Return the limits: stated ones, or made of how long the submissions take that are to set them."""
        given = self._options.time_limit_ns
        if given is not None or self._problem.limits.time_ns is not None or not self._chosen:
            return self._tools.derive({}, given)
        setters = self._tools.setters()
        self._stage = Stage.MEASURE
        if setters:  # the longest that anybody waits for: nothing says yet when a program that goes on and on is too slow
            count = f"{len(setters)} submission{'s' if len(setters) > 1 else ''}"
            self._tell(stage=Stage.MEASURE, text=f"{count}, each case up to {format_duration(UNKNOWN.limit_ns)} of CPU time")
        walks: dict[str, Walked] = {}

        def measure(work: Work) -> None:
            entry = cast("Entry", work)
            done = entry.judge(UNKNOWN, final=False)
            if done is not None:
                walks[entry.submission.name] = done[1]

        self._board.run(cast("Sequence[Work]", [self._entry(each) for each in setters]), measure)
        times: dict[str, dict[str, int]] = {}
        doubtful: dict[str, dict[str, int]] = {}
        for each in setters:
            entry = self._entry(each)
            walked = walks.get(each.name)
            spent = {} if walked is None else _spent(entry, walked.cases)
            if walked is None or not spent:
                built = entry.built
                why = "" if built is None else built.absent or built.cause or str(built.code or "")
                self._warnings.append(f"the time limit is without `{each.name}`, which was not run: {why or 'no case'}")
            elif walked.final.code is Code.AC:
                times[each.name] = spent
            else:
                doubtful[each.name] = spent
                self._warnings.append(f"`{each.name}` is to set the time limit and is {walked.final.code}, at `{deciding(walked)}`")
        if not times and not doubtful:
            self._warnings.append("nothing sets the time limit; `--time-limit` does")
        derived = self._tools.derive(times or doubtful, None)
        self._warnings += self._swings(times or doubtful, derived)
        return derived

    def _swings(self, times: Times, derived: Derived) -> Iterator[str]:
        """Yield what the limit would be, had what sets it taken a little more or less: as much as noise makes of a time."""
        for factor, word in ((1 - NEAR_SHARE, "less"), (1 + NEAR_SHARE, "more")):
            other = self._tools.derive({name: {case: round(ns * factor) for case, ns in cases.items()} for name, cases in times.items()}, None)
            if other.limits != derived.limits:
                limits = [format_duration(each.limits.limit_ns) for each in (derived, other)]
                yield f"the time limit hangs on little: {limits[0]}, and {limits[1]} had its submissions taken {NEAR_SHARE:.0%} {word}"

    def _times(self, limits: Limits) -> Times:
        """Return the times of all submissions that were judged; one that waited or wrote without an end is as slow as can be."""
        times = {name: _spent(self._entries[name], result.cases) for name, result in self._results.items() if result.code is not None}
        for name, spent in times.items():
            submission = self._entries[name].submission
            for case in self._results[name].cases:
                if case.case in spent and (Code.WTL in (case.code, *case.flags) or doubt_output(submission, (case,))):
                    spent[case.case] = limits.upper_ns
        return times

    # ---- one submission -----------------------------------------------------------------------------------------

    def _entry(self, submission: Submission) -> Entry:
        entry = self._entries.get(submission.name)
        if entry is None:

            def told(case: str, alone: bool) -> None:
                with self._telling:
                    self._runs += 1
                self._tell(stage=self._stage, submission=submission.name, case=case, alone=alone)

            entry = self._entries[submission.name] = Entry(self._board, self._tools, submission, repeat=self._options.repeat, told=told)
        return entry

    def _finish(self, entry: Entry, limits: Limits) -> None:
        self._tell(stage=Stage.BUILD if entry.built is None else Stage.JUDGE, submission=entry.submission.name)
        done = entry.judge(limits, final=True)
        result = self._describe(entry, limits, done)
        self._results[entry.submission.name] = result
        self._tell(stage=Stage.JUDGE, submission=entry.submission.name, result=result)

    def _describe(self, entry: Entry, limits: Limits, done: tuple[Walked, Walked] | None) -> SubmissionResult:
        submission, built = entry.submission, entry.built
        assert built is not None
        label = ", ".join(dict.fromkeys(want.source for want in submission.expectations))
        language = built.language or submission.language
        if built.absent:
            return SubmissionResult(
                name=submission.name,
                language=language,
                built=built,
                label=label,
                absent=built.absent,
                cases=not_run(self._problem, built.absent),
            )
        if done is None:
            code = built.code or Code.JE
            reason = "it does not compile" if code is Code.CE else f"it could not be built: {built.cause}"
            final = GroupResult(name="", code=code, score=None)
            above = walked = Walked(cases=not_run(self._problem, reason), groups=(), final=final)
        else:
            above, walked = done
        wrong = self._tools.check_label(submission, walked) if submission.expectations else ()
        sensitive = _sensitive(above, walked, limits)
        if wrong and sensitive and above.final.code is not Code.AC and not self._tools.check_label(submission, above):
            wrong = ()
            sensitive = (f"{sensitive[0]}, as its label says", *sensitive[1:])
        top = slowest(walked.cases)
        return SubmissionResult(
            name=submission.name,
            language=language,
            built=built,
            code=walked.final.code,
            score=walked.final.score if self._problem.scoring else None,
            cases=walked.cases,
            groups=walked.groups,
            decided_by=deciding(walked),
            max_cpu_ns=0 if top is None else top.cpu_ns,
            label=label,
            label_ok=not wrong if submission.expectations else None,
            label_problems=wrong,
            sensitive=sensitive,
        )

    # ---- telling, ending ----------------------------------------------------------------------------------------

    def _tell(
        self,
        *,
        stage: Stage,
        submission: str = "",
        case: str = "",
        alone: bool = False,
        result: SubmissionResult | None = None,
        text: str = "",
    ) -> None:
        if self._progress is None:
            return
        with self._telling:
            step = Step(
                stage=stage, submission=submission, case=case, judged=len(self._results), total=len(self._chosen), runs=self._runs, alone=alone,
                result=result, text=text,
            )  # fmt: skip
            self._progress(step)

    def _end(self) -> None:
        """End workers and what they have started."""
        until = time.monotonic() + _STOP_S
        self._board.stop()
        while True:
            self._tools.stop()
            if self._board.join(0.02) or time.monotonic() > until:
                break
        for entry in self._entries.values():
            entry.close()


def _sensitive(above: Walked, walked: Walked, limits: Limits) -> tuple[str, ...]:
    """Return what the verdict would be under the upper limit, where it would be another."""
    if above.final.code is walked.final.code and above.final.score == walked.final.score:
        return ()
    score = f" with score {above.final.score:g}" if above.final.score is not None else ""
    return (f"{above.final.code}{score} with a limit of {format_duration(limits.upper_ns)}",)


def _spent(entry: Entry, cases: Sequence[CaseResult]) -> dict[str, int]:
    factor = 1.0 if entry.program is None else entry.program.time_factor
    return {case.case: round(case.cpu_ns / factor) for case in cases if not case.skipped}


__all__ = ["Derived", "Judging", "Options", "PackageTools", "choose", "matches"]
