"""Directories that a judgement needs for its time: private, locked by who uses them, and removed by the next command when that one was killed."""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile

from sandbox.errors import SandboxError, describe_errno
from sandbox.record import dataclass
from sandbox.store import cache_path, make_private, open_private, why_not_private

_MAXIMUM_STALE = 1000
_OURS = re.compile(r"[a-z]+-[0-9a-f]{16}", re.ASCII)
"""Names of places; nothing else that lies there is ours to remove."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory of ours, 0700, and the fd that holds its lock; owned by who made it."""

    path: str
    fd: int
    process: int

    def remove(self) -> None:
        """Remove it with all that is in it. Done by the process that made it, once."""
        if self.process != os.getpid() or _held.pop(self.path, None) is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.fd)


_held: dict[str, Place] = {}


def make_place(prefix: str) -> Place:
    """Return a new, empty, locked directory below the cache; those whose owner died are removed first.

    Args:
        prefix: what its name begins with.

    Raises:
        SandboxError: it cannot be made, or the directory above is somebody else's.
    """
    base = stage_path()
    try:
        above = open_private(base)
        if above is None:
            raise SandboxError(f"make stage `{base}`: {why_not_private(base)}", hint="choose another place with XDG_CACHE_HOME")
        try:
            _remove_stale(base, above)
        finally:
            os.close(above)
        while True:
            path = os.path.join(base, f"{prefix}-{secrets.token_hex(8)}")
            # Another command may take it for a stale one before it is locked.
            try:
                make_private(path)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                if os.path.isdir(base):
                    continue
                raise
            if _lock(fd) and _is_still(path, fd):
                break
            os.close(fd)
    except OSError as error:
        raise SandboxError(f"make a stage in `{base}`: {describe_errno(error.errno or 0)}") from None
    if not _held:
        atexit.register(_remove_all)
    place = Place(path=path, fd=fd, process=os.getpid())
    _held[path] = place
    return place


def stage_path() -> str:
    """Return the directory that stages are in."""
    base = cache_path(os.environ, "judge") or os.path.join(tempfile.gettempdir(), f"sandbox-judge-{os.geteuid()}")
    return os.path.join(base, "stage")


def place_of(path: str) -> Place | None:
    """Return the place that a path is in, None when this process holds none."""
    return next((place for place in tuple(_held.values()) if path == place.path or path.startswith(place.path + "/")), None)


def _remove_stale(base: str, above: int) -> None:
    for name in sorted(filter(_OURS.fullmatch, os.listdir(above)))[:_MAXIMUM_STALE]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        except OSError:
            continue
        try:
            if _lock(fd):
                shutil.rmtree(os.path.join(base, name), ignore_errors=True)
        finally:
            os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
    return True


def _is_still(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def _remove_all() -> None:
    for place in tuple(_held.values()):
        place.remove()
