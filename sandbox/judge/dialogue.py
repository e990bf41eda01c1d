"""Talking with a program while it runs, from a function of the author's that is called outside of any sandbox."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_PIECE = 1 << 16
_SHOWN_LINES = 400


class Closed(Exception):
    """The other side has ended or closed its stream; what it is judged by is how it ended, unless that was well."""


class Flooded(Exception):
    """The program has printed more than it may."""


class Dialogue:
    """The two streams of a running program.

    What it writes is a stranger's. A call that waits ends at the latest with the program, whose limits go on; `Closed` may be left to pass.
    """

    def __init__(self, to_program: int, from_program: int, most: int) -> None:
        """Take two descriptors of pipes; `most` is how many bytes are read at all."""
        self._out = to_program
        self._in = from_program
        self._buffer = bytearray()
        self._most = most
        self._over = False
        self.transcript: list[str] = []

    def write(self, data: bytes | str) -> None:
        """Send bytes, or text as UTF-8.

        Raises:
            Closed: the program reads no more.
        """
        pending = memoryview(data.encode() if isinstance(data, str) else data)
        self._note(">", bytes(pending))
        try:
            if self._out < 0:
                raise Closed("its standard input is closed")
            while pending:
                pending = pending[os.write(self._out, pending[:_PIECE]) :]
        except BrokenPipeError:
            raise Closed("the program reads no more") from None

    def write_line(self, *values: object) -> None:
        """Send values with blanks between them and a newline after them, as print does."""
        self.write(" ".join(map(str, values)) + "\n")

    def read_line(self) -> str:
        """Return the next line without its end; bytes that are not UTF-8 become U+FFFD.

        Raises:
            Closed: there is none: the program has ended, or closed its standard output.
        """
        return self.read_bytes_line().decode("utf-8", "replace")

    def read_bytes_line(self) -> bytes:
        """Return the next line as bytes, without its end; the last one may have none. Raises `Closed`."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked)) < 0 and not self._over:
            looked = len(self._buffer)
            self._fill()
        if end < 0:
            if not self._buffer:
                raise Closed("the program prints no more")
            end = len(self._buffer)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._note("<", line)
        return line

    def read_rest(self) -> bytes:
        """Return all that the program prints until it ends or closes its standard output."""
        while not self._over:
            self._fill()
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._note("<", rest)
        return rest

    def drain(self) -> None:
        """Read and forget what is left, so that the program can come to its end."""
        while not self._over:
            self._buffer.clear()
            self._fill()

    def close_input(self) -> None:
        """Close the program's standard input: it meets its end there."""
        if self._out >= 0:
            os.close(self._out)
            self._out = -1

    def close(self) -> None:
        """Close both; idempotent."""
        self.close_input()
        if self._in >= 0:
            os.close(self._in)
            self._in = -1
            self._over = True

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _fill(self) -> None:
        piece = os.read(self._in, _PIECE) if self._in >= 0 else b""
        self._most -= len(piece)
        if self._most < 0:
            raise Flooded
        self._over = not piece
        self._buffer += piece

    def _note(self, mark: str, data: bytes) -> None:
        if len(self.transcript) < _SHOWN_LINES and data:
            from sandbox.audit.events import escape_untrusted

            shown = data[:400].rstrip(b"\n")
            self.transcript.append(f"{mark} {escape_untrusted(shown, 200)}")
