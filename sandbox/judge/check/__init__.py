"""Whether an output is right: `Checker`, what one says (`Checked`), and which one a problem has.

`default` compares tokens in this process, `validator` runs a package's programs, `inputs` is about the package's own data. A grader's Python function is
`task_check`'s.
"""

from __future__ import annotations

from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Protocol, Self

    from sandbox.audit.sinks import Sink
    from sandbox.judge.model import Program
    from sandbox.judge.problem import Case, Problem
    from sandbox.judge.running import Ran
    from sandbox.result import Result
else:
    Protocol = object


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a checker said of one output.

    Attributes:
        accepted: None where the checker came to no answer: that is a judge's error, whoever caused it.
        exit: its exit code, None where it is no program or did not exit.
        score: it gave, None for none; `multiplier` is a share of what the case is worth (2025-09).
        judge_message: for judges, `team_message` for contestants: untrusted text, cut.
        next_pass: the input of another pass, which it asks for.
        feedback: files that it left, by name, for its next pass.
        cause: why, in a person's words.
        failed: its sandbox could not be made, or it was late by the clock on the wall.
        result: of its run.
    """

    accepted: bool | None
    exit: int | None = None
    score: float | None = None
    multiplier: float | None = None
    judge_message: str = ""
    team_message: str = ""
    next_pass: bytes | None = None
    feedback: Mapping[str, bytes] = field(default_factory=dict)
    cause: str = ""
    failed: bool = False
    notes: tuple[str, ...] = ()
    result: Result | None = None


class Checker(Protocol):
    """Judges outputs; thread-safe. A context manager: leaving it ends what it keeps running."""

    def check(
        self,
        case: Case,
        output: bytes | os.PathLike[str],
        *,
        ran: Ran | None = None,
        given: bytes | None = None,
        feedback: Mapping[str, bytes] | None = None,
    ) -> Checked:
        """Return what is to be said of an output.

        Args:
            case: with input, answer and flags.
            output: what the submission printed, or a file that has it; hostile.
            ran: the run that it comes from, where there was one.
            given: the input of this pass, where it is not the case's own.
            feedback: what the pass before left.
        """

    def close(self) -> None:
        """End what it keeps running; idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...


def open_checker(problem: Problem, validators: Sequence[Program] = (), *, stage: str = "", audit: str | Sink | None = None) -> Checker:
    """Return the checker of a problem that is not interactive.

    Args:
        problem: what is judged.
        validators: its output validators as built; none means the default one.
        stage: host directory with the test data, which validators may read as a whole; without it they get copies of two files.
        audit: for denied system calls of validators.
    """
    if validators:
        from sandbox.judge.check.validator import ValidatorChecker

        return ValidatorChecker(validators, problem, stage=stage, audit=audit)
    from sandbox.judge.check.default import DefaultChecker

    return DefaultChecker(problem.format)


__all__ = ["Checked", "Checker", "open_checker"]
