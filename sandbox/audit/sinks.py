"""Where audit events go. A sink never raises into the supervisor's loop and never grows without bound.

`supervise`, `api` and `cli` may import this module. Formats live in `events`.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.audit.events import Event, LogFull, render_json_line
from sandbox.errors import SetupError
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

_FINAL_BYTES = 256  # kept free for the "log full" record
DEFAULT_LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """What became of the events of one sink.

    `written` records and `written_bytes` bytes were kept; `dropped` came after the cap; `lost` could not be written, first because of
    the errno `error` (None if all went well).
    """

    written: int = 0
    written_bytes: int = 0
    dropped: int = 0
    lost: int = 0
    error: int | None = None


class Sink(Protocol):
    """Takes events one by one."""

    def write(self, event: Event) -> None:
        """Keep the event or count it; never raises."""

    def report(self) -> SinkReport:
        """Return what became of the events so far."""

    def close(self) -> None:
        """Let go of files; a second call does nothing."""


class NullSink:
    """Keeps nothing: for runs without an audit log, whose denials are still counted by the listener."""

    def write(self, event: Event) -> None:
        """Forget the event."""

    def report(self) -> SinkReport:
        """Return an empty report."""
        return SinkReport()

    def close(self) -> None:
        """Do nothing."""


class MemorySink:
    """Keeps the first events in memory, for the Python interface and for tests.

    Args:
        maximum: how many events are kept; later ones are only counted.
    """

    def __init__(self, maximum: int = 1000) -> None:
        self.events: list[Event] = []
        self._maximum = maximum
        self._dropped = 0

    def write(self, event: Event) -> None:
        """Keep the event if there is room."""
        if len(self.events) < self._maximum:
            self.events.append(event)
        else:
            self._dropped += 1

    def report(self) -> SinkReport:
        """Return how many were kept and dropped."""
        return SinkReport(written=len(self.events), dropped=self._dropped)

    def close(self) -> None:
        """Do nothing; the events stay."""


class FileSink:
    """Appends one JSON line per event to a regular file, with one write(2) each.

    A link is not followed and a FIFO or device is refused (a FIFO nobody reads would stop the supervisor). A write that fails is remembered
    and later ones are still tried, because space may come back. A record that was cut short is closed off: the next one starts a line.

    Args:
        path: the log; made with mode 0600 when it is missing, else appended to.
        limit_bytes: how many bytes this sink adds at most; the last of them say that the log is full.

    Raises:
        SetupError: the file cannot be opened for appending or is not a regular one.
    """

    def __init__(self, path: str, *, limit_bytes: int = DEFAULT_LOG_BYTES) -> None:
        if limit_bytes < _FINAL_BYTES:
            raise ValueError(f"log limit of {limit_bytes} bytes leaves no room for the last record of {_FINAL_BYTES}")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as failure:
            raise SetupError(f"open audit log `{path}`", failure.errno or errno.EIO) from failure
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise SetupError(f"open audit log `{path}`", errno.EINVAL, step="it is not a regular file")
            self._torn = status.st_size > 0 and os.pread(self._fd, 1, status.st_size - 1) != b"\n"
        except BaseException:
            os.close(self._fd)
            raise
        self._limit_bytes = limit_bytes
        self._full = False
        self._written = 0
        self._written_bytes = 0
        self._dropped = 0
        self._lost = 0
        self._error: int | None = None

    def write(self, event: Event) -> None:
        """Append the event, or count it when the log is full, closed or cannot be written."""
        if self._full or self._fd < 0:
            self._dropped += 1
            return
        line = render_json_line(event)
        if self._written_bytes + len(line) + 1 > self._limit_bytes - _FINAL_BYTES:
            self._full = True
            self._dropped += 1
            line = render_json_line(LogFull(time_ns=event.time_ns, run=event.run, limit_bytes=self._limit_bytes))
        self._append(line)

    def report(self) -> SinkReport:
        """Return what became of the events so far."""
        return SinkReport(
            written=self._written, written_bytes=self._written_bytes, dropped=self._dropped, lost=self._lost, error=self._error
        )

    def close(self) -> None:
        """Close the file; later events are only counted."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            os.close(fd)
        except OSError as failure:  # NFS and FUSE report a failed write here
            self._error = self._error or failure.errno

    def _append(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        try:
            count = os.write(self._fd, data)
        except OSError as failure:
            self._lost += 1
            self._error = self._error or failure.errno
            return
        self._written_bytes += count
        self._torn = data[count - 1 : count] != b"\n"
        if count == len(data):
            self._written += 1
        else:  # the disk filled up within the record; ENOSPC comes with the next write
            self._lost += 1
            self._error = self._error or errno.ENOSPC
