"""Making a layer: its archive, entry by entry, and the blob that it becomes. The same tree gives the same bytes.

For whoever turns files into a layer: the import of a directory, and the commit of what a run changed.
"""

from __future__ import annotations

import hashlib
import os
import zlib

from sandbox.images.bounds import ImageError
from sandbox.images.documents import OCI_LAYER, Descriptor
from sandbox.images.paths import WHITEOUT
from sandbox.images.tarread import BLOCK, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from sandbox.images.store import Store

_FLAGS = {Kind.FILE: b"0", Kind.LINK: b"1", Kind.SYMLINK: b"2", Kind.DIRECTORY: b"5", Kind.FIFO: b"6"}
_LEVEL = 3  # of gzip: a tenth larger than 6, in half the time
_CHUNK = 1 << 20


class LayerWriter:
    """Writes a layer into the store, packed with gzip, hashed on the way. Use as a context manager; without `finish` nothing is kept.

    Paths are bytes below the root, without a slash in front; the root itself is empty. Parents come before what is in them.

    Args:
        store: open for writing; borrowed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = store.new_name()
        self._fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=store.tmp)
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self._size = 0
        self.given = 0

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            os.unlink(self._name, dir_fd=self._store.tmp)
            self._fd = -1

    def add(
        self,
        path: bytes,
        kind: Kind,
        *,
        mode: int,
        mtime_ns: int,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        target: bytes = b"",
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Write an entry's header; `size` bytes of content follow by `write` and `pad`, or all of it by `add_content`.

        Args:
            path: see the class.
            kind: no device.
            mode: permission and set-id bits.
            mtime_ns: since the epoch.
            uid: as it is in the image, as `gid`.
            gid: see `uid`.
            size: of a file.
            target: of a symbolic link its text, of a hard link the path of an earlier entry.
            xattrs: by their names.

        Raises:
            ImageError: a name that a layer cannot hold, for it would be a whiteout.
        """
        if path.rpartition(b"/")[2].startswith(WHITEOUT):
            raise ImageError(f"a layer cannot hold a file called `{os.fsdecode(path.rpartition(b'/')[2])}`: it would be a whiteout")
        self.write(make_header(path, kind, mode=mode, mtime_ns=mtime_ns, uid=uid, gid=gid, size=size, target=target, xattrs=xattrs))

    def add_content(self, fd: int, size: int) -> None:
        """Write a file's content from a descriptor (borrowed), from its present position.

        Raises:
            ImageError: it has become shorter meanwhile.
        """
        left = size
        while left:
            chunk = os.read(fd, min(left, _CHUNK))
            if not chunk:
                raise ImageError("it changed while it was read")
            self.write(chunk)
            left -= len(chunk)
        self.pad(size)

    def add_whiteout(self, path: bytes, mtime_ns: int = 0) -> None:
        """Say that what the layers below have at a path is gone."""
        directory, _, name = path.rpartition(b"/")
        self.write(make_header((directory + b"/" if directory else b"") + WHITEOUT + name, Kind.FILE, mode=0o600, mtime_ns=mtime_ns))

    def write(self, chunk: bytes) -> None:
        """Write bytes of the archive."""
        self.given += len(chunk)
        self._plain.update(chunk)
        self._put(self._packer.compress(chunk))

    def pad(self, size: int) -> None:
        """End the content of an entry that has `size` bytes."""
        if size % BLOCK:
            self.write(bytes(BLOCK - size % BLOCK))

    def finish(self) -> tuple[Descriptor, str]:
        """End the archive and make it a blob; return its descriptor and its diff id."""
        self.write(bytes(2 * BLOCK))
        self._put(self._packer.flush())
        os.close(self._fd)
        self._fd = -1
        digest = f"sha256:{self._packed.hexdigest()}"
        self._store.adopt_blob(self._name, digest)
        return Descriptor(media_type=f"{OCI_LAYER}+gzip", digest=digest, size_bytes=self._size), f"sha256:{self._plain.hexdigest()}"

    def _put(self, chunk: bytes) -> None:
        self._packed.update(chunk)
        self._size += len(chunk)
        while chunk:
            chunk = chunk[os.write(self._fd, chunk) :]


def make_header(
    path: bytes,
    kind: Kind,
    *,
    mode: int,
    mtime_ns: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    target: bytes = b"",
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Return an entry's header: ustar, with a pax header before it for what ustar cannot say. See `LayerWriter.add`."""
    name = path + b"/" if kind is Kind.DIRECTORY and path else path or b"./"
    records = {b"SCHILY.xattr." + key: value for key, value in sorted((xattrs or {}).items())}
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    if len(name) > 100:
        records[b"path"] = name
    if len(target) > 100:
        records[b"linkpath"] = target
    for key, number, limit in ((b"size", size, 1 << 33), (b"uid", uid, 1 << 21), (b"gid", gid, 1 << 21)):
        if number >= limit:
            records[key] = b"%d" % number
    if nanoseconds or not 0 <= seconds < 1 << 33:
        records[b"mtime"] = _decimal(mtime_ns)
    before = b""
    if records:
        content = b"".join(_record(key, value) for key, value in records.items())
        before = _block(b"PaxHeaders/" + name[:80], b"x", 0o644, 0, 0, len(content), 0, b"") + content + bytes(-len(content) % BLOCK)
    return before + _block(
        name[:100], _FLAGS[kind], mode & 0o7777, uid if uid < 1 << 21 else 0, gid if gid < 1 << 21 else 0, size if size < 1 << 33 else 0,
        seconds if 0 <= seconds < 1 << 33 else 0, target[:100],
    )  # fmt: skip


def _block(name: bytes, flag: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, target: bytes) -> bytes:
    fields = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\00000" % (
        name.ljust(100, b"\0"), mode, uid, gid, size, mtime, flag, target.ljust(100, b"\0"),
    )  # fmt: skip
    block = fields.ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """Return ``LENGTH KEY=VALUE\\n``; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, part = divmod(abs(nanoseconds), 1_000_000_000)
    return sign + b"%d" % seconds + (b".%09d" % part).rstrip(b"0") if part else sign + b"%d" % seconds


__all__ = ["LayerWriter", "make_header"]
