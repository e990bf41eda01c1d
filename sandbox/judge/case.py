"""One submission on one test case: run, check, and again for as many passes as the validator asks for."""

from __future__ import annotations

import os

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.model import Code
from sandbox.judge.passes import Pass, failed_pass, judge_passes
from sandbox.judge.problem import Format
from sandbox.judge.verdict import PRECEDENCE, code_of, doubts, near_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.check import Checked, Checker
    from sandbox.judge.model import CaseResult, RunLimits
    from sandbox.judge.problem import Case, Problem
    from sandbox.judge.running import Ran, Runner

_FILE_BYTES = 64 << 20
_FILES = 1000
_DEPTH = 16


def judge_case(runner: Runner, checker: Checker, problem: Problem, case: Case, limits: RunLimits) -> CaseResult:
    """Run a submission on a case and return the verdict.

    Args:
        runner: the submission.
        checker: of the problem.
        problem: whose rules about passes and written files hold; not interactive.
        case: the case.
        limits: of each pass.

    Raises:
        PolicyError: the judge's own profile is wrong.
        UnsupportedError: the host cannot keep what it asks for.
    """
    return judge_passes(problem, case, lambda given, feedback: _run_pass(runner, checker, problem, case, limits, given, feedback))


def _run_pass(
    runner: Runner, checker: Checker, problem: Problem, case: Case, limits: RunLimits, given: bytes | None, feedback: Mapping[str, bytes]
) -> Pass:
    counted = problem.format is Format.V2025_09 and problem.allow_file_writing
    try:
        files = read_tree(case.files) if case.files else {}
        ran = runner.run(
            case.input if given is None else given,
            limits,
            args=case.args,
            files=files or None,
            collect=("**",) if counted else (),
            collect_bytes=limits.output_bytes + sum(map(len, files.values())),
            home_bytes=2 * limits.output_bytes + sum(map(len, files.values())) + (1 << 20) if counted else None,
        )
    except (PolicyError, UnsupportedError):
        raise
    except SandboxError as error:
        return failed_pass(f"run `{runner.program.name}`: {error.message}", failed=True)
    except OSError as error:
        return failed_pass(f"`{error.filename}`: {error.strerror}")
    code, flags, cause = code_of(ran.result, limits)
    if counted:
        code, flags, cause = _with_files(ran, limits, files, code, flags, cause)
    checked: Checked | None = None
    if code is Code.AC:
        checked = checker.check(case, ran.stdout, ran=ran, given=given, feedback=feedback)
        code, flags, cause = code_of(ran.result, limits, checked)
    return Pass(
        code=code, flags=flags, cause=cause, result=ran.result, cpu_ns=ran.result.usage.cpu_ns, stdout_bytes=len(ran.stdout), stderr=ran.stderr,
        checked=checked, near=near_limits(ran.result, limits), notes=doubts(ran.result, code, ran.stderr) if checked is None else checked.notes,
        failed=checked is not None and checked.failed,
    )  # fmt: skip


def _with_files(
    ran: Ran, limits: RunLimits, given: Mapping[str, bytes], code: Code, flags: tuple[Code, ...], cause: str
) -> tuple[Code, tuple[Code, ...], str]:
    """Count what is left in the working directory as output, where the problem lets submissions write files."""
    left = sum(len(content) for name, content in ran.result.files.items() if given.get(name) != content)
    total = ran.result.usage.output_bytes + left
    too_much = any(note.startswith("not collected: ") and " bytes, of " in note for note in ran.result.notes)
    if total <= limits.output_bytes and not too_much:
        return code, flags, cause
    flags = tuple(each for each in PRECEDENCE if each in (*flags, Code.OLE))
    told = f"standard output, standard error and files: {total} bytes{' and more' if too_much else ''}, limit {limits.output_bytes} bytes"
    return flags[0], flags, told if flags[0] is Code.OLE else cause


def read_tree(directory: str) -> dict[str, bytes]:
    """Return the regular files below a directory of the stage by relative name; links are not followed.

    Raises:
        OSError: one cannot be read, or it is more than a case may bring.
    """
    found: dict[str, bytes] = {}
    left = _FILE_BYTES
    pending = [("", 0)]
    while pending:
        below, depth = pending.pop()
        with os.scandir(os.path.join(directory, below)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False) and depth < _DEPTH:
                    pending.append((name, depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    with open(os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
                        found[name] = file.read(left + 1) or b""
                    left -= len(found[name])
                    if left < 0 or len(found) > _FILES:
                        raise OSError(7, f"more than {_FILE_BYTES} bytes or {_FILES} files", directory)
    return found


__all__ = ["judge_case", "read_tree"]
