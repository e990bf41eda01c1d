"""Reading files of a directory that a program of somebody else's has filled: by descriptor, one name at a time, through no link.

What belongs to an overlay (whiteouts, its own attributes) is told apart here. Every process that could write to an upper directory is dead; the original
may change at any moment. Only this floor imports it.

Attacks that this stops: a link in the place of a file that is read (CVE-2018-15664 and its kin), a FIFO that blocks its reader, a file that nobody may
read.
"""

from __future__ import annotations

import errno
import os
import stat
from _thread import allocate_lock

from sandbox.changes.model import Facts, Type
from sandbox.kernel.calls import open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar

OPAQUE = "user.overlay.opaque"
OWN = "user.overlay."
"""Attributes of the overlay itself; a program's own `user.overlay.x` is kept as `user.overlay.overlay.x` (Linux 6.7)."""
_ESCAPED = "user.overlay.overlay."
_ACL = ("system.posix_acl_access", "system.posix_acl_default")
_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_TYPES = {
    stat.S_IFREG: Type.FILE,
    stat.S_IFDIR: Type.DIRECTORY,
    stat.S_IFLNK: Type.SYMLINK,
    stat.S_IFIFO: Type.FIFO,
    stat.S_IFSOCK: Type.SOCKET,
}


class Ajar:
    """While one of these is open, directories that shut their owner, us, out are held open: to list one, and to look at what is in it, takes rights over it and
    over every one above. The last that closes gives all of them their modes back; a kill meanwhile leaves them readable for their owner.
    """

    _lock = allocate_lock()
    _open = 0
    _held: ClassVar[dict[tuple[int, int], tuple[int, int]]] = {}  # of a directory: a descriptor and the mode

    def __init__(self) -> None:
        self._closed = False
        with Ajar._lock:
            Ajar._open += 1

    @classmethod
    def mode_of(cls, status: os.stat_result) -> int:
        """Return the mode that a file has, or will have again."""
        held = cls._held.get((status.st_dev, status.st_ino))
        return stat.S_IMODE(status.st_mode) if held is None else held[1]

    @classmethod
    def force(cls, handle: int) -> bool:
        """Hold a directory open; return whether that changed anything."""
        status = os.fstat(handle)
        key, mode = (status.st_dev, status.st_ino), stat.S_IMODE(status.st_mode)
        with cls._lock:
            if not cls._open or key in cls._held or mode & 0o500 == 0o500 or status.st_uid != os.geteuid():
                return False
            os.chmod(f"/proc/self/fd/{handle}", mode | 0o500)
            cls._held[key] = (os.dup(handle), mode)
            return True

    def close(self) -> None:
        """Let go; idempotent."""
        if self._closed:
            return
        self._closed = True
        with Ajar._lock:
            Ajar._open -= 1
            if Ajar._open:
                return
            held = list(Ajar._held.values())
            Ajar._held.clear()
        for fd, mode in reversed(held):
            try:
                os.chmod(f"/proc/self/fd/{fd}", mode)
            except OSError:
                pass  # removed meanwhile
            os.close(fd)


def open_directory(root: int, path: str) -> int:
    """Open a directory below another, "" being itself; with an `Ajar` open, also one whose owner, us, is shut out.

    Raises:
        OSError: it is not there, no directory, behind a link, or too deep (ENAMETOOLONG).
    """
    try:
        return open_beneath(root, path or ".", _DIRECTORY)
    except PermissionError:
        parts = path.split("/")
        for count in range(len(parts) + 1):
            handle = open_beneath(root, "/".join(parts[:count]) or ".", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                Ajar.force(handle)
            finally:
                os.close(handle)
        return open_beneath(root, path or ".", _DIRECTORY)


def open_file(directory: int, name: str, *, force: bool = False) -> int:
    """Open a regular file for reading.

    Args:
        directory: borrowed.
        name: in it.
        force: its owner's rights notwithstanding: a run's own file, not one of the original, which would be another after that (its ctime, and its mode
            after a kill).

    Raises:
        OSError: it is not there, is no regular file (EINVAL), or may not be read.
    """
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except PermissionError:
        if not force:
            raise
        handle = os.open(name, _HANDLE, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name) from None
            fd = _open_locked(handle, os.O_RDONLY | os.O_CLOEXEC, 0o400)
        finally:
            os.close(handle)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    return fd


def _open_locked(handle: int, flags: int, right: int) -> int:
    """Open a file of ours whose mode forbids it: by giving ourselves the right for a moment."""
    path = f"/proc/self/fd/{handle}"
    status = os.fstat(handle)
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    os.chmod(path, stat.S_IMODE(status.st_mode) | right)
    try:
        return os.open(path, flags)
    finally:
        os.chmod(path, stat.S_IMODE(status.st_mode))


def look(directory: int, name: str) -> os.stat_result | None:
    """Return what a name is, itself and not what it leads to; None where there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_whiteout(status: os.stat_result) -> bool:
    """Whether it is an overlay's mark that a name is gone."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int, name: str) -> bool:
    """Whether a directory of an upper hides what lies below it altogether."""
    fd = open_directory(directory, name)
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False
    finally:
        os.close(fd)


def make_facts(directory: int, name: str, status: os.stat_result) -> Facts:
    """Return a file's facts."""
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), Type.DEVICE)
    return Facts(
        type=kind,
        mode=Ajar.mode_of(status),
        size=0 if kind is Type.DIRECTORY else status.st_size,
        mtime_ns=status.st_mtime_ns,
        device=status.st_dev,
        inode=status.st_ino,
        ctime_ns=status.st_ctime_ns,
        links=1 if kind is Type.DIRECTORY else status.st_nlink,
        target=os.readlink(name, dir_fd=directory) if kind is Type.SYMLINK else "",
    )


def read_xattrs(directory: int, name: str, kind: Type, *, force: bool = False) -> dict[str, bytes] | None:
    """Return the attributes that a program sees through the overlay, but for the security modules' own; None where they cannot be read.

    Of a link and of special files there are none: the kernel lets nobody set `user.*` there.

    Args:
        directory: borrowed.
        name: in it.
        kind: what it is.
        force: see `open_file`.
    """
    if kind not in (Type.FILE, Type.DIRECTORY):
        return {}
    try:
        fd = open_file(directory, name, force=force) if kind is Type.FILE else open_directory(directory, name)
    except OSError:
        return None
    try:
        return xattrs_of(fd)
    finally:
        os.close(fd)


def xattrs_of(fd: int) -> dict[str, bytes]:
    """Return the same of an open file."""
    found = {}
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    for name in names:
        seen = OWN + name[len(_ESCAPED) :] if name.startswith(_ESCAPED) else name
        if name.startswith(OWN) and not name.startswith(_ESCAPED):
            continue
        if not name.startswith("user.") and name not in _ACL:
            continue
        try:
            found[seen] = os.getxattr(fd, name)
        except OSError:
            continue
    return found


def same_content(one: int, other: int) -> bool:
    """Whether two open files hold the same bytes; holes are passed over, so that a file of a terabyte costs what is in it."""
    size = os.fstat(one).st_size
    if size != os.fstat(other).st_size:
        return False
    at = 0
    while at < size:
        at = min(_next_data(one, at, size), _next_data(other, at, size))
        if at >= size:
            return True
        first, second = os.pread(one, _CHUNK, at), os.pread(other, _CHUNK, at)
        if first != second or not first:
            return first == second and at + len(first) >= size
        at += len(first)
    return True


def data_segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, as (begin, end)."""
    at = 0
    while (begin := _next_data(fd, at, size)) < size:
        try:
            end = min(size, os.lseek(fd, begin, os.SEEK_HOLE))
        except OSError:
            end = size
        yield begin, max(end, begin + 1)
        at = max(end, begin + 1)


def _next_data(fd: int, at: int, size: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else at


__all__ = [
    "OWN", "Ajar", "data_segments", "is_opaque", "is_whiteout", "look", "make_facts", "open_directory", "open_file", "read_xattrs", "same_content", "xattrs_of",
]  # fmt: skip
