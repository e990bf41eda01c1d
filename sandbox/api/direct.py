"""A run whose standard input and output are pipes of the caller, with nothing of ours in between.

For whoever moves the bytes between programs: each pump less is two switches of a processor less. `sandbox.judge.interactive` uses it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import threading
from typing import TYPE_CHECKING

from sandbox.api.runs import begin_run
from sandbox.api.streams import Streams
from sandbox.errors import SandboxError
from sandbox.supervise.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.api.background import BackgroundRun
    from sandbox.api.runs import RunOptions
    from sandbox.api.session import Sandbox


class DirectRun:
    """A command that reads from one pipe and writes to another; what it writes to standard error is in the result.

    What it writes to `stdout` counts against no limit of the sandbox: whoever reads it counts.

    Args:
        box: settings of the run; without a pool, whose members have streams already.
        argv: the command and its arguments.
        stdin: the end for reading of a pipe made for this run alone, never a file: a payload opens it anew through /proc/self/fd. Borrowed until
            this returns.
        stdout: the end for writing of another, likewise.
        options: as for `Sandbox.run`.

    Attributes:
        run: the run, which has begun and is not waited for.

    Raises:
        SandboxError: the sandbox could not be set up; `wait_for_start` raises it when that shows later.
    """

    def __init__(self, box: Sandbox, argv: tuple[str, ...], *, stdin: int, stdout: int, options: RunOptions) -> None:
        self._lock = threading.Lock()
        self._stderr = -1
        self._ends: tuple[int, ...] = ()

        def make() -> tuple[tuple[int, int, int], list[Pump]]:
            # Called again when whoever was to start the run has died; what was returned is closed each time.
            made: list[int] = []
            try:
                with self._lock:
                    if not self._ends:
                        raise SandboxError("start a run: its pipes were closed")
                    made += map(os.dup, self._ends)
                source, sink = os.pipe2(os.O_CLOEXEC)
                made += (source, sink)
                copy = os.dup(source)
                with self._lock:
                    before, self._stderr = self._stderr, copy
                _close((before,))
                pumps = [Pump(-1, -1), Pump(-1, -1), Pump(source, -1, count=True, writer=sink)]
            except BaseException:
                _close(made)
                raise
            return (made[0], made[1], sink), pumps

        try:
            # Its thread takes them at a moment of its own, when the caller's numbers may be other files: what it takes are these.
            for fd in (stdin, stdout):
                self._ends += (os.dup(fd),)
            self.run: BackgroundRun = begin_run(box, argv, Streams(made=make), options)
        except BaseException:
            self.close()
            raise

    def wait_for_start(self) -> None:
        """Wait until the program is about to be executed: it has its ends of the pipes by then, and nobody else but the caller.

        Raises:
            SandboxError: it could not be set up; the run is over.
        """
        try:
            self.run.started()
        finally:
            self._let_go()

    def stderr_waiting(self) -> int:
        """Return how many bytes of standard error are on their way to us: until they have come, the program may be waiting for that.

        Source: ioctl_pipe(2), FIONREAD.
        """
        with self._lock:
            if self._stderr < 0:
                return 0
            return int(struct.unpack("i", fcntl.ioctl(self._stderr, termios.FIONREAD, bytes(4)))[0])

    def close(self) -> None:
        """Let go of what is ours; the run goes on, if it has started. Idempotent."""
        self._let_go()
        with self._lock:
            stderr, self._stderr = self._stderr, -1
        _close((stderr,))

    def _let_go(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, ()
            _close(ends)  # within it: `make` may be about to copy them


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


__all__ = ["DirectRun"]
