"""Moving bytes from one party to another: bounded memory, back-pressure, and closings that are passed on when they should be.

No party ever gets SIGPIPE for what another did: what nobody reads any more is taken and thrown away, and counted. The relay's ends are the only thing that
two parties have in common; neither can open the other's pipe.
"""

from __future__ import annotations

import errno
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.interactive.graph import Pipe

_CHUNK = 1 << 16


class Channel:
    """One pipe of the graph: the end that its source writes to is read, and what came is written on.

    It holds 64 KiB at most, besides what the kernel's two pipes hold; it reads again once that is written.

    Args:
        pipe: whose it is.
        source: end for reading of the source's pipe; taken. -1 for none: then `data` is all that comes.
        sink: end for writing of the sink's pipe; taken. -1 for none: then `kept` has what came.
        limit: how many bytes may come.
        data: see `source`.

    Attributes:
        moved: bytes that were written on.
        lost: bytes that came when nobody read any more.
        came: all bytes.
        exceeded: more came than may.
        broken: its reader was found to have gone.
        held: the end of the data waits for the word of `release`.
    """

    def __init__(self, pipe: Pipe, source: int, sink: int, limit: int, data: bytes = b"") -> None:
        self.pipe = pipe
        self.source = source
        self.sink = sink
        self.moved = self.lost = self.came = 0
        self.exceeded = self.broken = False
        self.held = source >= 0
        self.kept = bytearray()
        self._keeps = sink < 0
        self._limit = limit
        self._pending = memoryview(data)
        for fd in (source, sink):
            if fd >= 0:
                os.set_blocking(fd, False)
        if source < 0:
            self.give()

    @property
    def over(self) -> bool:
        """Whether nothing comes any more, and what came is written."""
        return self.source < 0 and not self._pending

    @property
    def behind(self) -> bool:
        """Whether its reader has not taken all that came, and no more is read from its source until then."""
        return bool(self._pending)

    def interest(self) -> dict[int, int]:
        """Return what to poll for; an end for writing with nothing to write tells when its reader has gone."""
        wanted: dict[int, int] = {}
        if self.source >= 0 and not self._pending:
            wanted[self.source] = select.POLLIN
        if self.sink >= 0:
            wanted[self.sink] = select.POLLOUT if self._pending else 0
        return wanted

    def take(self) -> bytes:
        """Read once what the source wrote and write it on; return it, nothing at its end. `source` is closed then."""
        try:
            data = os.read(self.source, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return b""
        if not data:
            self._close_source()
            self._settle()
            return b""
        self.came += len(data)
        self.exceeded = self.came > self._limit
        if self._keeps:
            self.kept += data[: max(0, self._limit - len(self.kept))]
        elif self.sink < 0:
            self.lost += len(data)
        else:
            self._pending = memoryview(data)
            self.give()
        return data

    def give(self) -> None:
        """Write as much as goes."""
        while self._pending:
            try:
                written = os.write(self.sink, self._pending)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self.broken = True
                self.close_sink()
                return
            self.moved += written
            self._pending = self._pending[written:]
        self._settle()

    def drain(self) -> None:
        """Its source is dead: take what is left in the pipe."""
        while self.source >= 0:
            self._pending = memoryview(b"")
            if not self.take() and self.source >= 0:
                self._close_source()

    def close_sink(self) -> None:
        """Its reader has gone, or is to be told that nothing comes any more; what still comes is thrown away."""
        self.lost += len(self._pending)
        self._pending = memoryview(b"")
        sink, self.sink = self.sink, -1
        if sink >= 0:
            os.close(sink)

    def release(self) -> None:
        """Pass the end of the data on, now or when it comes."""
        self.held = False
        self._settle()

    def close(self) -> None:
        """Close both ends; idempotent."""
        self._close_source()
        self.close_sink()

    def _close_source(self) -> None:
        source, self.source = self.source, -1
        if source >= 0:
            os.close(source)

    def _settle(self) -> None:
        if self.over and not self.held:
            self.close_sink()
