"""`Process`: a run with its streams open, as `subprocess.Popen` has them."""

from __future__ import annotations

import errno
import os
import selectors
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, cast

from sandbox.api.streams import Streams

if TYPE_CHECKING:
    from sandbox.api.background import BackgroundRun
    from sandbox.api.sealed import SealedInput
    from sandbox.result import Result

PIPE = -1
"""A pipe whose other end is ours; the same value as `subprocess.PIPE`."""

DEVNULL = -3
"""Nothing to read, or output thrown away (and still counted); the same value as `subprocess.DEVNULL`."""

Stream = int | IO[bytes] | None
_CHUNK = 1 << 16
_SIGTERM = 15


class Process:
    """A command that runs in a sandbox of its own.

    `stdin`, `stdout` and `stderr` are binary files where `PIPE` was asked for, else None. What the program prints waits in the pipe until it is
    read, and the program waits with it: nothing is buffered without bound. Leaving the ``with`` block, or losing the last reference, kills the run.

    Args:
        args: the command line.
        stdin: see `Sandbox.popen`.
        stdout: see there.
        stderr: see there.
        start: starts the run with these streams; takes the descriptors among them that are to be closed at the end, whatever happens.
    """

    def __init__(
        self,
        args: tuple[str, ...],
        *,
        stdin: bytes | str | SealedInput | Stream,
        stdout: Stream,
        stderr: Stream,
        start: Callable[[Streams, tuple[int, ...]], BackgroundRun],
    ) -> None:
        self.args = args
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._run: BackgroundRun | None = None
        theirs: list[int] = []
        try:
            feed: bytes | int | SealedInput | None
            if isinstance(stdin, str):
                feed = stdin.encode()
            elif stdin is None or isinstance(stdin, (bytes, bytearray, memoryview)):
                feed = None if stdin is None else bytes(stdin)
            elif stdin == PIPE:
                reader, writer = os.pipe2(os.O_CLOEXEC)
                theirs.append(reader)
                self.stdin = os.fdopen(writer, "wb", buffering=0)
                feed = reader
            elif stdin == DEVNULL:
                feed = None
            else:
                from sandbox.api.sealed import SealedInput

                feed = stdin if isinstance(stdin, SealedInput) else _descriptor(stdin, theirs)
            self.stdout, out = self._open_output(stdout, theirs)
            self.stderr, err = self._open_output(stderr, theirs)
            owned, theirs = tuple(theirs), []
            self._run = start(Streams(stdin=feed, stdout=out, stderr=err), owned)
            self._run.started()
        except BaseException:
            for fd in theirs:
                os.close(fd)
            self._close_streams()
            if self._run is not None:
                self._run.kill()
            raise

    @staticmethod
    def _open_output(wanted: Stream, theirs: list[int]) -> tuple[IO[bytes] | None, int | None]:
        """Return our file, if any, and the descriptor for the run, or None to keep the output in the result."""
        if wanted is None:
            return None, None
        if wanted == PIPE:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            theirs.append(writer)
            os.set_blocking(writer, False)  # ours alone, so that the run may write more than a page at a time
            return cast("IO[bytes]", os.fdopen(reader, "rb")), writer
        if wanted == DEVNULL:
            theirs.append(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
            return None, theirs[-1]
        return None, _descriptor(wanted, theirs)

    @property
    def run_id(self) -> str:
        """The run's id, as in the audit log and the result."""
        return self._started.run_id

    @property
    def returncode(self) -> int | None:
        """The exit code that a shell would report, None while it runs. `result` has the verdict."""
        result = self.poll()
        return None if result is None else result.exit_code

    def poll(self) -> Result | None:
        """Return the result if the run is over, else None."""
        return self._started.result() if self._started.ended else None

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end and return the result.

        With pipes that nobody reads a program that prints much never ends: use `communicate`.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimeoutError: it is not over yet; it goes on.
            SandboxError: the sandbox failed, as when the command cannot be executed.
        """
        return self._started.wait(timeout)

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[bytes | None, bytes | None]:
        """Feed standard input, read both outputs to their ends, and wait.

        Args:
            input: what to write to `stdin`, which must be a pipe then.
            timeout: seconds for all of it.

        Returns:
            what `stdout` and `stderr` printed, None for one that is no pipe. `wait` has the result.

        Raises:
            TimeoutError: the time is over; the run goes on, and what was read is lost.
            SandboxError: the sandbox failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if input is not None and self.stdin is None:
            raise ValueError("input was given, but stdin is no pipe")
        pending = memoryview(input.encode() if isinstance(input, str) else input or b"")
        found: dict[IO[bytes], bytearray] = {
            file: bytearray() for file in (self.stdout, self.stderr) if file is not None and not file.closed
        }
        with selectors.PollSelector() as selector:
            if self.stdin is not None and not self.stdin.closed:
                if pending:
                    os.set_blocking(self.stdin.fileno(), False)
                    selector.register(self.stdin, selectors.EVENT_WRITE)
                else:
                    self.stdin.close()
            for file in found:
                selector.register(file, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(_left(deadline)):
                    file = cast("IO[bytes]", key.fileobj)
                    if file is self.stdin:
                        pending = _feed(file, pending)
                        over = not pending
                    else:
                        data = os.read(key.fd, _CHUNK)
                        found[file] += data
                        over = not data
                    if over:
                        selector.unregister(file)
                        file.close()
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"run {self.run_id} is not over after {timeout} s")
        self.wait(_left(deadline))
        out, err = (None if file is None or file not in found else bytes(found[file]) for file in (self.stdout, self.stderr))
        return out, err

    def send_signal(self, signal: int) -> None:
        """Send the program a signal; nothing happens when it is over."""
        self._started.signal(signal)

    def terminate(self) -> None:
        """Send the program SIGTERM."""
        self.send_signal(_SIGTERM)

    def kill(self) -> None:
        """End the program and everything that it started."""
        self._started.kill()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._close_streams()
        self._started.kill()
        self._started.join()

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None and not run.ended:
            warnings.warn(f"run {run.run_id} is killed: nobody waits for it", ResourceWarning, stacklevel=2, source=self)
            run.kill()
            self._close_streams()

    def call_at_end(self, callback: Callable[[], object]) -> None:
        """Have a callable called once the run is over: in the run's thread, or now if it is. It must not raise."""
        self._started.call_at_end(callback)

    @property
    def _started(self) -> BackgroundRun:
        assert self._run is not None
        return self._run

    def _close_streams(self) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                try:
                    file.close()
                except OSError:
                    pass  # bytes for a reader who left


def _descriptor(stream: object, theirs: list[int]) -> int:
    """Return a descriptor of the run's own, so that the caller may close theirs at once, as after `subprocess.Popen`."""
    fd = stream if isinstance(stream, int) else cast("IO[bytes]", stream).fileno()
    if fd < 0:
        raise ValueError(f"{fd} is no descriptor; streams are PIPE, DEVNULL, None, a descriptor or a file")
    theirs.append(os.dup(fd))
    return theirs[-1]


def _feed(file: IO[bytes], pending: memoryview) -> memoryview:
    try:
        return pending[os.write(file.fileno(), pending[:_CHUNK]) :]
    except BlockingIOError:
        return pending
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        return pending[:0]  # the program reads no more


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
