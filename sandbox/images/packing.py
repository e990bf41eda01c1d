"""How an archive is packed, and reading it unpacked with bounds on what comes of it: gzip, bzip2, xz from the standard library, zstd by whoever has it.

Every byte that is read is hashed, which is a layer's diff id. Imports a decompressor only when an archive needs it.
"""

from __future__ import annotations

import os

from sandbox.enums import StrEnum
from sandbox.images.bounds import Budget, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Stream(Protocol):
        """Bytes in order."""

        def read(self, count: int) -> bytes:
            """Return `count` bytes, or fewer at the end."""


_CHUNK = 1 << 18
_OUT = 1 << 20
_MEMORY = 128 << 20  # of xz and zstd windows; what their programs use unless told otherwise stays below


class Packing(StrEnum):
    """How an archive is packed, as OCI's media types end."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


def detect_packing(head: bytes) -> Packing:
    """Tell the packing from the first six bytes or more; anything unknown is none."""
    if head.startswith(b"\x1f\x8b"):
        return Packing.GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[:1] in b"PQRSTUVWXYZ[\\]^_"):
        return Packing.ZSTD
    if head.startswith(b"\xfd7zXZ\0"):
        return Packing.XZ
    if head.startswith(b"BZh"):
        return Packing.BZIP2
    return Packing.NONE


def packing_of(fd: int) -> Packing:
    """Tell how the file behind a descriptor is packed; its position stays where it is, at the beginning."""
    return detect_packing(os.pread(fd, 8, 0))


class Unpacked:
    """An archive's bytes, unpacked, hashed and counted.

    Args:
        fd: a regular file at its beginning; borrowed, and moved.
        packing: how it is packed.
        budget: what the import may still spend; of it the ratio and the time.
        name: for messages.
    """

    def __init__(self, fd: int, packing: Packing, budget: Budget, name: str) -> None:
        import hashlib

        self._name = name
        self._budget = budget
        self._hash = hashlib.sha256()
        self._buffer = b""
        self._at = 0
        self.given = 0
        self._source = _open_source(fd, packing, budget.check_time)

    @property
    def taken(self) -> int:
        """How many packed bytes were read so far."""
        return int(self._source.taken)

    def read(self, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end.

        Raises:
            ImageError: the packing is damaged, cut off, or grows as only a bomb does; the time is over.
        """
        end = self._at + count
        if end <= len(self._buffer):
            found = self._buffer[self._at : end]
            self._at = end
            return found
        parts = [self._buffer[self._at :]]
        missing = count - len(parts[0])
        self._buffer, self._at = b"", 0
        while missing > 0:
            chunk = self._fill()
            if not chunk:
                break
            if len(chunk) > missing:
                self._buffer, self._at = chunk, missing
                chunk = chunk[:missing]
            parts.append(chunk)
            missing -= len(chunk)
        return b"".join(parts)

    def drain(self) -> str:
        """Read what follows to the very end, and return the digest of everything that was read.

        Raises:
            ImageError: as `read`.
        """
        self._buffer, self._at = b"", 0
        while self._fill():
            pass
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """End what unpacks; safe to call twice."""
        self._source.close()

    def _fill(self) -> bytes:
        try:
            chunk: bytes = self._source.fill()
        except (ValueError, EOFError) as error:
            raise ImageError(f"unpack `{self._name}`: {error}") from None
        self.given += len(chunk)
        self._hash.update(chunk)
        self._budget.check_time()
        self._budget.packed(self._source.taken, self.given)
        return chunk


class _Plain:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.taken = 0

    def fill(self) -> bytes:
        chunk = os.read(self._fd, _OUT)
        self.taken += len(chunk)
        return chunk

    def close(self) -> None:
        pass


class _Library:
    """A decompressor object of the standard library: zlib's has no `needs_input`, the others have."""

    def __init__(self, fd: int, check: Callable[[], None], make: Any, damage: tuple[type[Exception], ...], what: str) -> None:
        self._fd = fd
        self._check = check  # thousands of empty streams may be joined, which give nothing to anybody who looks at the clock
        self._make = make
        self._damage = damage
        self._what = what
        self._engine = make()
        self._pending = b""
        self._ended = False  # of the file
        self.taken = 0

    def fill(self) -> bytes:
        while True:
            if self._engine.eof:
                self._check()
                rest = self._engine.unused_data or self._read()
                rest = rest if rest.strip(b"\0") else self._skip_padding()
                if not rest:
                    return b""
                self._engine, self._pending = self._make(), rest  # archives may be joined, as gzip(1) says
            pending = self._pending
            if not pending and not (hasattr(self._engine, "needs_input") and not self._engine.needs_input):
                pending = self._read()
                if not pending:
                    raise EOFError(f"the {self._what} data is cut off")
            try:
                found: bytes = self._engine.decompress(pending, _OUT)
            except self._damage as error:
                raise ValueError(f"the {self._what} data is damaged: {error}") from None
            self._pending = getattr(self._engine, "unconsumed_tail", b"")
            if found:
                return found

    def _skip_padding(self) -> bytes:
        while chunk := self._read():
            if chunk.strip(b"\0"):
                return chunk
        return b""

    def _read(self) -> bytes:
        if self._ended:
            return b""
        chunk = os.read(self._fd, _CHUNK)
        self.taken += len(chunk)
        self._ended = not chunk
        return chunk

    def close(self) -> None:
        pass


class _Program:
    """The `zstd` program, which reads the very descriptor; killed with us, and when we stop reading."""

    def __init__(self, fd: int) -> None:
        import shutil
        import subprocess

        program = shutil.which("zstd")
        if program is None:
            hint = "install the program `zstd`, or `pip install zstandard`"
            raise ImageError("unpack zstd: this Python has no library for it, and there is no program `zstd`", hint=hint)
        self.taken = max(os.fstat(fd).st_size, 1)  # all of it: the program reads it as it likes
        self._child = subprocess.Popen(
            [program, "-dcq", f"-M{_MEMORY >> 20}MiB"], stdin=fd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"LC_ALL": "C"}
        )

    def fill(self) -> bytes:
        assert self._child.stdout is not None and self._child.stderr is not None
        chunk = os.read(self._child.stdout.fileno(), _OUT)
        if not chunk:
            said = self._child.stderr.read(400).decode("utf-8", "replace").strip()
            if self._child.wait():
                raise ValueError(f"the zstd data is damaged or cut off: {said}")
        return chunk

    def close(self) -> None:
        if self._child.stdout is None or self._child.stdout.closed:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()


def _open_source(fd: int, packing: Packing, check: Callable[[], None]) -> Any:
    if packing is Packing.GZIP:
        import zlib

        return _Library(fd, check, lambda: zlib.decompressobj(31), (zlib.error,), "gzip")
    if packing is Packing.XZ:
        import lzma

        return _Library(fd, check, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY), (lzma.LZMAError,), "xz")
    if packing is Packing.BZIP2:
        import bz2

        return _Library(fd, check, bz2.BZ2Decompressor, (OSError,), "bzip2")
    if packing is Packing.ZSTD:
        return _zstd(fd, check)
    return _Plain(fd)


def _zstd(fd: int, check: Callable[[], None]) -> Any:
    """Return a library's decompressor where there is one: Python 3.14's, or that of the package zstandard; else the program."""
    from importlib import import_module

    try:
        module = import_module("compression.zstd")
    except ImportError:
        return _Program(fd)
    window = {module.DecompressionParameter.window_log_max: 27}
    return _Library(fd, check, lambda: module.ZstdDecompressor(options=window), (module.ZstdError,), "zstd")


__all__ = ["Packing", "Unpacked", "detect_packing", "packing_of"]
