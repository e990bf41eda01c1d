"""The measures: each returns what goes into the file, by row, one entry a round."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from beside.contender import NUMBER, Contender, Program, Sustained
from beside.host import Failed, processor_seconds
from beside.rounds import Found, Session

TRUE = Program(name="/bin/true", argv=("/bin/true",))
FRESH = Program(name="/bin/true, another argument each time", argv=("/bin/true", NUMBER))
PYTHON = Program(name="python3 -c pass", argv=("/usr/bin/python3", "-c", "pass"))
NUMPY = Program(name="python3 -c 'import numpy'", argv=("/usr/bin/python3", "-c", "import numpy"), slow=True, shares=("/etc/alternatives",))
CALLS = ("getpid", "read", "openat+close", "futex", "fcntl", "ioctl")
_CALL_LOOPS = 100_000
_CALL_ROUNDS = 3


def launches(title: str, session: Session, rows: Sequence[Contender], program: Program) -> Found:
    """Time launches: microseconds from the request until the end is known."""
    found: Found = {}
    for _, row in session.turns(title, session.ready(title, rows, program)):
        count = 1 if row.slow or program.slow else session.batch
        times = session.attempt(title, row, partial(row.launch, program, count))
        found.setdefault(row.name, []).append([round(us, 1) for us in times or ()])
    return {"program": program.name, "us": _without_failed(session, title, rows, found)}


def throughput(
    title: str, session: Session, rows: Sequence[Contender], program: Program, seconds: float, slices: int, at_once_all: Sequence[int]
) -> Found:
    """Count launches within a time, with so many at once; `seconds` for each of these and each row, cut into slices."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    ready = session.ready(title, rows, program)
    for at_once in at_once_all:
        for _, row in session.turns(f"{title}, {at_once} at once", ready, slices):
            before = processor_seconds()
            done: Sustained | None = session.attempt(f"{title}, {at_once} at once", row, partial(row.sustain, program, at_once, seconds / slices))
            if done is not None:
                entry = {"n": done.count, "wall_s": round(done.wall, 4), "failed": done.failed}
                if before is not None:
                    entry["cpu_s"] = round((processor_seconds() or before) - before, 4)
                found.setdefault(row.name, {}).setdefault(str(at_once), []).append(entry)
    return {"program": program.name, "at_once": found}


def system_calls(title: str, session: Session, rows: Sequence[Contender]) -> Found:
    """Time system calls inside by a loop in C: nanoseconds a call."""
    program = Program(name="system calls", argv=("{payload}/calls", "loops", str(_CALL_LOOPS)))
    found: Found = {}
    rows = session.ready(title, rows, Program(name="a system call", argv=("{payload}/calls", "loops", "1")))
    for _, row in session.turns(title, rows, _CALL_ROUNDS):
        text = session.attempt(title, row, partial(row.output, program))
        if text is not None:
            found.setdefault(row.name, []).append({call: float(ns) for call, ns in (line.split() for line in text.splitlines() if line)})
    return {"ns": found}


def build_programs(source: Path, payload: Path) -> None:
    """Compile what runs inside.

    Raises:
        Failed: there is no compiler.
    """
    try:
        subprocess.run(["cc", "-O2", "-static", "-o", str(payload / "calls"), str(source)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"compile `{source.name}`: {error}") from error


def _without_failed(session: Session, title: str, rows: Sequence[Contender], found: Found) -> Found:
    """Leave out rows that did not last: their figures would be of other rounds than the others'."""
    failed = {row.name for row in rows if title in session.failed(row)}
    return {name: rounds for name, rounds in found.items() if name not in failed}
