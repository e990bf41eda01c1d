"""Archives as sources: one look over the headers says what an archive is, and a root file system in one becomes a layer.

The archive itself is the layer's blob, as it is or, where OCI knows no media type for its packing, packed again.
"""

from __future__ import annotations

import hashlib
import os
import zlib

from sandbox.images.bounds import Budget, ImageError
from sandbox.images.documents import OCI_LAYER, Descriptor
from sandbox.images.packing import Packing, Unpacked, packing_of
from sandbox.images.paths import WHITEOUT
from sandbox.images.tarread import TarReader
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.store import Progress, Store

_SUFFIX = {Packing.NONE: "", Packing.GZIP: "+gzip", Packing.ZSTD: "+zstd"}
_MAXIMUM_TOP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one look over an archive tells: its digest when unpacked, the names at its top, how it is packed, and a name like a whiteout's if it has one."""

    diff_id: str
    top: frozenset[str]
    packing: Packing
    whiteout: str


def scan_archive(fd: int, budget: Budget, name: str, progress: Progress | None = None) -> Scan:
    """Read an archive's headers, and all of it for its digest.

    Args:
        fd: the archive, at its beginning; borrowed, and moved.
        budget: spent on nothing else.
        name: for messages.
        progress: told of each part.

    Raises:
        ImageError: it is no archive, or damaged.
    """
    packing = packing_of(fd)
    stream = Unpacked(fd, packing, budget, name)
    total = os.fstat(fd).st_size
    top: set[str] = set()
    whiteout = ""
    try:
        empty = True
        for member in TarReader(stream, budget, name):
            empty = False
            budget.entry()
            path = member.name.strip(b"/").removeprefix(b"./")
            if len(top) < _MAXIMUM_TOP:
                top.add(os.fsdecode(path.partition(b"/")[0]))
            if not whiteout and path.rpartition(b"/")[2].startswith(WHITEOUT):
                whiteout = member.shown
            if progress is not None:
                progress("check", min(stream.taken, total), total)
        if empty:
            raise ImageError(f"`{name}` is an empty archive")
        return Scan(diff_id=stream.drain(), top=frozenset(top), packing=packing, whiteout=whiteout)
    finally:
        stream.close()


def add_rootfs_archive(store: Store, fd: int, scan: Scan, name: str, progress: Progress | None = None) -> tuple[Descriptor, str]:
    """Make a layer of an archive; return its descriptor and its diff id.

    Raises:
        ImageError: it has a file that a layer cannot hold.
    """
    if scan.whiteout:
        raise ImageError("a layer cannot hold a file called like this: it would be a whiteout", origin=f"`{name}`, entry `{scan.whiteout}`")
    if scan.packing in _SUFFIX:
        digest, size = store.add_blob(fd, what="archive", progress=progress)
        return Descriptor(media_type=OCI_LAYER + _SUFFIX[scan.packing], digest=digest, size_bytes=size), scan.diff_id
    return _pack_again(store, fd, scan, name, progress)


def _pack_again(store: Store, fd: int, scan: Scan, name: str, progress: Progress | None) -> tuple[Descriptor, str]:
    stream = Unpacked(fd, scan.packing, Budget(store.bounds), name)
    kept = store.new_name()
    hashing, size = hashlib.sha256(), 0
    packer = zlib.compressobj(3, zlib.DEFLATED, 31)
    out = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=store.tmp)
    try:
        while True:
            plain = stream.read(1 << 20)
            chunk = packer.compress(plain) if plain else packer.flush()
            hashing.update(chunk)
            size += len(chunk)
            while chunk:
                chunk = chunk[os.write(out, chunk) :]
            if progress is not None:
                progress("pack", stream.given, 0)
            if not plain:
                break
        if stream.drain() != scan.diff_id:
            raise ImageError("it changed while it was read", origin=f"`{name}`")
    finally:
        os.close(out)
        stream.close()
    digest = f"sha256:{hashing.hexdigest()}"
    store.adopt_blob(kept, digest)
    return Descriptor(media_type=f"{OCI_LAYER}+gzip", digest=digest, size_bytes=size), scan.diff_id


__all__ = ["Scan", "add_rootfs_archive", "scan_archive"]
