"""One call of `Task.grade_all`: building, running and summing up, in several threads, and an end to all of it when the caller goes. Only `task` uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress

from sandbox.api.running import RunGone, running
from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.building import Builder
from sandbox.judge.languages.named_after import find_name
from sandbox.judge.model import Built, Code, Program
from sandbox.judge.naming import make_run_name, runs_named
from sandbox.judge.pipeline.cores import is_busy
from sandbox.judge.problem import ProblemLimits, Submission
from sandbox.judge.progress import Stage
from sandbox.judge.running import Runner
from sandbox.judge.task_call import Calls, Left
from sandbox.judge.task_parts import SubmissionError, Submitted, Test, read_files, read_submission
from sandbox.judge.task_play import run_code, run_parts, tests_program
from sandbox.judge.task_result import TaskResult, TestResult, sum_up
from sandbox.judge.task_run import Rules, failed, run_plain
from sandbox.judge.task_talk import driven, run_call, run_talk
from sandbox.record import replace
from sandbox.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.task import Task

_CODE_BYTES = 64 << 20
_OUTPUT = 4000
_PATIENCE = 4
_SWEEP_S = 0.1
_ENDED = "grading was ended"


class Work:
    """One call of `Task.grade_all`: what its threads share. Leaving it ends every run."""

    def __init__(self, task: Task, builder: Builder, tests_at_a_time: int, tell: Callable[..., None]) -> None:
        self._task = task
        self._builder = builder
        self._at_a_time = tests_at_a_time
        self._tell = tell
        self._lock = threading.Lock()
        self._name = make_run_name(task.name or "task")
        self._cancelled = False
        self._calls = Calls()
        self._rules = replace(task.rules, call=self._calls)

    def grade(self, name: str, submitted: Submitted) -> TaskResult:
        """Grade one submission."""
        task = self._task
        self._tell(Stage.BUILD, name)
        try:
            files = read_submission(submitted, self._source_name(submitted))
        except SubmissionError as error:
            return self._done(name, [], Built(name=name, code=Code.CE, cause=error.message))
        except SandboxError as error:  # nothing was handed in, say: the others are graded all the same
            return self._done(name, [], Built(name=name, code=Code.JE, cause=error.message))
        built = self._build(name, files, task.language, task.entrypoint, {"default": task.include})
        if built.program is None:
            return self._done(name, [], built)
        with ExitStack() as stack:
            try:
                seats = self._seats(built.program, stack)
            except _PartFailed as error:
                return self._done(name, [], Built(name=name, code=Code.JE, cause=str(error)))
            except (PolicyError, UnsupportedError):
                raise
            except SandboxError as error:
                return self._done(name, [], Built(name=name, code=Code.JE, cause=error.message))
            return self._done(name, self._run_all(name, seats, built.program, stack), built)

    def _run_all(self, name: str, seats: Mapping[str, Runner], program: Program, stack: ExitStack) -> list[TestResult]:
        task = self._task
        lost: set[str] = set()  # groups in which one failed; "" is the task
        extra = self._extra_seats(program, stack)

        def run(test: Test) -> TestResult:
            if self._cancelled:
                return failed(test, Code.JE, "", skipped=_ENDED)
            if task.stop and (test.group in lost if test.group else "" in lost):
                return failed(test, Code.WA, "", skipped="an earlier test failed")
            try:
                made = self._run_patiently(test, seats, program, extra)
            except Left:
                return failed(test, Code.JE, "", skipped=_ENDED)
            if not made.ok:
                lost.add(test.group)
            self._tell(Stage.JUDGE, name, test.name)
            return made

        if self._at_a_time == 1:
            return [run(test) for test in task.tests]
        with ThreadPoolExecutor(self._at_a_time, thread_name_prefix="tests") as pool:
            return list(pool.map(run, task.tests))

    def _run_patiently(
        self, test: Test, seats: Mapping[str, Runner], program: Program, extra: Callable[[str], Runner | None]
    ) -> TestResult:
        """Run a test, and once more where it ended for wall time on a host so busy that waiting for a processor may have been why."""
        rules = self._rules
        made = self._run(test, rules, seats, program, extra)
        if made.code is not Code.WTL or rules.wall_limit is not None or self._cancelled or not is_busy():
            return made
        again = self._run(test, replace(rules, patience=_PATIENCE), seats, program, extra)
        if again.case is None or made.case is None:
            return again
        note = f"ended for wall time on a busy host first; this is a second run, of {_PATIENCE} times the wall limit"
        case = replace(again.case, reruns=((made.code, made.case.cpu_ns),), notes=(*again.case.notes, note))
        return replace(again, case=case)

    def _run(
        self, test: Test, rules: Rules, seats: Mapping[str, Runner], program: Program, extra: Callable[[str], Runner | None]
    ) -> TestResult:
        if rules.parts:
            return run_parts(test, rules, seats)
        if test.talk is not None:
            return run_talk(test, rules, seats[""])
        if test.call is not None or test.code:
            driver = extra("driver")
            if driver is None:
                return failed(test, Code.CE, f"its functions cannot be called: it is written in `{program.language}`, and has to be Python")
            if test.call is not None:
                return run_call(test, rules, driver)
            tests = extra("tests")
            assert tests is not None
            return run_code(test, rules, driver, tests)
        return run_plain(test, rules, seats[""])

    def _seats(self, program: Program, stack: ExitStack) -> dict[str, Runner]:
        """Return a runner for each part, or for the submission alone under the name ""."""
        rules = self._task.rules
        if not rules.parts:
            return {"": self._runner(program, stack)}
        found: dict[str, Runner] = {}
        for name, part in rules.parts.items():
            if part.program is None:
                found[name] = self._runner(program, stack)
                continue
            built = self._build(name, read_files(part.program), part.language, part.entrypoint, {})
            if built.program is None:
                raise _PartFailed(f"the author's part `{name}`: {built.absent or built.cause}")
            found[name] = self._runner(built.program, stack)
        return found

    def _extra_seats(self, program: Program, stack: ExitStack) -> Callable[[str], Runner | None]:
        """Return what gives the runners of tests that call functions, made when they are first asked for."""
        made: dict[str, Runner] = {}

        def find(which: str) -> Runner | None:
            driver = driven(program)
            if driver is None:
                return None
            with self._lock:
                known = made.get(which)
            if known is None:
                known = self._runner(driver if which == "driver" else tests_program(program), stack)
                with self._lock:
                    known = made.setdefault(which, known)
            return known

        return find

    def _runner(self, program: Program, stack: ExitStack) -> Runner:
        with runs_named(self._name):
            return stack.enter_context(Runner(program, audit=self._task.audit))

    def _build(
        self, name: str, files: Mapping[str, bytes], language: str, entrypoint: str, include: Mapping[str, Mapping[str, bytes]]
    ) -> Built:
        submission = Submission(name=name, files=files, language=language, entrypoint=entrypoint)
        own = [parse_size(test.memory_limit) for test in self._task.tests if test.memory_limit is not None]
        memory = max(
            [self._task.rules.memory_bytes, *own]
        )  # a virtual machine is told of it, and does not start where it may not have so much
        with runs_named(self._name):
            return self._builder.build(submission, include=include, limits=ProblemLimits(code_bytes=_CODE_BYTES, memory_bytes=memory))

    def _source_name(self, submitted: Submitted) -> str:
        """Return the name of the file that a submission's text becomes, "" where the task states no language.

        It is the stated entry point's, else what the compiler wants the text's file to be called, else the default name.
        """
        task = self._task
        if not task.language:
            return ""
        language = self._builder.languages.find(task.language)
        if not isinstance(submitted, str):
            return ""
        named = find_name(submitted, language.named_after) if language.named_after and not task.entrypoint else ""
        entry = task.entrypoint or named or (language.main[0] if language.main and language.entry == "class" else "")
        extensions = (*language.extensions, *language.shared)
        return entry if entry.endswith(extensions) else f"{entry or 'main'}{extensions[0]}"

    def _done(self, name: str, tests: list[TestResult], built: Built) -> TaskResult:
        """Return a submission's result; without tests it was not run, for what `built` says."""
        task = self._task
        if built.program is None:
            why = "does not compile" if built.code is Code.CE else "cannot be built here"
            tests = [failed(test, built.code or Code.JE, "", skipped=why) for test in task.tests]
        code, points, most, groups = sum_up(tuple(tests), task.groups)
        result = TaskResult(
            task=task.name, name=name, language=built.language, code=code if built.program is not None else built.code or Code.JE, points=points,
            max_points=most, tests=tuple(tests), groups=groups, cause=built.absent or built.cause, compiler_output=built.output[:_OUTPUT],
        )  # fmt: skip
        self._tell(Stage.JUDGE, name, done=result)
        return result

    def cancel(self, waiting: Sequence[Future[TaskResult]]) -> None:
        """End every run, also those that a thread is about to begin, and leave functions of the author's, until no thread is at work any more."""
        self._cancelled = True
        left = {future for future in waiting if not future.cancel()}
        while left := wait(left, timeout=0).not_done:
            for run in running():
                if run.name == self._name:
                    with suppress(RunGone, SandboxError):
                        run.kill(timeout=0)
            wait(left, timeout=_SWEEP_S)
            self._calls.end()  # not before: a function that talks with a program hears of its end, and comes to one of its own

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.close()
        self._builder.close()


class _PartFailed(Exception):
    """A program of the author's own cannot be built."""
