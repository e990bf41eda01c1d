"""Tests that talk with a running program, or call functions of it, from a function of the author's outside of any sandbox."""

from __future__ import annotations

import linecache
import os
from contextlib import ExitStack

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.dialogue import Closed, Dialogue, Flooded
from sandbox.judge.model import PROGRAM_DIRECTORY, Code
from sandbox.judge.remote import Student, StudentError, TestError, begin
from sandbox.judge.remote_inside import DRIVER
from sandbox.judge.task_call import Left
from sandbox.judge.task_check import Judged, Outcome, describe, read_answer
from sandbox.judge.task_run import code_of_judged, failed, limits_of, make_result, settle_exit
from sandbox.judge.verdict import code_of
from sandbox.record import replace
from sandbox.result import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.background import BackgroundRun
    from sandbox.api.direct import DirectRun
    from sandbox.judge.model import Program, RunLimits
    from sandbox.judge.running import Runner
    from sandbox.judge.task_parts import Test
    from sandbox.judge.task_result import TestResult
    from sandbox.judge.task_run import Rules

_ANSWER_BYTES = 64 << 20
_LIMITS = (Verdict.CPU_LIMIT, Verdict.WALL_LIMIT, Verdict.IDLE_LIMIT, Verdict.MEMORY_LIMIT, Verdict.OUTPUT_LIMIT, Verdict.DENIED_SYSCALL)
"""What ended a program before a failed assertion could."""


def driven(program: Program) -> Program | None:
    """Return a program that loads a Python submission and answers calls, None where it is not Python."""
    files = [word for word in program.command if word.startswith(PROGRAM_DIRECTORY + "/") and word.endswith(".py")]
    if not files or not program.language.startswith(("python", "pypy")):
        return None
    return replace(program, command=(program.command[0], "-c", DRIVER, files[-1]))


def run_call(test: Test, rules: Rules, runner: Runner) -> TestResult:
    """Call functions of the submission; `runner` has what `driven` returned."""
    call = test.call
    assert call is not None and isinstance(test.stdin, bytes)
    stdin = test.stdin

    def function(talk: Dialogue) -> object:
        answer = call(Student(begin(talk, stdin)))
        return True if answer is None else answer

    return _converse(test, rules, runner, function, quiet=True)


def run_talk(test: Test, rules: Rules, runner: Runner) -> TestResult:
    """Talk with the program."""
    talk = test.talk
    assert talk is not None and isinstance(test.stdin, bytes)
    stdin = test.stdin

    def function(dialogue: Dialogue) -> object:
        if stdin:
            dialogue.write(stdin)
        answer = talk(dialogue)
        return True if answer is None else answer

    return _converse(test, rules, runner, function, quiet=False)


def _converse(test: Test, rules: Rules, runner: Runner, function: Callable[[Dialogue], object], *, quiet: bool) -> TestResult:
    """Run the program beside the function. What happened first counts: a failed assertion before the program's end, and the end before what it made fail."""
    limits = limits_of(test, rules, runner.program)
    judged: Judged | None = None
    code, cause = Code.AC, ""
    process: BackgroundRun | None = None
    try:
        dialogue, process = _start(test, runner, limits, _ANSWER_BYTES if quiet else limits.output_bytes)
        with ExitStack() as closing:
            closing.callback(dialogue.close)
            try:
                judged = read_answer(rules.call(lambda: function(dialogue), dialogue.close))
            except Left:
                closing.pop_all()  # the function may be using it
                raise
            except Closed as error:
                cause = str(error)
            except StudentError as error:
                code, cause = Code.RTE, f"raised {error}"
                judged = Judged(outcome=Outcome(fraction=0.0, message=cause, private=error.traceback))
            except (TestError, SystemExit) as error:
                judged = Judged(outcome=None, cause=f"the test is wrong: {describe(error)}")
            except Flooded:
                code, cause, judged = _flooded(limits)
            except AssertionError as error:
                judged = Judged(outcome=Outcome(fraction=0.0, message=_assertion(error)))
            except Exception as error:
                judged = Judged(outcome=Outcome(fraction=0.0, message="the test could not be finished", private=describe(error)))
            if judged is None or _passed(judged):
                try:
                    dialogue.close_input()
                    dialogue.drain()
                except Flooded:
                    code, cause, judged = _flooded(limits)
            if judged is None or _passed(judged):
                result = process.wait()
                given = code_of(result, limits)
            else:  # the program has lost; what it would do with the end of its input is of no interest
                process.kill()
                result = process.wait()
                given = code_of(result, limits) if result.verdict in _LIMITS else (Code.AC, (), "")
    except (PolicyError, UnsupportedError):
        raise
    except SandboxError as error:
        return failed(test, Code.JE, f"run `{runner.program.name}`: {error.message}")
    finally:
        if process is not None and not process.ended:  # interrupted
            process.kill()
            process.join()
    _, flags, why = settle_exit(test, result, *given)
    if judged is None:  # it ended in the middle
        judged = Judged(outcome=Outcome(fraction=0.0, message=f"ended before the test did: {cause}"))
    if judged.outcome is None:
        flags, why = (Code.JE,), judged.cause
    elif not flags:
        _, flags, why = code_of_judged(judged)
        if code is not Code.AC:
            flags, why = (code,), cause
    transcript = () if quiet else tuple(dialogue.transcript)
    final = Code.JE if Code.JE in flags else flags[0] if flags else Code.AC
    made = make_result(test, final, flags, why, judged, result, limits, stderr=result.stderr or b"", transcript=transcript)
    if code is final and judged.outcome is not None:
        return replace(made, message=judged.outcome.message, private=judged.outcome.private)
    return made


def _start(test: Test, runner: Runner, limits: RunLimits, most: int) -> tuple[Dialogue, BackgroundRun]:
    """Start the program between two pipes."""
    theirs: list[int] = []
    ours: list[int] = []
    direct: DirectRun | None = None
    try:
        for side in (0, 1):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            theirs.append((reader, writer)[side])
            ours.append((writer, reader)[side])
        files = {name: contents for name, contents in test.files.items() if isinstance(contents, bytes)}
        direct = runner.direct(limits, stdin=theirs[0], stdout=theirs[1], args=tuple(test.args), files=files or None)
        direct.wait_for_start()
    except BaseException:
        for fd in ours:
            os.close(fd)
        if direct is not None:
            direct.run.kill()
            direct.run.join()
            direct.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    direct.close()
    return Dialogue(ours[0], ours[1], most), direct.run


def _flooded(limits: RunLimits) -> tuple[Code, str, Judged]:
    cause = f"printed more than {limits.output_bytes} bytes"
    return Code.OLE, cause, Judged(outcome=Outcome(fraction=0.0, message=cause))


def _passed(judged: Judged) -> bool:
    """Whether how the program ends still matters."""
    return judged.outcome is not None and judged.outcome.fraction > 0


def _assertion(error: AssertionError) -> str:
    """Return an assertion's message, else the line that made it."""
    if str(error):
        return str(error)[:2000]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip() if trace is not None else ""
    return f"failed: {line}"[:400] if line else "an assertion failed"
