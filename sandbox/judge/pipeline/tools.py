"""The rooms that build, run, check and grade, put together for one staged problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from sandbox.api.running import RunGone, running
from sandbox.errors import SandboxError
from sandbox.judge.answers import ANSWERS, open_answers
from sandbox.judge.building import Builder
from sandbox.judge.case import judge_case
from sandbox.judge.check import Checker, open_checker
from sandbox.judge.check.feedback import clean_text
from sandbox.judge.check.inputs import InputChecker
from sandbox.judge.check.static import StaticChecker
from sandbox.judge.errors import PackageError
from sandbox.judge.grader_program import GraderProgram
from sandbox.judge.grading import grade_group, should_stop, skipped_group, why_skipped
from sandbox.judge.interactive.case import Interactor
from sandbox.judge.labels import check_label
from sandbox.judge.languages.table import undefined_language
from sandbox.judge.model import Built, CaseResult, Code, GroupResult, Program, RunLimits
from sandbox.judge.naming import make_run_name, runs_named
from sandbox.judge.package.stage import stage_root
from sandbox.judge.passes import UNREAD
from sandbox.judge.pipeline.entry import Handle, Limits
from sandbox.judge.pipeline.judging import Derived, Times
from sandbox.judge.pipeline.strict import DataCheck, Together
from sandbox.judge.pipeline.walk import Outcome, Rules, Walked
from sandbox.judge.problem import Case, Group, Problem, Source, Submission, cases_of
from sandbox.judge.running import Runner, run_limits
from sandbox.judge.source_files import BadSource, choose_main, merge
from sandbox.judge.timelimit import Limit, check_limit, derive_limit, first_for_limit


@contextmanager
def open_tools(problem: Problem, builder: Builder) -> Iterator[RealTools]:
    """Build the package's own programs, and yield what judges its submissions.

    Args:
        problem: staged.
        builder: borrowed.

    Raises:
        PackageError: a validator or grader cannot be built, or its language is not installed.
    """
    name = make_run_name(problem.name)
    with ExitStack() as stack:
        with runs_named(name):
            tools = RealTools(problem, builder, stack, name)
        yield tools


class RealTools:
    """See `pipeline.judging.PackageTools`; made by `open_tools`."""

    def __init__(self, problem: Problem, builder: Builder, stack: ExitStack, name: str) -> None:
        self.problem = problem
        self.name = name
        self._builder = builder
        self._stage = stage_root(problem)
        self._doubts: list[str] = []
        self._answers: dict[str, Mapping[str, bytes]] = {}
        self._validators = tuple(self._own(source, "output validator") for source in problem.output_validators)
        self._interactor: Interactor | None = None
        self._checker: Checker | None = None
        if problem.interactive:
            self._interactor = stack.enter_context(Interactor(self._validators[0], problem, stage=self._stage))
        else:
            self._checker = stack.enter_context(open_checker(problem, self._validators, stage=self._stage))
        self._grader: GraderProgram | None = None
        if problem.grader is not None:
            self._grader = stack.enter_context(GraderProgram(self._own(problem.grader, "grader"), problem))
        self._static: StaticChecker | None = None
        if problem.static_validator is not None:
            self._static = stack.enter_context(StaticChecker(self._own(problem.static_validator, "static validator"), problem))
        self.rules = Rules(grade=self._grade, stops=should_stop, bars=why_skipped, barred=skipped_group)

    def build(self, submission: Submission) -> Built:
        """Build a submission. Files of no language are no submission that does not compile: packages keep notes and disabled programs beside the others."""
        files = submission.files
        if not submission.language and self._builder.languages.detect(files) is None and not undefined_language("", files):
            if self.problem.submit_answer:
                self._answers[submission.name] = files
                return Built(name=submission.name, language=ANSWERS, program=Program(name=submission.name, language=ANSWERS, directory="", command=()))
            return Built(name=submission.name, absent="no language is known by its files' names")
        if self.problem.submit_answer:
            self._doubts.append(f"`{submission.name}` is a program, and the problem wants answers: what it prints is judged")
        with runs_named(self.name):
            return self._builder.build(submission, include=self.problem.include, limits=self.problem.limits)

    def limits(self, program: Program, limit_ns: int) -> RunLimits:
        """Return the limits of one run."""
        return run_limits(self.problem, program, limit_ns)

    @contextmanager
    def open(self, program: Program) -> Iterator[Handle]:
        """Make a program ready to be run."""
        if program.language == ANSWERS:
            assert self._checker is not None
            yield open_answers(self._answers[program.name], cases_of(self.problem.data), self._checker)
            return
        with runs_named(self.name):
            runner = Runner(program)
        with runner:
            yield _Handle(runner, self)

    def judge(self, runner: Runner, case: Case, limits: RunLimits) -> CaseResult:
        """Run and check."""
        if self._interactor is not None:
            result = self._interactor.judge(runner, case, limits)
        else:
            assert self._checker is not None
            result = judge_case(runner, self._checker, self.problem, case, limits)
        if UNREAD in result.notes:
            self._doubts.append(UNREAD)
        return result

    def validate_static(self, submission: Submission, built: Built, group: Group) -> CaseResult:
        """Have the static validator look at a submission's files."""
        assert self._static is not None and built.program is not None
        main = submission.entrypoint
        known = self._builder.languages.get(built.language)
        if not main and known is not None:
            with suppress(BadSource):
                main = choose_main(merge(submission.files, known, self.problem.include), known)
        return self._static.check(submission, built.language, main, group)

    def check_label(self, submission: Submission, walked: Walked) -> tuple[str, ...]:
        """Return what of a label does not hold."""
        return check_label(self.problem, submission, walked.cases, walked.final.code, walked.final.score, groups=walked.groups)

    def setters(self) -> tuple[Submission, ...]:
        """Return what the time limit is made of."""
        return first_for_limit(self.problem)

    def derive(self, times: Times, time_limit_ns: int | None) -> Derived:
        """Return the limits."""
        limit = derive_limit(self.problem, times, stated_ns=time_limit_ns)
        return Derived(limits=Limits(limit_ns=limit.limit_ns, upper_ns=limit.upper_ns), source=limit.source)

    def check_limit(self, limits: Limits, source: str, times: Times) -> tuple[str, ...]:
        """Return where the limit contradicts times."""
        return check_limit(self.problem, Limit(limits.limit_ns, limits.upper_ns, source), times)

    def check_package(self, together: Together) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Check inputs, answers and what has to be refused."""
        missing: list[str] = []
        with runs_named(self.name):
            programs = [each for source in self.problem.input_validators if (each := self._input_validator(source, missing)) is not None]
            inputs = InputChecker(programs, self.problem)
        with inputs:
            check = DataCheck(self.problem, inputs if programs else None, self._checker, missing)
            check.run(together)
        return check.problems, check.warnings

    def doubts(self) -> tuple[str, ...]:
        """Return what showed only while judging."""
        return tuple(dict.fromkeys(self._doubts))

    def stop(self) -> None:
        """End every run of this judging."""
        for run in running():
            if run.name == self.name:
                with suppress(RunGone, SandboxError):
                    run.kill(timeout=0)

    def _input_validator(self, source: Source, missing: list[str]) -> Program | None:
        """Return an input validator as built; None, and why, where its language is not here: what the others say of inputs counts all the same."""
        built = self._builder.build(source, limits=self.problem.limits)
        if built.program is None and built.absent:
            missing.append(f"input validator `{source.name}` was not run: {built.absent}" + (f" ({built.cause})" if built.cause else ""))
            return None
        return self._program(source, "input validator", built)

    def _own(self, source: Source, what: str) -> Program:
        built = self._builder.build(source, limits=self.problem.limits)
        if built.program is not None and built.program.rejects is not None:
            raise PackageError(f"{what} `{source.name}` is a script that checks inputs and nothing else")
        return self._program(source, what, built)

    def _program(self, source: Source, what: str, built: Built) -> Program:
        if built.program is not None:
            return built.program
        if built.absent:
            raise PackageError(f"{what} `{source.name}` cannot be built: {built.absent}", hint=built.cause or None)
        # Whoever shows the error shows what a program of the package printed.
        origin = clean_text("\n".join(built.output.strip().split("\n")[:20]).encode(errors="replace"))
        hint = f"`{source.left_out[0]}` was not read, its link leads out of the package; `--follow DIR` names where links may lead" if source.left_out else None
        raise PackageError(f"{what} `{source.name}` cannot be built: {built.cause}", origin=origin or None, hint=hint)

    def _grade(self, group: Group, outcomes: Sequence[Outcome]) -> GroupResult:
        return grade_group(group, outcomes, self._ask if self._grader is not None else None)

    def _ask(self, results: Sequence[tuple[Code, float]], flags: tuple[str, ...]) -> tuple[Code, float | None, str]:
        """Have the package's grader say what comes of a group."""
        assert self._grader is not None
        graded = self._grader.grade(results, flags)
        if graded.cause:
            self._doubts.append(graded.cause)
        return graded.code, graded.score, graded.cause


class _Handle:
    """A program ready to be run on the cases of a problem."""

    def __init__(self, runner: Runner, tools: RealTools) -> None:
        self._runner = runner
        self._tools = tools

    def judge(self, case: Case, limits: RunLimits) -> CaseResult:
        """Run it on one case and have the output checked."""
        return self._tools.judge(self._runner, case, limits)


__all__ = ["RealTools", "open_tools"]
