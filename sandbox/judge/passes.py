"""The passes of a case: played one after another while the validator asks for more, then made one result. `case` and `interactive.case` play one each."""

from __future__ import annotations

from sandbox.judge.check.feedback import clean_text
from sandbox.judge.model import CaseResult, Code
from sandbox.judge.verdict import weaker_of
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.judge.check import Checked
    from sandbox.judge.problem import Case, Problem
    from sandbox.result import Result

_STDERR = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass, judged.

    Attributes:
        code: the verdict; `flags`, `cause`, `failed`, `notes`, `near`, `blame` and `transcript` as in `CaseResult`.
        result: of the submission's run, None where the sandbox failed.
        cpu_ns: its CPU time, as far as it counts; `own_ns` likewise, see `CaseResult`.
        ours: we ended it, so how it ended says nothing.
        stdout_bytes: what it printed; `stderr` is what it printed there.
        checked: what a checker said, None where none was asked.
    """

    code: Code
    flags: tuple[Code, ...] = ()
    cause: str = ""
    result: Result | None = None
    cpu_ns: int = 0
    own_ns: int | None = None
    ours: bool = False
    stdout_bytes: int = 0
    stderr: bytes = b""
    checked: Checked | None = None
    near: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    blame: str = ""
    transcript: tuple[str, ...] = ()
    failed: bool = False


UNREAD = "the output validator asks for another pass by `nextpass.in`, and the problem is not `multi-pass`: there was none"
"""A note: half of the problem may be missing."""


def failed_pass(cause: str, *, failed: bool = False) -> Pass:
    """Return a pass in which the judge failed, or something of the package, and nothing ran; `failed` as in `CaseResult`."""
    return Pass(code=Code.JE, flags=(Code.JE,), cause=cause, failed=failed)


def judge_passes(problem: Problem, case: Case, play: Callable[[bytes | None, Mapping[str, bytes]], Pass], *, blame: str = "") -> CaseResult:
    """Play passes until one is not accepted or asks for no other, and return what they come to.

    Args:
        problem: whose rules about passes hold.
        case: the case.
        play: plays one, given its input (None is the case's own) and the files that the validator left in the pass before.
        blame: whose failure it is where more passes are asked for than there may be.
    """
    passes = [play(None, {})]
    while problem.multi_pass and passes[-1].code is Code.AC and (checked := passes[-1].checked) is not None and checked.next_pass is not None:
        if len(passes) >= max(1, problem.limits.validation_passes):
            cause = f"the output validator asks for more passes than {problem.limits.validation_passes}"
            passes[-1] = replace(passes[-1], code=Code.JE, flags=(Code.JE,), cause=cause, blame=blame)
            break
        passes.append(play(checked.next_pass, checked.feedback))
    found = _sum_up(case, passes)
    asked = passes[-1].checked
    if not problem.multi_pass and asked is not None and asked.next_pass is not None:
        found = replace(found, notes=(*found.notes, UNREAD))
    return found


def _sum_up(case: Case, passes: list[Pass]) -> CaseResult:
    """Make a result of all passes: verdict, score and words of the last, figures of the largest."""
    last = passes[-1]
    told = f"pass {len(passes)}: {last.cause}" if len(passes) > 1 and last.cause else last.cause
    found = CaseResult(
        case=case.name, code=last.code, flags=last.flags, cause=told, failed=last.failed, passes=len(passes), blame=last.blame,
        notes=tuple(dict.fromkeys(note for each in passes for note in each.notes)),
    )  # fmt: skip
    if last.result is None:
        return found
    results = [each.result for each in passes if each.result is not None]
    denials: dict[str, int] = {}
    for each in results:
        for name, count in each.denials.items():
            denials[name] = denials.get(name, 0) + count
    result, checked = last.result, last.checked
    if checked is not None:
        found = replace(
            found, score=checked.score, multiplier=checked.multiplier, validator_exit=checked.exit, judge_message=checked.judge_message,
            team_message=checked.team_message,
        )  # fmt: skip
    return replace(
        found,
        cpu_ns=max(each.cpu_ns for each in passes),
        wall_ns=max(each.usage.wall_ns for each in results),
        own_ns=max((each.own_ns for each in passes if each.own_ns is not None), default=None),
        memory_bytes=max((each.usage.memory_peak_bytes for each in results if each.usage.memory_peak_bytes is not None), default=None),
        memory_source=result.usage.memory_source,
        exit_code=None if last.ours else result.exit_code,
        signal=None if last.ours else result.signal,
        denials=denials,
        evidence=result.evidence,
        near=tuple(dict.fromkeys(limit for each in passes for limit in each.near)),
        transcript=_transcript(passes),
        stdout_bytes=sum(each.stdout_bytes for each in passes),
        stderr=clean_text(last.stderr, _STDERR),
        weaker=weaker_of(result),
    )


def _transcript(passes: list[Pass]) -> tuple[str, ...]:
    lines: list[str] = []
    for number, each in enumerate(passes, 1):
        if len(passes) > 1 and each.transcript:
            lines.append(f"pass {number}")
        lines += each.transcript
    return tuple(lines)


__all__ = ["UNREAD", "Pass", "failed_pass", "judge_passes"]
