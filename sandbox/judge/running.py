"""`Runner`: one program, run many times, each in a sandbox of its own; and the limits of a package as those of a run.

What a submission sees: the system read-only, its own files read-only at `PROGRAM_DIRECTORY`, a working directory in memory, its standard input as a sealed
file of this run. No path of the package, of another case, or of the judge.
"""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.errors import InternalError, ProtocolError, SetupError
from sandbox.judge.model import PROGRAM_DIRECTORY, RunLimits
from sandbox.judge.naming import run_name
from sandbox.policy.profile import Volume
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from sandbox.api.direct import DirectRun
    from sandbox.audit.sinks import Sink
    from sandbox.judge.model import Program
    from sandbox.judge.problem import Problem
    from sandbox.policy.profile import Profile
    from sandbox.result import Result

_LEAST_CPU_NS = 1_000_000
_WALL_FACTOR = 3
_WALL_EXTRA_NS = 2_000_000_000
_CUT_EXTRA_NS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run: what the sandbox measured, and what the program printed. Collected files are `result.files`."""

    result: Result
    stdout: bytes
    stderr: bytes


class Runner:
    """A program, ready to be run; thread-safe. A context manager: leaving it ends what still runs.

    Args:
        program: what to run.
        audit: a file or sink for denied system calls.
        cpuset: processors that its runs may use, as in a profile's ``[limits]``; None for all.
        volumes: more shares, for programs of the package; never for a submission.
        home: where its working directory is inside, instead of the profile's.
    """

    def __init__(
        self, program: Program, *, audit: str | Sink | None = None, cpuset: str | None = None, volumes: Sequence[Volume] = (), home: str = ""
    ) -> None:
        from sandbox.api.session import Sandbox

        self.program = program
        self._name = run_name()
        own = (Volume(source=program.directory, target=PROGRAM_DIRECTORY, origin="the judge"),) if program.directory else ()
        self._cpuset = cpuset
        self._box = Sandbox(
            _find_profile(program.profile, home),
            volumes=[*own, *program.volumes, *volumes],
            env=dict(program.environment) or None,
            audit=audit,
        )

    def run(
        self,
        stdin: bytes | str | os.PathLike[str],
        limits: RunLimits,
        *,
        args: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
        collect: Sequence[str] = (),
        collect_bytes: int = 0,
        home_bytes: int | None = None,
    ) -> Ran:
        """Run the program once and wait for its end.

        Args:
            stdin: bytes, or a host file's path; the run gets a sealed copy.
            limits: of this run.
            args: words after the program's command.
            files: made in its working directory.
            collect: patterns of files to read from there afterwards.
            collect_bytes: of all of them together, in whole MiB; what is more is left out and noted.
            home_bytes: what it may write there, in whole MiB, instead of the profile's limit.

        Raises:
            SandboxError: the sandbox could not be set up, twice, or the program cannot be executed.
        """
        from sandbox.api.sealed import SealedInput

        content = Path(stdin) if isinstance(stdin, str) else stdin
        given = self.limits(limits, home_bytes)
        argv = (*self.program.command, *args)
        for last in (False, True):
            try:
                result = self._box.run(
                    argv, stdin=SealedInput(content), limits=given, files=files, collect=collect, collect_limit=_whole(collect_bytes),
                    name=self._name,
                )  # fmt: skip
                break
            except (SetupError, ProtocolError, InternalError):
                if last:
                    raise
        return Ran(result=result, stdout=result.stdout or b"", stderr=result.stderr or b"")

    def direct(
        self, limits: RunLimits, *, stdin: int, stdout: int, args: Sequence[str] = (), files: Mapping[str, bytes] | None = None,
        collect: Sequence[str] = (), collect_bytes: int = 0, home_bytes: int | None = None,
    ) -> DirectRun:  # fmt: skip
        """Start the program between two pipes and return while it starts; see `sandbox.api.direct.DirectRun`. As `run` else."""
        from sandbox.api.direct import DirectRun

        return DirectRun(
            self._box, (*self.program.command, *args), stdin=stdin, stdout=stdout,
            options={
                "limits": self.limits(limits, home_bytes), "files": files, "collect": collect, "collect_limit": _whole(collect_bytes),
                "name": self._name,
            },
        )  # fmt: skip

    def limits(self, limits: RunLimits, home_bytes: int | None = None) -> dict[str, object]:
        """Return limits as a `Sandbox` takes them; what the language's runtime needs is added."""
        found: dict[str, object] = {
            "cpu": _duration(max(limits.cpu_cut_ns, _LEAST_CPU_NS)),
            "wall": _duration(max(limits.wall_ns, _LEAST_CPU_NS)),
            "idle": "none" if limits.idle_ns is None else _duration(max(limits.idle_ns, _LEAST_CPU_NS)),
            "memory": limits.memory_bytes + self.program.memory_extra_bytes,
            "output": limits.output_bytes,
            "processes": max(limits.processes, self.program.processes),
            # Recursion is the program's affair; what the stack holds counts as memory. A number here would be the size of each thread's stack as well.
            "stack": "unlimited",
        }
        if self._cpuset:
            found["cpuset"] = self._cpuset
        if home_bytes is not None:
            found["home"] = _whole(home_bytes)
        return found

    def close(self) -> None:
        """End every run that goes on; idempotent."""
        self._box.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _find_profile(name: str, home: str) -> Profile:
    return override_profile(load_profile(name), home=home, origin="the judge") if home else load_profile(name)


def _duration(ns: int) -> str:
    return f"{ns}ns"


def _whole(size: int) -> int:
    """Round up to whole MiB, at least one: what is prepared for a run serves the next one only where both have the same limits."""
    return max(1, -(-size >> 20)) << 20


def cut_of(limit_ns: int) -> int:
    """Return the CPU time at which a run under a time limit is ended: hardly beyond it, so that its end shows its time."""
    return limit_ns + _CUT_EXTRA_NS


def wall_limit_of(limit_ns: int) -> int:
    """Return the wall time that goes with a time limit. Of a dialogue it is the time in which the submission does not wait for the validator."""
    return _WALL_FACTOR * cut_of(limit_ns) + _WALL_EXTRA_NS


def run_limits(problem: Problem, program: Program, limit_ns: int, upper_ns: int | None = None) -> RunLimits:
    """Return the limits of one run of a submission.

    Args:
        problem: whose limits.
        program: the submission, whose language may have a factor.
        limit_ns: the time limit that the verdict is about.
        upper_ns: how far a run is let go on, to be judged by other limits afterwards; None is no further than `limit_ns` needs.
    """
    cpu = round(limit_ns * program.time_factor)
    upper = cpu if upper_ns is None else max(cpu, round(upper_ns * program.time_factor))
    return RunLimits(
        cpu_ns=cpu,
        cpu_cut_ns=cut_of(upper),
        wall_ns=wall_limit_of(upper),
        memory_bytes=problem.limits.memory_bytes,
        output_bytes=problem.limits.output_bytes,
        processes=program.processes,
    )


__all__ = ["Ran", "Runner", "cut_of", "run_limits", "wall_limit_of"]
