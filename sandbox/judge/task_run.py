"""One test of a `Task`: run it, judge it, and return what came of it.

Nothing that is expected enters a sandbox: outputs are compared here, checkers are called here, and functions of a submission are called from here.
"""

from __future__ import annotations

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.check.default import compare, parse_flags
from sandbox.judge.model import CaseResult, Code, RunLimits
from sandbox.judge.running import cut_of, wall_limit_of
from sandbox.judge.task_call import Caller, call_here
from sandbox.judge.task_check import Judged, Outcome, Output, call_checker
from sandbox.judge.task_result import TestResult
from sandbox.judge.verdict import PRECEDENCE, code_of, doubts, near_limits
from sandbox.record import dataclass
from sandbox.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.judge.model import Program
    from sandbox.judge.running import Runner
    from sandbox.judge.task_parts import Part, Test
    from sandbox.result import Result

_IDLE_EXTRA_NS = 2_000_000_000
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for every test of a task; its `Task` has checked it.

    `patience` is what wall and idle limits that nobody stated are multiplied with, `call` how functions of the author's are called.
    """

    time_limit: float
    wall_limit: float | None
    memory_bytes: int
    output_bytes: int
    processes: int | None
    checker: object
    flags: str
    parts: Mapping[str, Part]
    pipes: Sequence[tuple[str, str]]
    referee: str
    patience: int = 1
    call: Caller = call_here


def limits_of(test: Test, rules: Rules, program: Program) -> RunLimits:
    """Return the limits of a test's run; what a language's runtime needs besides is the runner's to add."""
    seconds = rules.time_limit if test.time_limit is None else test.time_limit
    cpu_ns = int(seconds * program.time_factor * _SECOND)
    cut_ns = cut_of(cpu_ns)
    wall_ns = wall_limit_of(cpu_ns) * rules.patience if rules.wall_limit is None else int(rules.wall_limit * _SECOND)
    return RunLimits(
        cpu_ns=cpu_ns,
        cpu_cut_ns=cut_ns,
        wall_ns=wall_ns,
        memory_bytes=rules.memory_bytes if test.memory_limit is None else parse_size(test.memory_limit, where=f"test `{test.name}`"),
        output_bytes=rules.output_bytes,
        processes=program.processes if rules.processes is None else rules.processes,
        idle_ns=(cut_ns + _IDLE_EXTRA_NS) * rules.patience if rules.wall_limit is None else wall_ns,
    )


def run_plain(test: Test, rules: Rules, runner: Runner) -> TestResult:
    """Run a program on an input and judge what it printed and wrote.

    Raises:
        PolicyError: the judge's own profile is wrong.
        UnsupportedError: the host cannot keep what it asks for.
    """
    limits = limits_of(test, rules, runner.program)
    try:
        ran = runner.run(
            _bytes(test.stdin), limits, args=test.args, files=_files(test.files) or None, collect=(*test.collect, *test.expected_files),
            collect_bytes=limits.output_bytes,
        )  # fmt: skip
    except (PolicyError, UnsupportedError):
        raise
    except SandboxError as error:
        return failed(test, Code.JE, f"run `{runner.program.name}`: {error.message}")
    code, flags, cause = settle_exit(test, ran.result, *code_of(ran.result, limits))
    judged = Judged(outcome=Outcome(fraction=0.0))
    if not flags:
        judged = judge_output(test, rules, ran.result, ran.stdout, ran.stderr)
        code, flags, cause = code_of_judged(judged)
    return make_result(test, code, flags, cause, judged, ran.result, limits, stdout=ran.stdout, stderr=ran.stderr)


def settle_exit(test: Test, result: Result, code: Code, flags: tuple[Code, ...], cause: str) -> tuple[Code, tuple[Code, ...], str]:
    """Return a verdict in which the exit code that the test calls right is no failure, and another is one."""
    if test.exit_code == 0 or result.signal is not None or any(flag is not Code.NZE for flag in flags):
        return code, flags, cause
    if test.exit_code is None or result.exit_code == test.exit_code:
        return Code.AC, (), ""
    wrong = Code.NZE if result.exit_code else Code.WA
    return wrong, (wrong,), f"exit {result.exit_code}, {test.exit_code} is right"


def judge_output(test: Test, rules: Rules, result: Result, stdout: bytes, stderr: bytes) -> Judged:
    """Ask the checker, or compare, where the program ended as it should."""
    checker = test.checker or rules.checker
    output = Output(
        stdout=stdout, stderr=stderr, files=result.files, exit_code=result.exit_code, stdin=_bytes(test.stdin), args=tuple(test.args), name=test.name,
        expected=None if test.expected is None else _bytes(test.expected),
    )  # fmt: skip
    if checker is not None:
        return rules.call(lambda: call_checker(checker, output))  # type: ignore[arg-type]
    return compare_output(output, _files(test.expected_files), test.flags or rules.flags)


def compare_output(output: Output, files: Mapping[str, bytes], flags: str) -> Judged:
    """Compare standard output and files with what is expected of them, as far as anything is."""
    asked = parse_flags(flags.split())
    pairs = [("", output.stdout, output.expected)] if output.expected is not None else []
    pairs += [(name, output.files[name], expected) for name, expected in files.items() if name in output.files]
    for name in files:
        if name not in output.files:
            return Judged(outcome=Outcome(fraction=0.0, message=f"file `{name}` was not written"))
    for name, found, expected in pairs:
        assert expected is not None
        difference = compare(found, expected, asked)
        if difference is not None:
            return Judged(outcome=Outcome(fraction=0.0, message=f"`{name}`, {difference}" if name else str(difference)))
    return Judged(outcome=Outcome(fraction=1.0))


def code_of_judged(judged: Judged) -> tuple[Code, tuple[Code, ...], str]:
    """Return the verdict, its flags and its cause that an answer means."""
    if judged.outcome is None:
        return Code.JE, (Code.JE,), judged.cause
    if judged.outcome.fraction >= 1:
        return Code.AC, (), ""
    partly = f"{judged.outcome.fraction:.3g} of the points" if judged.outcome.fraction else "not the right answer"
    return Code.WA, (Code.WA,), judged.outcome.message or judged.outcome.private or partly


def make_result(
    test: Test, code: Code, flags: tuple[Code, ...], cause: str, judged: Judged, result: Result, limits: RunLimits, *,
    stdout: bytes = b"", stderr: bytes = b"", transcript: tuple[str, ...] = (), notes: tuple[str, ...] = (), blame: str = "",
) -> TestResult:  # fmt: skip
    """Return what came of a test that ran; points are earned by AC and WA alone."""
    outcome = (
        judged.outcome if judged.outcome is not None and code in (Code.AC, Code.WA) else Outcome(fraction=1.0 if code is Code.AC else 0.0)
    )
    flags = tuple(each for each in PRECEDENCE if each in flags)
    case = CaseResult(
        case=test.name, code=code, flags=flags, cause=cause, cpu_ns=result.usage.cpu_ns, wall_ns=result.usage.wall_ns,
        memory_bytes=result.usage.memory_peak_bytes, memory_source=result.usage.memory_source, exit_code=result.exit_code, signal=result.signal,
        judge_message=outcome.private, team_message=outcome.message, denials=dict(result.denials), evidence=result.evidence,
        near=near_limits(result, limits), stdout_bytes=len(stdout), transcript=transcript, blame=blame, notes=(*doubts(result, code, stderr), *notes),
    )  # fmt: skip
    return TestResult(
        name=test.name, code=code, fraction=outcome.fraction, points=outcome.fraction * (test.points or 0.0), max_points=test.points or 0.0,
        hidden=test.hidden, group=test.group, hint=test.hint, cause=cause, message=outcome.message, private=outcome.private, stdin=_bytes(test.stdin),
        expected=None if test.expected is None else _bytes(test.expected), stdout=stdout, stderr=stderr, files=result.files, transcript=transcript,
        case=case,
    )  # fmt: skip


def failed(test: Test, code: Code, cause: str, *, skipped: str = "") -> TestResult:
    """Return what came of a test that did not run."""
    return TestResult(
        name=test.name, code=code, max_points=test.points or 0.0, hidden=test.hidden, group=test.group, hint=test.hint, cause=cause, skipped=skipped,
        stdin=_bytes(test.stdin), expected=None if test.expected is None else _bytes(test.expected),
    )  # fmt: skip


def _bytes(contents: object) -> bytes:
    """What `settle_test` has read."""
    assert isinstance(contents, bytes)
    return contents


def _files(files: Mapping[str, object]) -> dict[str, bytes]:
    return {name: _bytes(contents) for name, contents in files.items()}
