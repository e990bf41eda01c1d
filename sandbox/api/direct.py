"""A run whose standard input and output are pipes of the caller, with nothing of ours in between.

For whoever moves the bytes between programs: each pump less is two switches of a processor less. `sandbox.judge.interactive` uses it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING

from sandbox.api.runs import begin_run
from sandbox.api.streams import Streams
from sandbox.supervise.pump import Pump

if TYPE_CHECKING:
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
        self._stderr = -1

        def make() -> tuple[tuple[int, int, int], list[Pump]]:
            # Called again when whoever was to start the run has died; what was returned is closed each time.
            made: list[int] = []
            try:
                made += (os.dup(stdin), os.dup(stdout))
                source, sink = os.pipe2(os.O_CLOEXEC)
                made += (source, sink)
                self.close()
                self._stderr = os.dup(source)
                pumps = [Pump(-1, -1), Pump(-1, -1), Pump(source, -1, count=True, writer=sink)]
            except BaseException:
                for fd in made:
                    os.close(fd)
                raise
            return (made[0], made[1], sink), pumps

        try:
            self.run: BackgroundRun = begin_run(box, argv, Streams(made=make), options)
        except BaseException:
            self.close()
            raise

    def wait_for_start(self) -> None:
        """Wait until the program is about to be executed: it has its ends of the pipes by then.

        Raises:
            SandboxError: it could not be set up; the run is over.
        """
        self.run.started()

    def stderr_waiting(self) -> int:
        """Return how many bytes of standard error are on their way to us: until they have come, the program may be waiting for that.

        Source: ioctl_pipe(2), FIONREAD.
        """
        if self._stderr < 0:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(self._stderr, termios.FIONREAD, bytes(4)))[0])

    def close(self) -> None:
        """Let go of what is ours; the run goes on. Idempotent."""
        stderr, self._stderr = self._stderr, -1
        if stderr >= 0:
            os.close(stderr)


__all__ = ["DirectRun"]
