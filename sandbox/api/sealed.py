"""`SealedInput`: standard input as a file in memory that nobody can change, in the place of a pipe."""

from __future__ import annotations

import errno
import fcntl
import os

from sandbox.errors import SetupError

MFD_NOEXEC_SEAL = 0x0008
"""linux/memfd.h, since Linux 6.3: it can never be executed. Before that its contents can be, as any file can that a program has written."""

# linux/fcntl.h: no seal can be added, the size stays, nothing can be written.
_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8
_PIECE = 1 << 30
_no_exec = MFD_NOEXEC_SEAL


class SealedInput:
    """Contents that a program gets as standard input in a regular file: it can seek in it, map it and ask for its size, and nobody feeds it meanwhile.

    Each run has a file of its own, sealed before the program starts, and opened for reading. The host's own file would be no such thing: a program that
    has the user's id outside may change its mode and times through the descriptor, and open it anew for writing through /proc/self/fd.

    Args:
        content: bytes, text, or the path of a host file, which is copied when a run starts.
    """

    __slots__ = ("_content",)

    def __init__(self, content: bytes | bytearray | memoryview | str | os.PathLike[str]) -> None:
        if isinstance(content, os.PathLike):
            self._content: bytes | memoryview | str = os.fspath(content)
        elif isinstance(content, str):
            self._content = content.encode()
        else:
            self._content = memoryview(content).cast("B")

    def open(self) -> int:
        """Return a descriptor for one run, open for reading, at the beginning; the caller owns it.

        Raises:
            SetupError: the host file cannot be read, or there is no memory.
        """
        try:
            writer = _create()
            try:
                self._write(writer)
                fcntl.fcntl(writer, _F_ADD_SEALS, _SEALS)
                # Another open file: the program can never have had a descriptor that may write, and its position is its own.
                return os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.close(writer)
        except OSError as error:
            what = f"copy `{self._content}` as standard input" if isinstance(self._content, str) else "make standard input"
            raise SetupError(what, error.errno or errno.EIO) from error

    def _write(self, writer: int) -> None:
        if isinstance(self._content, str):
            source = os.open(self._content, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
            try:
                while os.sendfile(writer, source, None, _PIECE):
                    pass
            finally:
                os.close(source)
            return
        pending = memoryview(self._content)
        while pending:
            pending = pending[os.write(writer, pending[:_PIECE]) :]


def _create() -> int:
    global _no_exec
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if _no_exec:
        try:
            return os.memfd_create("input", flags | _no_exec)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _no_exec = 0  # an older kernel
    return os.memfd_create("input", flags)


__all__ = ["SealedInput"]
