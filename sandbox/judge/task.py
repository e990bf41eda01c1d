"""`Task`: what an author of a grader makes of tests and limits, and grades submissions with; `run_case` for a single run.

Everything of a submission runs in sandboxes, each test in one of its own; what is expected of it never enters one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from sandbox.audit.events import escape_untrusted
from sandbox.errors import PolicyError, UnsupportedError
from sandbox.judge.building import Builder
from sandbox.judge.check.default import FlagError, parse_flags
from sandbox.judge.languages.table import Languages, load_languages
from sandbox.judge.pipeline.cores import count_cores
from sandbox.judge.progress import Display, Progress, Stage, Step
from sandbox.judge.task_check import Output
from sandbox.judge.task_parts import Contents, Files, Part, SubmissionError, Submitted, Test, check_callable, read_files, settle_test
from sandbox.judge.task_result import TaskResult, TestResult
from sandbox.judge.task_run import Rules
from sandbox.judge.task_work import Work
from sandbox.units import parse_size


class Task:
    """Tests, limits and points; made once, it grades any number of submissions, from any thread.

    Args:
        tests: at least one.
        name: for results and messages.
        language: id or alias, as `sandbox judge languages` lists them; "" is told by the names of a submission's files.
        entrypoint: the file or class that a submission is started by, where that is not plain.
        include: files put beside each submission's, in the place of its own of the same name. It can read them: put no answers there.
        time_limit: seconds of CPU time of a test, times the language's factor.
        wall_limit: seconds on the clock. None is three times the CPU time and two seconds, of which it may do nothing for the CPU time and two seconds; on a
            host where more programs want a processor than there are, a test that ended for this is run again with four times as much.
        memory_limit: bytes, or text such as ``256M``; what the language's runtime takes is added.
        output_limit: bytes that it may print.
        processes: how many processes and threads, None for what the language needs.
        checker: judges the tests that have none of their own.
        flags: as for `Test`.
        groups: points of groups of tests, by name: earned by passing all of them, or as much as the worst of them earns.
        stop: after a failed test skip the rest; in a group, the rest of that.
        parts: programs that run together in each test, by name; without them it is the submission alone.
        pipes: from which part's standard output to which part's standard input, pairs of names.
        referee: which part decides, by exit code 42 for right and 43 for wrong; "" where the output does.
        audit: a file for denied system calls, as JSON lines.
        languages: the table of languages; the installed one unless given.

    Raises:
        ValueError: something contradicts itself.
        TypeError: something is of the wrong kind.
        SandboxError: a file cannot be read, a limit or a flag not be understood.
    """

    def __init__(
        self,
        tests: Sequence[Test],
        *,
        name: str = "",
        language: str = "",
        entrypoint: str = "",
        include: Files | None = None,
        time_limit: float = 2.0,
        wall_limit: float | None = None,
        memory_limit: int | str = "256M",
        output_limit: int | str = "8M",
        processes: int | None = None,
        checker: Callable[[Output], object] | None = None,
        flags: str = "",
        groups: Mapping[str, float] | None = None,
        stop: bool = False,
        parts: Mapping[str, Part] | None = None,
        pipes: Sequence[tuple[str, str]] = (),
        referee: str = "",
        audit: str | None = None,
        languages: Languages | None = None,
    ) -> None:
        self.name = name
        self.tests = tuple(settle_test(test, number) for number, test in enumerate(tests, 1))
        self.groups = dict(groups or {})
        self.language = language
        self.entrypoint = entrypoint
        self.stop = stop
        self._languages = languages
        self.include = read_files(include or {})
        self.audit = audit
        self.rules = Rules(
            time_limit=time_limit, wall_limit=wall_limit, memory_bytes=parse_size(memory_limit, where="argument `memory_limit`"),
            output_bytes=parse_size(output_limit, where="argument `output_limit`"), processes=processes, checker=checker, flags=flags,
            parts=dict(parts or {}), pipes=tuple(pipes), referee=referee,
        )  # fmt: skip
        self._check()

    @property
    def max_points(self) -> float:
        """What a submission that passes everything earns."""
        return sum(test.points or 0.0 for test in self.tests) + sum(self.groups.values())

    def grade(self, submission: Submitted, *, name: str = "", jobs: int = 1, progress: Progress | bool = False) -> TaskResult:
        """Grade one submission and return what came of it.

        Args:
            submission: names and contents; a path object of a file or directory; or text, where the task states its language.
            name: for the result; a path's own unless given.
            jobs: how many tests to run at a time.
            progress: True shows a line on standard error; or a function that is called with each `Step`.

        Raises:
            SandboxError: the judge cannot work on this host, or the task is wrong. What is wrong with the submission is a result.
        """
        ((only),) = self.grade_all({name or _name_of(submission): submission}, jobs=1, progress=progress, tests_at_a_time=jobs)
        return only

    def grade_all(
        self, submissions: Mapping[str, Submitted], *, jobs: int | None = None, progress: Progress | bool = False, tests_at_a_time: int = 1
    ) -> Iterator[TaskResult]:
        """Grade many submissions, several at a time, and yield the results in their order. What is wrong with one keeps none of the others from being graded.

        Closing the iterator, or an exception, ends what still runs; a function of the author's that does not return by then is left in its daemon thread.

        Args:
            submissions: by name, as for `grade`.
            jobs: how many at a time; None is the physical cores that may be used.
            progress: as for `grade`.
            tests_at_a_time: of each submission.

        Raises:
            SandboxError: as for `grade`.
        """
        workers = count_cores() if jobs is None else jobs
        if workers < 1 or tests_at_a_time < 1:
            raise ValueError("at least one job is needed")
        return self._grade_all(dict(submissions), workers, progress, tests_at_a_time)

    def _grade_all(
        self, submissions: dict[str, Submitted], workers: int, progress: Progress | bool, tests_at_a_time: int
    ) -> Iterator[TaskResult]:
        with ExitStack() as stack:
            tell = _teller(progress, stack, len(submissions))
            work = stack.enter_context(Work(self, Builder(self._table()), tests_at_a_time, tell))
            pool = ThreadPoolExecutor(workers, thread_name_prefix="grade")
            waiting: list[Future[TaskResult]] = []
            try:
                waiting += [pool.submit(work.grade, name, submitted) for name, submitted in submissions.items()]
                for future in waiting:
                    yield future.result()
            finally:
                work.cancel(waiting)
                pool.shutdown(wait=True, cancel_futures=True)

    def _table(self) -> Languages:
        if self._languages is None:
            self._languages = load_languages()
        return self._languages

    def _check(self) -> None:
        rules = self.rules
        names = [test.name for test in self.tests]
        if not names:
            raise ValueError("a task needs at least one test")
        twice = next((each for each in names if names.count(each) > 1), None)
        if twice is not None:
            raise ValueError(f"two tests are called `{twice}`")
        for test in self.tests:
            if test.group and test.group not in self.groups:
                raise ValueError(f"`{test.name}` is in the group `{test.group}`, to which the task gives no points")
            if test.memory_limit is not None:
                parse_size(test.memory_limit, where=f"test `{test.name}`")
            for flags in (test.flags, rules.flags):
                try:
                    parse_flags(flags.split())
                except FlagError as error:
                    raise PolicyError(str(error), origin=f"test `{test.name}`, flags `{flags}`") from None
            if rules.parts and (test.call or test.code or test.talk):
                raise ValueError(f"`{test.name}`: in a task with several parts programs talk with each other, not with a function")
            _check_seconds(test.time_limit, f"time_limit of `{test.name}`")
        for group, points in self.groups.items():
            if not 0 <= points < float("inf"):
                raise ValueError(f"group `{group}`: points must be 0 or more, not {points}")
            if all(test.group != group for test in self.tests):
                raise ValueError(f"no test is in the group `{group}`")
        check_callable(rules.checker, "checker")
        _check_seconds(rules.time_limit, "time_limit")
        _check_seconds(rules.wall_limit, "wall_limit")
        self._check_parts()

    def _check_parts(self) -> None:
        rules = self.rules
        if not rules.parts:
            if rules.pipes or rules.referee:
                raise ValueError("pipes and a referee need `parts`")
            return
        for source, sink in rules.pipes:
            for name in (source, sink):
                if name not in rules.parts:
                    raise ValueError(f"pipe from `{source}` to `{sink}`: no part is called `{name}`")
        for what, ends in (("output", [source for source, _ in rules.pipes]), ("input", [sink for _, sink in rules.pipes])):
            if len(set(ends)) < len(ends):
                raise ValueError(f"a part's standard {what} is in two pipes: a stream has one other end")
        if all(part.program is not None for part in rules.parts.values()):
            raise ValueError("no part is the submission's: one needs `program=None`")
        if rules.referee:
            if rules.parts.get(rules.referee) is None or rules.parts[rules.referee].program is None:
                raise ValueError(f"the referee `{rules.referee}` has to be a part with a program of your own")
            return
        read = {source for source, _ in rules.pipes}
        free = [name for name, part in rules.parts.items() if name not in read and part.program is None]
        if len(free) != 1:
            raise ValueError(
                "without a referee exactly one part of the submission's must be left whose standard output goes nowhere else: that is judged"
            )


def run_case(
    program: Submitted,
    stdin: Contents = b"",
    expected: Contents | None = None,
    *,
    args: Sequence[str] = (),
    files: Files | None = None,
    collect: Sequence[str] = (),
    checker: Callable[[Output], object] | None = None,
    flags: str = "",
    exit_code: int | None = 0,
    language: str = "",
    entrypoint: str = "",
    time_limit: float = 2.0,
    wall_limit: float | None = None,
    memory_limit: int | str = "256M",
    output_limit: int | str = "8M",
) -> TestResult:
    """Build a program, run it once, judge it, and return what came of it; the arguments are those of `Test` and `Task`.

    A program that does not compile is the verdict CE, with the compiler's words as `stderr`.

    Raises:
        SandboxError: as for `Task.grade`.
    """
    test = Test(
        stdin, expected, name="case", args=args, files=files or {}, collect=collect, checker=checker, flags=flags, exit_code=exit_code
    )
    task = Task(
        [test], language=language, entrypoint=entrypoint, time_limit=time_limit, wall_limit=wall_limit, memory_limit=memory_limit,
        output_limit=output_limit,
    )  # fmt: skip
    result = task.grade(program)
    if result.tests[0].skipped:
        from sandbox.record import replace

        return replace(result.tests[0], skipped="", cause=result.cause, stderr=result.compiler_output.encode())
    return result.tests[0]


def _teller(progress: Progress | bool, stack: ExitStack, total: int) -> Callable[..., None]:
    """Return what is called with each step: for a person, for a function of the caller's, or for nobody."""
    if progress is False:
        return lambda *_, **__: None
    shown: Progress
    if progress is True:
        display = Display(sys.stderr, live=sys.stderr.isatty())
        stack.callback(display.close)
        shown = display
    else:
        shown = progress
    lock = threading.Lock()
    count = {"judged": 0, "runs": 0}

    def tell(stage: Stage, submission: str, case: str = "", done: TaskResult | None = None) -> None:
        with lock:
            count["judged"] += done is not None
            count["runs"] += bool(case)
            text = "" if done is None else f"{escape_untrusted(submission, 80)}: {done.points:.6g} of {done.max_points:.6g} points"
            shown(Step(stage=stage, submission=submission, case=case, judged=count["judged"], total=total, runs=count["runs"], text=text))

    return tell


def _name_of(submission: Submitted) -> str:
    return os.path.basename(os.path.abspath(submission)) if isinstance(submission, os.PathLike) else "submission"


def _check_seconds(seconds: float | None, what: str) -> None:
    if seconds is not None and not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} must be a number of seconds, not {type(seconds).__name__}")
    if seconds is not None and not 0.001 <= seconds <= 86_400:
        raise ValueError(f"{what}: from 0.001 s to a day, not {seconds}")


__all__ = ["Contents", "Part", "SubmissionError", "Task", "Test", "UnsupportedError", "run_case"]
