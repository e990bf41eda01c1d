"""A root file system in a directory, made into a layer. The tree may be a stranger's: it is walked by descriptor, and read, never changed."""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import describe_errno
from sandbox.images.bounds import Budget, ImageError
from sandbox.images.documents import Descriptor
from sandbox.images.tarread import Kind
from sandbox.images.tarwrite import LayerWriter
from sandbox.images.treeops import DIRECTORY_FLAGS, PATH_FLAGS
from sandbox.kernel.calls import open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.store import Progress, Store

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KEPT_XATTRS = ("user.", "security.capability")


class _Walk:
    def __init__(self, root: int, name: str, writer: LayerWriter, budget: Budget, store: Store, progress: Progress | None) -> None:
        self.root = root
        self.name = name
        self.writer = writer
        self.budget = budget
        self.progress = progress
        self.own = os.fstat(store.fd)
        self.links: dict[tuple[int, int], bytes] = {}
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.notes: dict[str, int] = {}

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def owner(self, status: os.stat_result) -> tuple[int, int]:
        """The caller's own files are root's in the image, as they are for a program that the caller runs as root there."""
        return (0 if status.st_uid == self.uid else status.st_uid), (0 if status.st_gid == self.gid else status.st_gid)


def add_directory(store: Store, path: str, budget: Budget, progress: Progress | None = None) -> tuple[Descriptor, str, dict[str, int]]:
    """Make a layer of everything below a directory.

    Sockets and devices are left out, what is mounted in it is an empty directory, and so is the store itself if it lies there.

    Args:
        store: open for writing.
        path: the directory; it may be a link itself.
        budget: of the import.
        progress: told of each part.

    Returns:
        the layer's descriptor, its diff id, and how many of what was left out.

    Raises:
        ImageError: a file cannot be read, changed meanwhile, or cannot be held by a layer; the tree is too large. Nothing is kept.
    """
    try:
        root = os.open(path, DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
    except OSError as error:
        raise ImageError(f"open `{path}`: {describe_errno(error.errno or 0)}") from None
    try:
        with LayerWriter(store) as writer:
            walk = _Walk(root, path, writer, budget, store, progress)
            _add_entry(walk, b"", os.fstat(root))
            todo = [b""]
            while todo:
                directory = todo.pop()
                todo += reversed(_add_children(walk, directory))
            descriptor, diff_id = writer.finish()
            return descriptor, diff_id, walk.notes
    finally:
        os.close(root)


def _add_children(walk: _Walk, directory: bytes) -> list[bytes]:
    """Add what is in a directory, and return the directories among it."""
    shown = f"`{walk.name}/{os.fsdecode(directory)}`"
    try:
        fd = open_beneath(walk.root, os.fsdecode(directory) or ".", DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno == errno.EXDEV:
            walk.note("mount point")
            return []
        raise ImageError(f"open: {describe_errno(error.errno or 0)}", origin=shown, hint=_hint(error)) from None
    found = []
    try:
        if os.path.samestat(os.fstat(fd), walk.own):
            walk.note("store of images")
            return []
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            path = directory + b"/" + name if directory else name
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                _add_entry(walk, path, status)
            except ImageError as error:
                raise ImageError(error.message, origin=f"`{walk.name}/{os.fsdecode(path)}`", hint=error.hint) from None
            except OSError as error:
                reason = describe_errno(error.errno or 0)
                raise ImageError(f"read: {reason}", origin=f"`{walk.name}/{os.fsdecode(path)}`", hint=_hint(error)) from None
            if stat.S_ISDIR(status.st_mode):
                found.append(path)
    finally:
        os.close(fd)
    return found


def _add_entry(walk: _Walk, path: bytes, status: os.stat_result) -> None:
    walk.budget.entry()
    if path.count(b"/") >= walk.budget.bounds.depth or len(path) > 4000:
        raise ImageError(f"a path of more than {walk.budget.bounds.depth} names, or too long")
    uid, gid = walk.owner(status)
    mode, mtime_ns = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    key = (status.st_dev, status.st_ino)
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) and key in walk.links:
        walk.writer.add(path, Kind.LINK, mode=mode, mtime_ns=mtime_ns, uid=uid, gid=gid, target=walk.links[key])
        return
    if stat.S_ISREG(status.st_mode):
        _add_file(walk, path, status)
    elif stat.S_ISDIR(status.st_mode):
        walk.writer.add(path, Kind.DIRECTORY, mode=mode, mtime_ns=mtime_ns, uid=uid, gid=gid, xattrs=_xattrs_of(walk, path))
    elif stat.S_ISLNK(status.st_mode):
        fd = open_beneath(walk.root, os.fsdecode(path), PATH_FLAGS)
        try:
            target = os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)
        walk.writer.add(path, Kind.SYMLINK, mode=0o777, mtime_ns=mtime_ns, uid=uid, gid=gid, target=target)
    elif stat.S_ISFIFO(status.st_mode):
        walk.writer.add(path, Kind.FIFO, mode=mode, mtime_ns=mtime_ns, uid=uid, gid=gid)
    else:
        walk.note("socket" if stat.S_ISSOCK(status.st_mode) else "device")
        return
    if status.st_nlink > 1:
        walk.links[key] = path


def _add_file(walk: _Walk, path: bytes, before: os.stat_result) -> None:
    fd = open_beneath(walk.root, os.fsdecode(path), _READ)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not os.path.samestat(status, before):
            raise ImageError("it changed while it was read")
        walk.budget.content(status.st_size)
        uid, gid = walk.owner(status)
        walk.writer.add(
            path, Kind.FILE, mode=stat.S_IMODE(status.st_mode), mtime_ns=status.st_mtime_ns, uid=uid, gid=gid, size=status.st_size, xattrs=_xattrs(fd)
        )
        walk.writer.add_content(fd, status.st_size)
    finally:
        os.close(fd)
    if walk.progress is not None:
        walk.progress("read", walk.budget.bytes, 0)


def _xattrs_of(walk: _Walk, path: bytes) -> dict[bytes, bytes]:
    try:
        fd = open_beneath(walk.root, os.fsdecode(path) or ".", DIRECTORY_FLAGS)
    except OSError:
        return {}  # a mount point, or to be refused when it is listed
    try:
        return _xattrs(fd)
    finally:
        os.close(fd)


def _xattrs(fd: int) -> dict[bytes, bytes]:
    try:
        keys = [key for key in os.listxattr(fd) if key.startswith(_KEPT_XATTRS) and not key.startswith("user.overlay.")]
        return {os.fsencode(key): os.getxattr(fd, key) for key in keys}
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def _hint(error: OSError) -> str | None:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "files of other ids can only be read as root, or in a user namespace that maps them (`podman unshare`)"
    return None


__all__ = ["add_directory"]
