"""Running sandboxes for tests: started, found, and ended whatever the test did."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

import sandbox

DEADLINE_S = 90.0
"""Only where something hangs: no test is passed because of it, and on a busy machine what takes a moment takes many."""


class Runs:
    """Starts command lines that run until they are ended; `directory` is where they register."""

    def __init__(self, sandbox_cli: Any, directory: str) -> None:
        self.cli = sandbox_cli
        self.directory = directory
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, script: str = "exec sleep 600", *options: str, profile: str = "strict") -> subprocess.Popen[bytes]:
        """Start a shell script and return when it runs; what it does after the line ``started`` may be still to come."""
        process: subprocess.Popen[bytes] = self.cli.popen(
            "exec", "-p", profile, "--cwd", "no", "-l", "wall=600", "--name", name, *options, "--", "sh", "-c", f"echo started\n{script}"
        )  # fmt: skip
        self.started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != b"started\n":
            pytest.fail(f"{name} did not start: {line!r} {process.communicate(timeout=DEADLINE_S)!r}")
        return process

    def handle(self, name: str) -> sandbox.Running:
        """Return the handle of a run."""
        return next(run for run in sandbox.running() if run.name == name)

    def ps(self, *options: str) -> list[dict[str, Any]]:
        """Return what ``sandbox ps --json`` prints."""
        done = self.cli("ps", "--json", *options)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def end(self) -> None:
        """End everything that still runs."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=DEADLINE_S)


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Wait for a command line's end; return its exit code and what it said."""
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err


def said(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Wait until a run prints this line next."""
    assert process.stdout is not None
    assert process.stdout.readline() == line + b"\n"


def children_of(pid: int) -> list[int]:
    """Return the children of a process, none where it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def stands_still(pids: Collection[int]) -> bool:
    """Whether none of these processes, of which each would spin if it could, runs or waits for a processor: stopped, or frozen in the kernel."""
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]
    return bool(states) and "R" not in states


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Look again until something is so; for what the kernel does beside us and tells nobody. A run that does not answer in time is asked again."""
    import select
    import time

    deadline = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(sandbox.RunUnresponsive, sandbox.RunGone):
            if condition():
                return
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_S:g} s: {what}")
        select.select([], [], [], 0.01)
