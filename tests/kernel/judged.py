"""Programs, cases and problems made by hand, for tests of what runs and checks them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox.judge.model import Program, RunLimits
from sandbox.judge.problem import Case, Format, Grading, Group, Problem, ProblemLimits

MS, S, MB = 1_000_000, 1_000_000_000, 1 << 20
PYTHON = ("/usr/bin/python3", "-I", "-S", "/judge/program/main.py")
LIMITS = RunLimits(cpu_ns=10 * S, cpu_cut_ns=10 * S, wall_ns=30 * S, memory_bytes=512 * MB, output_bytes=MB)


class Bench:
    """A place for packages and programs; what is shared can be read by root's payloads as well."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._programs = 0
        for path in (directory, *directory.parents):  # pytest's directories are the user's alone
            if path.stat().st_uid == os.geteuid() and path != Path("/tmp"):
                path.chmod(path.stat().st_mode | 0o055)

    def program(self, source: str, *, profile: str = "judge", name: str = "main.py", **more: Any) -> Program:
        """Return a program of Python source, or of a file that is executed as it is."""
        self._programs += 1
        place = self.directory / f"program-{self._programs}"
        place.mkdir()
        place.chmod(0o755)
        main = place / name
        main.write_text(textwrap.dedent(source))
        main.chmod(0o755)
        command = PYTHON if name.endswith(".py") else (f"/judge/program/{name}",)
        return Program(name=f"program-{self._programs}", language="python3", directory=str(place), command=command, profile=profile, **more)

    def validator(self, source: str) -> Program:
        """Return an output validator; it finds `sys`, `input`, `answer` and `feedback`, the last three from its arguments."""
        head = "import os, sys\ninput, answer, feedback = sys.argv[1:4]\n"
        return self.program(head + textwrap.dedent(source), profile="judge-validate")

    def case(self, number: int = 1, input: bytes = b"1 2\n", answer: bytes = b"3\n", **more: Any) -> Case:
        """Return a case with its two files."""
        data = self.directory / "package" / "data" / "secret"
        data.mkdir(parents=True, exist_ok=True)
        for place in (data, *data.parents[:2]):
            place.chmod(0o755)
        for suffix, content in (("in", input), ("ans", answer)):
            (data / f"{number}.{suffix}").write_bytes(content)
            (data / f"{number}.{suffix}").chmod(0o644)
        return Case(name=f"secret/{number}", input=str(data / f"{number}.in"), answer=str(data / f"{number}.ans"), **more)

    def problem(self, cases: Sequence[Case], *, limits: dict[str, Any] | None = None, **more: Any) -> Problem:
        """Return a problem with these cases; validators have 10 s, 256 MiB and 1 MiB of output unless said."""
        found = replace(
            ProblemLimits(),
            **{"validation_time_ns": 10 * S, "validation_memory_bytes": 256 * MB, "validation_output_bytes": MB, **(limits or {})},
        )
        data = Group(name="", grading=Grading(), children=tuple(cases))
        return Problem(
            name="test", root=str(self.directory / "package"), limits=found, data=data, **{"format": Format.LEGACY, "custom_output": True, **more}
        )  # fmt: skip
