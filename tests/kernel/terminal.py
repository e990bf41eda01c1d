"""A pseudo-terminal with a command on it, for tests: what a person sees and types."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping

import pytest

DEADLINE_S = 90.0  # only where something hangs


class Terminal:
    """A CLI on a pty of ours: `slave` stays open here, so that its settings can be read at any time."""

    def __init__(self, command: list[str], rows: int = 24, columns: int = 80, env: Mapping[str, str] | None = None) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        # As login does it: a session of its own, with this terminal.
        leader = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-S", "-c", leader, *command], stdin=self.slave, stdout=self.slave, stderr=self.slave,
            env={"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "TERM": "vt100"} | dict(env or {}),
        )  # fmt: skip

    def resize(self, rows: int, columns: int) -> None:
        """Set the size, as a terminal emulator does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def expect(self, pattern: str) -> re.Match[bytes]:
        """Read until the output since the last call matches."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            match = re.search(pattern.encode(), self.seen)
            if match:
                self.seen = self.seen[match.end() :]
                return match
            if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"nothing matched {pattern!r} in {self.seen!r}")
            self.seen += os.read(self.master, 4096)

    def wait(self) -> int:
        """Wait for the CLI's end, reading on."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.01)[0]:
                self.seen += os.read(self.master, 4096)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 4096)
        assert self.process.returncode is not None, self.seen
        return self.process.returncode

    def close(self) -> None:
        """End everything."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)
