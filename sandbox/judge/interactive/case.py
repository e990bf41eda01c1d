"""One submission in dialogue with the output validator of an interactive problem, for as many passes as that asks for."""

from __future__ import annotations

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.case import read_tree
from sandbox.judge.check.feedback import DIRECTORY
from sandbox.judge.check.validator import ACCEPT, REJECT, Stage, judge_validator, validation_limits
from sandbox.judge.interactive.blame import SUBMISSION, VALIDATOR, Blamed, Referee, Side, blame
from sandbox.judge.interactive.graph import Party, PartyLimits, pair
from sandbox.judge.interactive.play import play
from sandbox.judge.interactive.played import Ending
from sandbox.judge.model import Code
from sandbox.judge.passes import Pass, failed_pass, judge_passes
from sandbox.judge.running import Runner
from sandbox.judge.verdict import code_of, doubts, near_limits
from sandbox.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from sandbox.audit.sinks import Sink
    from sandbox.judge.check import Checked
    from sandbox.judge.interactive.played import Ended, Played
    from sandbox.judge.model import CaseResult, Program, RunLimits
    from sandbox.judge.problem import Case, Problem

_ROOM_BYTES = 1 << 20
_VALIDATOR_OWN_EXTRA_NS = 5_000_000_000
_TALK_FACTOR = 8
"""How many times `validation_output` a validator may say to a submission: the format counts that as output, the format's tools do not, and packages rely on
them. More than once is noted, more than this ends it."""


class Interactor:
    """Judges submissions of an interactive problem; thread-safe. A context manager: leaving it ends what it keeps running.

    Args:
        validator: the output validator, as built.
        problem: whose limits and rules hold.
        stage: host directory with the test data, which the validator may read as a whole; without it it gets copies of two files.
        audit: for denied system calls of the validator.
    """

    def __init__(self, validator: Program, problem: Problem, *, stage: str = "", audit: str | Sink | None = None) -> None:
        self._problem = problem
        self._stage = Stage(stage)
        self._runner = Runner(validator, audit=audit, volumes=self._stage.volumes, home=DIRECTORY.rstrip("/"))

    def judge(self, runner: Runner, case: Case, limits: RunLimits) -> CaseResult:
        """Let a submission talk with the validator about a case and return the verdict.

        Args:
            runner: the submission.
            case: the case.
            limits: of each pass. `wall_ns` and `idle_ns` are about time in which the submission does not wait for the validator.

        Raises:
            PolicyError: the judge's own profile is wrong.
            UnsupportedError: the host cannot keep what it asks for.
        """
        return judge_passes(
            self._problem, case, lambda given, feedback: self._play(runner, case, limits, given, feedback), blame=VALIDATOR
        )  # fmt: skip

    def _play(self, runner: Runner, case: Case, limits: RunLimits, given: bytes | None, feedback: Mapping[str, bytes]) -> Pass:
        problem, validation = self._problem, validation_limits(self._problem)
        name = f"output validator `{self._runner.program.name}`"
        try:
            words, files = self._stage.place(case, given)
            own = read_tree(case.files) if case.files else {}
        except OSError as error:
            return failed_pass(f"`{error.filename}`: {error.strerror}")
        files.update(feedback)
        room = validation.output_bytes + sum(map(len, files.values()))
        graph = pair(
            Party(
                name=SUBMISSION, program=runner.program, args=case.args, files=own,
                limits=PartyLimits(
                    cpu_ns=limits.cpu_cut_ns, own_ns=limits.wall_ns, idle_ns=limits.idle_ns, memory_bytes=limits.memory_bytes,
                    output_bytes=limits.output_bytes, processes=limits.processes,
                ),
            ),
            Party(
                name=VALIDATOR, program=self._runner.program, args=(*words, DIRECTORY, *case.output_validator_flags), files=files,
                limits=PartyLimits(
                    cpu_ns=validation.cpu_cut_ns, own_ns=validation.cpu_ns + _VALIDATOR_OWN_EXTRA_NS, memory_bytes=validation.memory_bytes,
                    output_bytes=_TALK_FACTOR * validation.output_bytes, processes=validation.processes,
                ),
                collect=("**",), collect_bytes=room, home_bytes=room + _ROOM_BYTES, patient=True,
            ),
            accepts=ACCEPT,
            rejects=REJECT,
        )  # fmt: skip
        try:
            played = play(graph, {SUBMISSION: runner, VALIDATOR: self._runner})
        except (PolicyError, UnsupportedError):
            raise
        except SandboxError as error:
            return failed_pass(f"`{runner.program.name}` with {name}: {error.message}", failed=True)
        ended = played.parties[VALIDATOR]
        checked = judge_validator(name, ended.result, problem, stderr=ended.result.stderr or b"", given=files)
        return _judged(played, _judge(played, limits, checked), problem, limits, checked)

    def close(self) -> None:
        """End the validator's server; idempotent."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def judge_interactive(submission: Program, validator: Program, problem: Problem, case: Case, limits: RunLimits) -> CaseResult:
    """Judge one submission on one case of an interactive problem; for many use an `Interactor`, which keeps what they have in common."""
    with Runner(submission) as runner, Interactor(validator, problem) as interactor:
        return interactor.judge(runner, case, limits)


def _judge(played: Played, limits: RunLimits, checked: Checked) -> Blamed:
    """Put together what `blame` asks for."""
    submission, validator = played.parties[SUBMISSION], played.parties[VALIDATOR]
    _, flags, cause = code_of(submission.result, limits)
    if submission.ending is not Ending.ITSELF:
        # Our signal is no condition of its own; what else held still does.
        flags = tuple(flag for flag in flags if flag not in (Code.JE, Code.RTE, Code.NZE))
        cause = _our_words(submission, limits)
    return blame(
        Side(flags=flags, cause=cause, ending=submission.ending, place=submission.place, told=submission.told),
        Referee(
            accepted=checked.accepted, cause=checked.cause, ending=validator.ending, place=validator.place, unread_bytes=validator.lost_bytes
        ),
        played.deadlock,
    )


def _our_words(ended: Ended, limits: RunLimits) -> str:
    """Return why we ended the submission."""
    own, idle, cpu = (f"{ns / 1e9:.3f} s" for ns in (ended.own_ns, ended.idle_ns, ended.result.usage.cpu_ns))
    if ended.meanwhile and ended.ending in (Ending.OWN_TIME, Ending.IDLE):
        bound = limits.wall_ns if ended.ending is Ending.OWN_TIME else limits.idle_ns or 0
        return f"ended after {own} (limit {bound / 1e9:g} s) in which it was to move: {ended.meanwhile}"
    if ended.ending is Ending.OWN_TIME:
        return f"ended after {own} without waiting for the validator (wall limit {limits.wall_ns / 1e9:g} s), {cpu} of CPU time used"
    if ended.ending is Ending.IDLE:
        return f"ended after {idle} in which it did nothing and did not wait for the validator (idle limit {(limits.idle_ns or 0) / 1e9:g} s)"
    if ended.ending is Ending.OUTPUT:
        return f"it wrote more than {limits.output_bytes} bytes to the validator"
    return ""


def _much_said(played: Played, problem: Problem) -> str:
    said, bound = played.parties[VALIDATOR].sent_bytes, problem.limits.validation_output_bytes
    return f"the validator said {format_size(said)} to the submission; `validation_output` is {format_size(bound)}" if said > bound else ""


def _near(ended: Ended, limits: RunLimits) -> list[str]:
    """Return the limits that the submission came near, of times those that count."""
    counted = ended.cpu_ns == ended.result.usage.cpu_ns
    near = [limit for limit in near_limits(ended.result, limits) if limit != "wall" and (counted or limit != "cpu")]
    if ended.ending is Ending.OWN_TIME or ended.own_ns > limits.wall_ns * 9 // 10:
        near.append("wall")
    return near


def _judged(played: Played, blamed: Blamed, problem: Problem, limits: RunLimits, checked: Checked) -> Pass:
    """Return a pass as judged."""
    ended = played.parties[SUBMISSION]
    result, stderr = ended.result, ended.result.stderr or b""
    notes = [*blamed.notes, *(doubts(result, blamed.code, stderr) if blamed.who == SUBMISSION else ()), *checked.notes]
    if much := _much_said(played, problem):
        notes.append(much)
    return Pass(
        code=blamed.code, flags=blamed.flags, cause=blamed.cause, result=result, ours=ended.ending is not Ending.ITSELF, blame=blamed.who,
        cpu_ns=ended.cpu_ns, own_ns=ended.own_ns, stdout_bytes=ended.sent_bytes, stderr=stderr, checked=checked, near=tuple(_near(ended, limits)),
        notes=tuple(notes), transcript=played.transcript_lines,
        failed=blamed.code is Code.JE and played.parties[VALIDATOR].ending in (Ending.OWN_TIME, Ending.IDLE),
    )  # fmt: skip


__all__ = ["Interactor", "judge_interactive"]
