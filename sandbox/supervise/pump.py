"""Moving bytes between the payload's pipes and the caller, without ever blocking the supervisor.

A pump has a source and a destination, each a descriptor or memory. The caller's own descriptors are never made
non-blocking (others share them); they are written to only when poll says so, in pieces that a pipe takes whole.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from io import BytesIO

_CHUNK = 1 << 16
_PIPE_PIECE = 4096  # PIPE_BUF: with POLLOUT a pipe takes this much at once (pipe(7))


class Pump:
    """One direction of one stream.

    Args:
        source: descriptor to read; -1 with `data` for bytes that are there already.
        destination: descriptor to write; -1 to keep everything in `captured`.
        data: the first bytes to move.
        close_destination: the destination is ours: non-blocking, closed when the source has ended.
        close_source: the source is ours, likewise.
        count: whether the bytes count against the output limit.
        writer: the other end of the pipe that is read; ours until the source has ended. A pipe with a writer left has no end, so a payload's exit wakes
            nobody for the sake of that: the end of the run is told elsewhere, and what is in the pipe is read then.

    `error` is the errno with which the destination refused bytes, 0 if it never did; a reader who left is no error.
    """

    def __init__(
        self,
        source: int,
        destination: int,
        *,
        data: bytes = b"",
        close_source: bool = True,
        close_destination: bool = False,
        count: bool = False,
        writer: int = -1,
    ) -> None:
        self.writer = writer
        self.source = source
        self.destination = destination
        self._kept = BytesIO()  # gives its bytes away without a copy
        self.moved = 0
        self.error = 0
        self.count = count
        self._close_source = close_source
        self._close_destination = close_destination
        self._pending = memoryview(data)
        self._capture = True
        self._whole = close_destination
        if close_source and source >= 0:
            os.set_blocking(source, False)
        if destination >= 0:
            self._open_destination(destination)
        self._settle()

    def _open_destination(self, destination: int) -> None:
        self._capture = False
        self.destination = destination
        if self._close_destination:
            os.set_blocking(destination, False)
        else:
            self._whole = stat.S_ISREG(os.fstat(destination).st_mode) or not os.get_blocking(destination)

    @property
    def captured(self) -> bytes:
        """What was kept so far."""
        return self._kept.getvalue()

    def forget(self) -> None:
        """Keep nothing of what came so far."""
        self._kept = BytesIO()

    @property
    def ended(self) -> bool:
        """Whether nothing is left to move."""
        return self.source < 0 and not self._pending

    def read_fd(self) -> int:
        """The descriptor to wait for reading on, or -1."""
        return self.source if not self._pending else -1

    def write_fd(self) -> int:
        """The descriptor to wait for writing on, or -1."""
        return self.destination if self._pending else -1

    def fill(self, allowance: int | None) -> int:
        """Read once; return how many bytes came. More than `allowance` shows that it was passed; what is beyond it is thrown away."""
        if self.source < 0 or self._pending:
            return 0
        try:
            # Not one byte at a time once nothing may be kept: emptying the pipe of a program that flooded it took two seconds so.
            data = os.read(self.source, min(_CHUNK, allowance + 1) if allowance else _CHUNK)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            # EIO: the other side of a terminal is closed. And what the caller gave may not be readable at all (nohup opens standard input for
            # writing, `< directory`): then the payload has nothing to read, and whether it minds is its own affair.
            if error.errno != errno.EIO and self._close_source:
                raise
            data = b""
        if not data:
            self.end_source()
            return 0
        kept = data if allowance is None else data[:allowance]
        self.moved += len(kept)
        if self._capture:
            self._kept.write(kept)
        else:
            self._pending = memoryview(kept)
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Write as much as goes without blocking."""
        while self._pending and self.destination >= 0:
            piece = self._pending if self._whole else self._pending[:_PIPE_PIECE]
            if not self._whole and not _writable(self.destination):
                return
            try:
                self._pending = self._pending[os.write(self.destination, piece) :]
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    self.error = error.errno or errno.EIO  # a full disk: what was lost is said at the end
                self.abandon()  # nobody reads any more: the payload will see a broken pipe, as in a shell
                return
        self._settle()

    def abandon(self) -> None:
        """Forget what is pending and close what is ours."""
        self._pending = memoryview(b"")
        self.end_source()

    def cut(self) -> None:
        """Give up what is not moved yet, and say so."""
        if not self.ended:
            self.error = errno.EINTR
            self.abandon()

    def close(self) -> None:
        """Close the ends that are ours; idempotent."""
        if self.source >= 0 or self.destination >= 0 or self._pending:
            self.abandon()

    def end_source(self) -> None:
        """Take nothing more; what was taken is still moved."""
        source, self.source = self.source, -1
        writer, self.writer = self.writer, -1
        if self._close_source and source >= 0:
            os.close(source)
        if writer >= 0:
            os.close(writer)
        self._settle()

    def _settle(self) -> None:
        if self.ended and self._close_destination and self.destination >= 0:
            destination, self.destination = self.destination, -1  # first: interrupted between the two, close() would close another's
            os.close(destination)


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
