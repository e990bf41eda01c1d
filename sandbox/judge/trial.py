"""Whether a language works here: its own small program is compiled and run as a submission would be. `cli.judge_languages` and the tests use it."""

from __future__ import annotations

import sandbox
from sandbox.audit.events import escape_untrusted
from sandbox.errors import SandboxError
from sandbox.judge.languages.toolchains import first_line
from sandbox.judge.model import PROGRAM_DIRECTORY
from sandbox.judge.problem import ProblemLimits, Source, Submission
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.building import Builder
    from sandbox.judge.languages import Language
    from sandbox.judge.model import Program
    from sandbox.result import Result

NAMES = ("World", "you two", "Zoë")
_VALID = sandbox.SealedInput(b"5\n")  # a file, as it is for validators: VIVA opens it anew
_MEMORY = 1 << 30
_LINE = 200
_LIMITS = ProblemLimits(memory_bytes=_MEMORY, compilation_time_ns=180_000_000_000)  # whether it works is asked, not how fast


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of it: why it does not work, empty where it does; whether it is not here; CPU time of the compiler, None where it was compiled before, and
    of the program; its highest memory, None where that is not known."""

    cause: str = ""
    absent: bool = False
    compile_ns: int | None = None
    run_ns: int = 0
    memory_bytes: int | None = None


def try_language(builder: Builder, language: Language) -> Trial:
    """Compile and run the program that a language's definition brings, and compare what it prints; an input validator has to accept."""
    name, files = f"hello.{language.id}", {language.hello_file: language.hello.encode()}
    source: Submission | Source = Submission(name=name, files=files, language=language.id)
    if language.accepts is not None:
        source = Source(name=name, files=files, language=language.id)
    built = builder.build(source, limits=_LIMITS)
    if built.absent:
        return Trial(absent=True, cause=built.absent)
    if built.program is None:
        return Trial(cause=built.cause)
    try:
        result = run_program(built.program, _VALID if language.accepts is not None else "".join(f"{name}\n" for name in NAMES).encode())
    except SandboxError as error:
        return Trial(cause=error.message)
    expected = "".join(f"Hello, {name}!\n" for name in NAMES).encode()
    cause = ""
    if result.exit_code != (language.accepts or 0):
        cause = f"the program ended with {result.cause}" + (f": {escape_untrusted(line, _LINE)}" if (line := first_line(result)) else "")
    elif language.accepts is None and result.stdout != expected:
        cause = f"the program printed {(result.stdout or b'')[:80]!r}"
    usage = result.usage
    return Trial(
        cause=cause, compile_ns=None if built.result is None else built.result.usage.cpu_ns, run_ns=usage.cpu_ns, memory_bytes=usage.memory_peak_bytes
    )  # fmt: skip


def run_program(program: Program, stdin: bytes | sandbox.SealedInput, *, args: tuple[str, ...] = (), limits: Mapping[str, object] | None = None) -> Result:
    """Run a built program once, with the memory and processes that its runtime needs besides those of `limits`.

    Raises:
        SandboxError: as `sandbox.run`.
    """
    mine: dict[str, object] = {"memory": _MEMORY + program.memory_extra_bytes, "processes": program.processes, "cpu": "20s", "wall": "60s"}
    return sandbox.run(
        [*program.command, *args], profile=program.profile, stdin=stdin, env=dict(program.environment), limits=mine | dict(limits or {}),
        volumes=[f"{program.directory}:{PROGRAM_DIRECTORY}:ro", *program.volumes],
    )  # fmt: skip


__all__ = ["NAMES", "Trial", "run_program", "try_language"]
