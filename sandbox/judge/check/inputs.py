"""A package's input validators, each in a sandbox of its own: is an input what the problem says that inputs are?

The exit code 42 accepts. Any other, or a signal, rejects, as the format says: a validator may well end by a failed assertion. One that met a limit, or could
not be started, has said nothing. The tools of Checktestdata and VIVA have codes of their own for both; another one says that they had trouble, with the script
for example, and nothing of the input.
"""

from __future__ import annotations

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.case import read_tree
from sandbox.judge.check.feedback import DIRECTORY, clean_text
from sandbox.judge.check.validator import validation_limits
from sandbox.judge.running import Runner
from sandbox.record import dataclass
from sandbox.result import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from sandbox.audit.sinks import Sink
    from sandbox.judge.model import Program
    from sandbox.judge.problem import Case, Problem
    from sandbox.result import Result

_SAID = 500
_ENDED = (Verdict.OK, Verdict.NONZERO_EXIT, Verdict.SIGNALED)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputVerdict:
    """What one validator said of one input; `accepted` is None where it said nothing, `message` is what it printed, cut."""

    validator: str
    case: str
    accepted: bool | None
    cause: str = ""
    message: str = ""
    result: Result | None = None


class InputChecker:
    """A package's input validators; thread-safe. A context manager: leaving it ends what it keeps running."""

    def __init__(self, validators: Sequence[Program], problem: Problem, *, audit: str | Sink | None = None) -> None:
        self._limits = validation_limits(problem)
        # A working directory like an output validator's: nobody's business, in memory.
        self._runners = [Runner(each, audit=audit, home=DIRECTORY.rstrip("/")) for each in validators]

    def check(self, case: Case) -> tuple[InputVerdict, ...]:
        """Return what each validator says of a case's input: valid if all accept, properly invalid if at least one rejects."""
        return tuple(self._check(runner, case) for runner in self._runners)

    def _check(self, runner: Runner, case: Case) -> InputVerdict:
        name = runner.program.name
        program = runner.program
        flags = case.input_validator_flags if case.input_validator_flags_for is None else _flags_for(name, case)
        # A tool would take arguments for names of files.
        words = (*flags, *case.args) if program.rejects is None else ()
        try:
            files = read_tree(case.files) if case.files else {}
            room = sum(map(len, files.values())) + (1 << 20)
            ran = runner.run(case.input, self._limits, args=words, files=files or None, home_bytes=room)
        except (PolicyError, UnsupportedError):
            raise
        except SandboxError as error:
            return InputVerdict(validator=name, case=case.name, accepted=None, cause=str(error))
        except OSError as error:
            return InputVerdict(validator=name, case=case.name, accepted=None, cause=f"`{error.filename}`: {error.strerror}")
        result = ran.result
        said = clean_text(ran.stdout + b"\n" + ran.stderr, _SAID).strip()
        accepted = result.exit_code == program.accepts and result.signal is None
        trouble = program.rejects is not None and not accepted and (result.exit_code != program.rejects or result.signal is not None)
        if result.verdict not in _ENDED or trouble:
            return InputVerdict(
                validator=name, case=case.name, accepted=None, cause=f"{result.cause} ({result.verdict})", message=said, result=result
            )
        ended_well = program.rejects is None and result.exit_code == 0  # what most programs mean by 0 is not what it means here
        cause = "" if accepted else f"{result.cause}, and only {program.accepts} accepts" if ended_well else result.cause
        return InputVerdict(validator=name, case=case.name, accepted=accepted, cause=cause, message=said, result=result)

    def close(self) -> None:
        """End the validators' servers; idempotent."""
        for runner in self._runners:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _flags_for(name: str, case: Case) -> tuple[str, ...]:
    """Return the flags of the validator that is called so; packages name a validator with or without its suffix."""
    given = case.input_validator_flags_for or {}
    base = name.rstrip("/").rpartition("/")[2]
    for spelled in (name, base, base.partition(".")[0]):
        if spelled in given:
            return given[spelled]
    return ()


def all_accept(verdicts: Sequence[InputVerdict]) -> bool | None:
    """Return whether an input is valid; None where nobody rejects it and somebody said nothing."""
    if any(each.accepted is False for each in verdicts):
        return False
    return None if any(each.accepted is None for each in verdicts) else True


__all__ = ["InputChecker", "InputVerdict", "all_accept"]
