"""One submission on one test case: run, check, and again for as many passes as the validator asks for."""

from __future__ import annotations

import os

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.check.feedback import clean_text
from sandbox.judge.model import CaseResult, Code
from sandbox.judge.problem import Format
from sandbox.judge.verdict import PRECEDENCE, code_of, doubts, near_limits, weaker_of
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.judge.check import Checked, Checker
    from sandbox.judge.model import RunLimits
    from sandbox.judge.problem import Case, Problem
    from sandbox.judge.running import Ran, Runner

_STDERR = 2000
_FILE_BYTES = 64 << 20
_FILES = 1000
_DEPTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One pass, judged: what ran (None where the sandbox failed) and what was said of it."""

    code: Code
    flags: tuple[Code, ...]
    cause: str
    ran: Ran | None = None
    checked: Checked | None = None
    notes: tuple[str, ...] = ()


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
    passes: list[_Pass] = []
    given: bytes | None = None
    feedback: Mapping[str, bytes] = {}
    while True:
        judged = _run_pass(runner, checker, problem, case, limits, given, feedback)
        passes.append(judged)
        checked = judged.checked
        wanted = checked.next_pass if checked is not None and problem.multi_pass else None
        if judged.code is not Code.AC or wanted is None:
            break
        if len(passes) >= max(1, problem.limits.validation_passes):
            cause = f"the output validator asks for more passes than {problem.limits.validation_passes}"
            passes[-1] = replace(judged, code=Code.JE, flags=(Code.JE,), cause=cause)
            break
        assert checked is not None
        given, feedback = wanted, {name: content for name, content in checked.feedback.items() if not name.endswith("nextpass.in")}
    return _sum_up(case, limits, passes)


def _run_pass(
    runner: Runner, checker: Checker, problem: Problem, case: Case, limits: RunLimits, given: bytes | None, feedback: Mapping[str, bytes]
) -> _Pass:
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
        return _Pass(code=Code.JE, flags=(Code.JE,), cause=f"run `{runner.program.name}`: {error}")
    except OSError as error:
        return _Pass(code=Code.JE, flags=(Code.JE,), cause=f"`{error.filename}`: {error.strerror}")
    code, flags, cause = code_of(ran.result, limits)
    if counted:
        code, flags, cause = _with_files(ran, limits, files, code, flags, cause)
    if code is not Code.AC:
        return _Pass(code=code, flags=flags, cause=cause, ran=ran, notes=doubts(ran.result, code, ran.stderr))
    checked = checker.check(case, ran.stdout, ran=ran, given=given, feedback=feedback)
    code, flags, cause = code_of(ran.result, limits, checked)
    return _Pass(code=code, flags=flags, cause=cause, ran=ran, checked=checked, notes=checked.notes)


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


def _sum_up(case: Case, limits: RunLimits, passes: Sequence[_Pass]) -> CaseResult:
    """Make a result of all passes: verdict, score and words of the last, figures of the largest."""
    last = passes[-1]
    results = [each.ran.result for each in passes if each.ran is not None]
    checked = last.checked
    notes = [note for each in passes for note in each.notes]
    if last.ran is None or not results:
        return CaseResult(case=case.name, code=last.code, flags=last.flags, cause=last.cause, passes=len(passes), notes=tuple(notes))
    result = last.ran.result
    peaks = [each.usage.memory_peak_bytes for each in results if each.usage.memory_peak_bytes is not None]
    denials: dict[str, int] = {}
    for each in results:
        for name, count in each.denials.items():
            denials[name] = denials.get(name, 0) + count
    near = dict.fromkeys(limit for each in results for limit in near_limits(each, limits))
    told = f"pass {len(passes)}: {last.cause}" if len(passes) > 1 and last.cause else last.cause
    return CaseResult(
        case=case.name,
        code=last.code,
        flags=last.flags,
        cause=told,
        cpu_ns=max(each.usage.cpu_ns for each in results),
        wall_ns=max(each.usage.wall_ns for each in results),
        memory_bytes=max(peaks, default=None),
        memory_source=result.usage.memory_source,
        exit_code=result.exit_code,
        signal=result.signal,
        score=checked.score if checked is not None else None,
        multiplier=checked.multiplier if checked is not None else None,
        validator_exit=checked.exit if checked is not None else None,
        judge_message=checked.judge_message if checked is not None else "",
        team_message=checked.team_message if checked is not None else "",
        denials=denials,
        evidence=result.evidence,
        near=tuple(near),
        passes=len(passes),
        stdout_bytes=len(last.ran.stdout),
        stderr=clean_text(last.ran.stderr, _STDERR),
        notes=tuple(dict.fromkeys(notes)),
        weaker=weaker_of(result),
    )


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
