"""A legacy package's own grader, in a sandbox: one line for each result on standard input, one line on standard output, exit code 0."""

from __future__ import annotations

import re

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.check.feedback import clean_text
from sandbox.judge.check.validator import validation_limits
from sandbox.judge.model import Code
from sandbox.judge.running import Runner
from sandbox.judge.verdict import WORDS
from sandbox.record import dataclass
from sandbox.result import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from sandbox.audit.sinks import Sink
    from sandbox.judge.model import Program
    from sandbox.judge.problem import Problem

_LONGEST = 1000
_LINE = re.compile(rb"\s*(AC|WA|TLE|RTE|MLE|OLE|JE)\s+([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What a grader said: a verdict and a score; `Code.JE` with a cause where it said nothing that could be used."""

    code: Code
    score: float | None = None
    cause: str = ""


class GraderProgram:
    """A package's grader; thread-safe. A context manager: leaving it ends what it keeps running."""

    def __init__(self, program: Program, problem: Problem, *, audit: str | Sink | None = None) -> None:
        self._limits = validation_limits(problem)
        self._runner = Runner(program, audit=audit)

    def grade(self, results: Sequence[tuple[Code, float | None]], flags: Sequence[str] = ()) -> Graded:
        """Return what the grader makes of the results of a group's cases and groups, in their order.

        It is told the format's four verdicts only. The score of what is not accepted is ignored, as the format says.
        """
        name = f"grader `{self._runner.program.name}`"
        told = "".join(f"{WORDS[code]} {0.0 if score is None else float(score)!r}\n" for code, score in results)
        try:
            ran = self._runner.run(told.encode(), self._limits, args=tuple(flags))
        except (PolicyError, UnsupportedError):
            raise
        except SandboxError as error:
            return Graded(code=Code.JE, cause=f"{name}: {error}")
        if ran.result.verdict is not Verdict.OK:
            said = clean_text(ran.stderr, _SHOWN).strip()
            return Graded(code=Code.JE, cause=f"{name}: {ran.result.cause} ({ran.result.verdict})" + (f": {said}" if said else ""))
        found = _LINE.fullmatch(ran.stdout) if len(ran.stdout) <= _LONGEST else None
        if found is None:
            return Graded(code=Code.JE, cause=f"{name} printed no verdict and score but {clean_text(ran.stdout, _SHOWN)!r}")
        code, score = Code(found[1].decode()), float(found[2])
        if score in (float("inf"), float("-inf")):
            return Graded(code=Code.JE, cause=f"{name} printed a score that no number holds: {clean_text(found[2], _SHOWN)}")
        return Graded(code=code, score=score if code is Code.AC else None)

    def close(self) -> None:
        """End the grader's server; idempotent."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


__all__ = ["Graded", "GraderProgram"]
