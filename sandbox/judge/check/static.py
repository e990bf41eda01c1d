"""A package's static validator (2025-09): a program that looks at a submission's files and accepts or rejects them, in a sandbox of its own.

It is called with the language, the entry point and a feedback directory, the submission's files being its working directory; what it says, it says as an output
validator does. Source: Problem package format, ``2025-09``, static validator.
"""

from __future__ import annotations

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.check.validator import judge_validator, validation_limits
from sandbox.judge.grading import static_case
from sandbox.judge.model import CaseResult, Code
from sandbox.judge.running import Runner
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from sandbox.audit.sinks import Sink
    from sandbox.judge.model import Program
    from sandbox.judge.problem import Group, Problem, Submission

WORK = "/judge/submission"
FEEDBACK = ".feedback-of-the-judge"
_ROOM_BYTES = 1 << 20


class StaticChecker:
    """A package's static validator; thread-safe. A context manager: leaving it ends what it keeps running."""

    def __init__(self, program: Program, problem: Problem, *, audit: str | Sink | None = None) -> None:
        self._problem = problem
        self._runner = Runner(program, audit=audit, home=WORK)

    def check(self, submission: Submission, language: str, entrypoint: str, group: Group) -> CaseResult:
        """Return what is to be said of a submission's files.

        Args:
            submission: whose.
            language: its id.
            entrypoint: where its program starts.
            group: that asks for it, with its arguments.
        """
        name = static_case(group)
        # What the submission brought is no feedback, wherever it lies.
        files = {path: content for path, content in submission.files.items() if not path.startswith(".")} | {f"{FEEDBACK}/.keep": b""}
        limits = validation_limits(self._problem)
        room = limits.output_bytes + sum(map(len, files.values()))
        words = (language, entrypoint, f"{WORK}/{FEEDBACK}/", *group.grading.static_validator_args)
        try:
            ran = self._runner.run(
                b"", limits, args=words, files=files, collect=(f"{FEEDBACK}/**",), collect_bytes=room, home_bytes=room + _ROOM_BYTES
            )
        except (PolicyError, UnsupportedError):
            raise
        except SandboxError as error:
            return CaseResult(case=name, code=Code.JE, flags=(Code.JE,), cause=f"static validator: {error}")
        left = {path.removeprefix(f"{FEEDBACK}/"): content for path, content in ran.result.files.items() if path != f"{FEEDBACK}/.keep"}
        notes = tuple(note.replace(f"`{FEEDBACK}/", "`", 1) for note in ran.result.notes)
        checked = judge_validator("static validator", replace(ran.result, files=left, notes=notes), self._problem, stderr=ran.stderr, given={})
        code = {True: Code.AC, False: Code.WA, None: Code.JE}[checked.accepted]
        return CaseResult(
            case=name,
            code=code,
            flags=() if code is Code.AC else (code,),
            cause=checked.cause,
            score=checked.score,
            multiplier=checked.multiplier,
            validator_exit=checked.exit,
            judge_message=checked.judge_message,
            team_message=checked.team_message,
            notes=checked.notes,
        )

    def close(self) -> None:
        """End the validator's server; idempotent."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


__all__ = ["FEEDBACK", "WORK", "StaticChecker"]
