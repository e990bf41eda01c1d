"""Outputs and answers as they are compared: in memory where they are small or there already, else read from their file piece by piece.

A test file may be as large as a stage takes, and several are compared at a time. It is read, not mapped: one that somebody cuts short is an error with its name
then, and no signal. `default` imports this module, and whoever has a file for it.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_WHOLE = 4 << 20
"""Files up to this size are read at once."""

_PIECE = 1 << 20


class Text:
    """Bytes of a known number, any range of which can be had."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop`, or to the end.

        Raises:
            OSError: the file is not what it was.
        """
        return self._data[start:stop]

    def equals(self, other: Text) -> bool:
        """Whether both have the same bytes. Raises `OSError` as `read`."""
        if self.size != other.size:
            return False
        return all(self.read(at, at + _PIECE) == other.read(at, at + _PIECE) for at in range(0, self.size, _PIECE))

    def count_lines(self, stop: int) -> int:
        """Return how many lines end before `stop`. Raises `OSError` as `read`."""
        return sum(self.read(at, min(at + _PIECE, stop)).count(b"\n") for at in range(0, stop, _PIECE))

    def close(self) -> None:
        """Let go of the file; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _FileText(Text):
    """A file, of which the range that was asked for is in memory, and no more."""

    def __init__(self, fd: int, size: int, path: str) -> None:
        """Take the descriptor."""
        self.size = size
        self._fd = fd
        self._path = path

    def read(self, start: int, stop: int) -> bytes:
        parts = []
        stop = min(stop, self.size)
        while start < stop:
            part = os.pread(self._fd, stop - start, start)
            if not part:
                raise OSError(errno.EIO, "shorter than it was", self._path)
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_text(source: bytes | str | os.PathLike[str]) -> Text:
    """Return the text that bytes are, or a file has.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return Text(source)
    path = os.fspath(source)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        text = _FileText(fd, os.fstat(fd).st_size, path)
        if text.size > _WHOLE:
            fd = -1
            return text
        return Text(text.read(0, text.size))
    finally:
        if fd >= 0:
            os.close(fd)


__all__ = ["Text", "open_text"]
