"""A package's output validators, each in a sandbox of its own: the exit codes 42 and 43, and everything else a judge's error.

A validator sees its program, the stage of test data read-only, the submission's output as standard input, and its feedback directory, which is its working
directory in memory. It runs with the package's limits. A submission has no way to it but by what it printed.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.check import Checked
from sandbox.judge.check.feedback import DIRECTORY, NEXT_PASS, PLACE, clean_text, read_feedback
from sandbox.judge.model import RunLimits
from sandbox.judge.problem import Case, Format, cases_of
from sandbox.judge.running import Runner
from sandbox.policy.profile import Volume
from sandbox.result import Verdict
from sandbox.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from sandbox.audit.sinks import Sink
    from sandbox.judge.model import Program
    from sandbox.judge.problem import Problem
    from sandbox.judge.running import Ran
    from sandbox.result import Result

PACKAGE_DIRECTORY = "/judge/package"
"""Where validators, and they alone, see the test data."""

ACCEPT, REJECT = 42, 43
_WALL_EXTRA_NS = 5_000_000_000
_CUT_EXTRA_NS = 50_000_000
_ROOM_BYTES = 1 << 20
_STDERR = 500
_KEYS = {
    Verdict.CPU_LIMIT: "; `limits.validation_time` says how much", Verdict.WALL_LIMIT: "; `limits.validation_time` says how much",
    Verdict.MEMORY_LIMIT: "; `limits.validation_memory` says how much", Verdict.OUTPUT_LIMIT: "; `limits.validation_output` says how much",
}  # fmt: skip
"""Which key of a package the limits of its validators are."""


class ValidatorChecker:
    """Checks outputs with a package's validators: all must accept.

    Args:
        validators: as built.
        problem: whose limits and rules about scores hold.
        stage: host directory with the test data; "" is the directory that all cases of the problem lie in.
        audit: for denied system calls.
    """

    def __init__(self, validators: Sequence[Program], problem: Problem, *, stage: str = "", audit: str | Sink | None = None) -> None:
        self._problem = problem
        self.stage = Stage(stage or _find_stage(problem))
        self._runners = [
            Runner(each, audit=audit, volumes=self.stage.volumes, home=DIRECTORY.rstrip("/")) for each in validators
        ]

    def check(
        self,
        case: Case,
        output: bytes | os.PathLike[str],
        *,
        ran: Ran | None = None,
        given: bytes | None = None,
        feedback: Mapping[str, bytes] | None = None,
    ) -> Checked:
        """See `Checker.check`; with several validators the feedback of each is below its number."""
        several = len(self._runners) > 1
        kept: dict[str, bytes] = {}
        found: Checked | None = None
        for index, runner in enumerate(self._runners):
            prefix = f"{index}/" if several else ""
            before = {name.removeprefix(prefix): content for name, content in (feedback or {}).items() if name.startswith(prefix)}
            one = self._check(runner, case, output, given, before)
            kept.update({prefix + name: content for name, content in one.feedback.items()})
            found = one if found is None else _join(found, one)
            if not one.accepted:
                break
        assert found is not None
        return found if not several else _with_feedback(found, kept)

    def _check(self, runner: Runner, case: Case, output: bytes | os.PathLike[str], given: bytes | None, feedback: Mapping[str, bytes]) -> Checked:
        name = f"output validator `{runner.program.name}`"
        limits = validation_limits(self._problem)
        try:
            words, files = self.stage.place(case, given)
        except OSError as error:
            return Checked(accepted=None, cause=f"`{error.filename}`: {error.strerror}")
        files.update(feedback)
        try:
            ran = runner.run(
                output,
                limits,
                args=(*words, DIRECTORY, *case.output_validator_flags),
                files=files,
                collect=("**",),
                collect_bytes=limits.output_bytes + sum(map(len, files.values())),
                home_bytes=limits.output_bytes + sum(map(len, files.values())) + _ROOM_BYTES,
            )
        except (PolicyError, UnsupportedError):
            raise
        except SandboxError as error:
            return Checked(accepted=None, cause=f"{name}: {error.message}", failed=True)
        return judge_validator(name, ran.result, self._problem, stderr=ran.stderr, given=files)

    def close(self) -> None:
        """End the validators' servers; idempotent."""
        for runner in self._runners:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Stage:
    """Test data as validators see it: the directory read-only, and copies of what does not lie there or could not be read inside."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.realpath(directory) if directory else ""
        self._readable: dict[str, bool] = {}
        if self._directory and not (os.path.isdir(self._directory) and self._may_enter(self._directory)):
            self._directory = ""
        self.volumes = [Volume(source=self._directory, target=PACKAGE_DIRECTORY, origin="the judge")] if self._directory else []

    def place(self, case: Case, given: bytes | None = None) -> tuple[tuple[str, str], dict[str, bytes]]:
        """Return the paths of input and answer inside, and files to be made in the working directory.

        Args:
            case: whose.
            given: the input of a later pass.

        Raises:
            OSError: a file that had to be copied cannot be read.
        """
        files: dict[str, bytes] = {}
        words: list[str] = []
        for path, name, content in ((case.input, "input.in", given), (case.answer, "answer.ans", None)):
            below = "" if content is not None else self._below(path)
            if below:
                words.append(f"{PACKAGE_DIRECTORY}/{below}")
                continue
            if content is None:
                with open(path, "rb", buffering=0) as file:
                    content = file.readall() or b""
            files[f"{PLACE}/{name}"] = content
            words.append(f"{DIRECTORY}{PLACE}/{name}")
        return (words[0], words[1]), files

    def _below(self, path: str) -> str:
        if not self._directory:
            return ""
        real = os.path.realpath(path)
        if not real.startswith(self._directory + "/") or not self._may_enter(os.path.dirname(real)) or not _open_to_all(real, stat.S_IROTH):
            return ""
        return real[len(self._directory) + 1 :]

    def _may_enter(self, directory: str) -> bool:
        """Whether a validator can get at what lies in a directory: as the user, or, where that is root, as nobody's id."""
        known = self._readable.get(directory)
        if known is None:
            above = directory == self._directory or self._may_enter(os.path.dirname(directory))
            known = self._readable[directory] = above and _open_to_all(directory, stat.S_IXOTH)
        return known


def _open_to_all(path: str, right: int) -> bool:
    return bool(os.geteuid() or os.stat(path).st_mode & right)


def judge_validator(name: str, result: Result, problem: Problem, *, stderr: bytes, given: Mapping[str, bytes]) -> Checked:
    """Return what a validator's run says; also for one that talked with the submission.

    Args:
        name: of the validator, for messages.
        result: of its run, with ``**`` collected from its feedback directory.
        problem: whose rules about scores and limits hold.
        stderr: what it printed there.
        given: files that were made in its feedback directory, as they were.
    """
    accepted = {ACCEPT: True, REJECT: False}.get(result.exit_code) if result.signal is None else None
    code = result.exit_code if result.signal is None and result.verdict in (Verdict.OK, Verdict.NONZERO_EXIT, Verdict.PROCESS_LIMIT) else None
    legacy = problem.format is not Format.V2025_09
    feedback = read_feedback(
        result.files,
        result.notes,
        accepted=bool(accepted),
        scores=problem.custom_score,
        needs_score=legacy and problem.custom_score,
        negative=legacy,
    )
    written = sum(len(content) for path, content in feedback.files.items() if given.get(path) != content)
    total = result.usage.output_bytes + written
    bound = problem.limits.validation_output_bytes
    if code is None or accepted is None:
        why = f", which is neither {ACCEPT} nor {REJECT}" if code is not None else f" ({result.verdict}){_KEYS.get(result.verdict, '')}"
        cause = f"{name}: {result.cause}{why}"
    elif total > bound:
        cause = f"{name} wrote {total} bytes to its outputs and feedback files, more than {format_size(bound)}"
    elif feedback.problem:
        cause = f"{name}: {feedback.problem}"
    else:
        cause = ""
    if cause:
        said = clean_text(stderr, _STDERR).strip()
        return Checked(
            accepted=None, exit=code, judge_message=feedback.judge_message or said, cause=cause, notes=(f"its standard error: {said}",) if said else (),
            feedback=feedback.files, result=result, failed=result.verdict in (Verdict.WALL_LIMIT, Verdict.IDLE_LIMIT),
        )  # fmt: skip
    first = feedback.judge_message.strip().partition("\n")[0]
    return Checked(
        accepted=accepted, exit=code, score=feedback.score, multiplier=feedback.multiplier, judge_message=feedback.judge_message,
        team_message=feedback.team_message, next_pass=feedback.next_pass,
        feedback={path: content for path, content in feedback.files.items() if path != NEXT_PASS},
        cause="" if accepted else f"{name} rejected it" + (f": {first}" if first else ""), result=result,
    )  # fmt: skip


def validation_limits(problem: Problem) -> RunLimits:
    """Return the limits of one run of a validator."""
    limits = problem.limits
    return RunLimits(
        cpu_ns=limits.validation_time_ns,
        cpu_cut_ns=limits.validation_time_ns + _CUT_EXTRA_NS,
        wall_ns=2 * limits.validation_time_ns + _WALL_EXTRA_NS,
        memory_bytes=limits.validation_memory_bytes,
        output_bytes=limits.validation_output_bytes,
    )


def _join(first: Checked, second: Checked) -> Checked:
    """Return what two validators say together; the first has accepted."""
    from sandbox.record import replace

    scores = {each for each in (first.score, second.score) if each is not None}
    multipliers = {each for each in (first.multiplier, second.multiplier) if each is not None}
    passes = {each for each in (first.next_pass, second.next_pass) if each is not None}
    if second.accepted and (len(scores) > 1 or len(multipliers) > 1 or (scores and multipliers) or len(passes) > 1):
        return replace(second, accepted=None, cause="two output validators give different scores, or different inputs for the next pass")
    return replace(
        second,
        score=next(iter(scores), None) if second.accepted else second.score,
        multiplier=next(iter(multipliers), None) if second.accepted else second.multiplier,
        judge_message="\n".join(filter(None, (first.judge_message, second.judge_message))),
        team_message="\n".join(filter(None, (first.team_message, second.team_message))),
        next_pass=next(iter(passes), None) if second.accepted else second.next_pass,
    )


def _with_feedback(checked: Checked, feedback: Mapping[str, bytes]) -> Checked:
    from sandbox.record import replace

    return replace(checked, feedback=feedback)


def _find_stage(problem: Problem) -> str:
    """Return the directory that all test data lie in, "" where there is none that holds nothing else."""
    paths = [os.path.dirname(path) for case in cases_of(problem.data) for path in (case.input, case.answer)]
    if not paths:
        return ""
    common = os.path.commonpath(paths)
    return common if common.count("/") > 1 else ""


__all__ = ["ACCEPT", "PACKAGE_DIRECTORY", "REJECT", "Stage", "ValidatorChecker", "judge_validator", "validation_limits"]
