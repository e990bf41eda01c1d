"""Problems of the type ``submit-answer`` (2025-09): a submission is files with answers. Nothing of it runs; the checker judges each as an output.

The format says no more than that, and no word of names. Here the answer of case ``secret/group/01`` is the file ``secret/group/01.out``, else ``group/01.out``,
else ``01.out``; ``.ans``, ``.txt`` or no ending do as well. A submission of one file that is named for no case is the answer of every case.

`pipeline.tools` uses it. Contents are a contestant's: they are bytes for the checker, here they are counted and nothing else.
"""

from __future__ import annotations

from sandbox.judge.model import CaseResult, Code
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sandbox.judge.check import Checker
    from sandbox.judge.model import RunLimits
    from sandbox.judge.problem import Case

ANSWERS = "answers"
"""What stands for the language of such a submission."""

_ENDINGS = (".out", ".ans", ".txt", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A submission's answers, ready to be judged case by case. Thread-safe if the checker is.

    Attributes:
        files: contents by name.
        checker: says whether an answer is right; borrowed.
        for_all: of the only file, the contents, where it answers every case.
    """

    files: Mapping[str, bytes]
    checker: Checker
    for_all: bytes | None = None

    def judge(self, case: Case, limits: RunLimits) -> CaseResult:
        """Return the verdict about the answer of a case. Of the limits the one of output holds."""
        given = next((self.files[name] for name in _names(case.name) if name in self.files), self.for_all)
        if given is None:
            last = case.name.rpartition("/")[2]
            return _judged(case, Code.WA, f"no answer to this case: none of its files is called `{last}.out`")
        if len(given) > limits.output_bytes:
            return _judged(case, Code.OLE, f"an answer of {len(given)} bytes, limit {limits.output_bytes} bytes", given)
        checked = self.checker.check(case, given)
        code = {True: Code.AC, False: Code.WA, None: Code.JE}[checked.accepted]
        return CaseResult(
            case=case.name, code=code, flags=() if code is Code.AC else (code,), cause=checked.cause, score=checked.score, multiplier=checked.multiplier,
            validator_exit=checked.exit, judge_message=checked.judge_message, team_message=checked.team_message, stdout_bytes=len(given), notes=checked.notes,
        )  # fmt: skip


def open_answers(files: Mapping[str, bytes], cases: Iterable[Case], checker: Checker) -> Answers:
    """Return a submission's answers.

    Args:
        files: of the submission.
        cases: all cases of the problem.
        checker: of the problem.
    """
    named = len(files) != 1 or any(name in files for case in cases for name in _names(case.name))
    return Answers(files=files, checker=checker, for_all=None if named else next(iter(files.values())))


def _names(case: str) -> Iterator[str]:
    """Yield what the file of a case may be called, the fullest name first."""
    rest = case
    while rest:
        yield from (rest + ending for ending in _ENDINGS)
        rest = rest.partition("/")[2]


def _judged(case: Case, code: Code, cause: str, given: bytes = b"") -> CaseResult:
    return CaseResult(case=case.name, code=code, flags=(code,), cause=cause, stdout_bytes=len(given))


__all__ = ["ANSWERS", "Answers", "open_answers"]
