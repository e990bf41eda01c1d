"""Directories below the caller's cache, data and state that nobody else can write to, and how whole entries get in and out of a cache.

An entry of a cache that cannot be trusted is as good as none, and one that cannot be written is no error. Imports nothing of ours; the caches of compiled
filters and of prepared launches are kept with it. Images, volumes and what copy-on-write runs changed lie in `data_path` and `state_path`.
"""

from __future__ import annotations

import _imp
import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def cache_path(environ: Mapping[str, str], name: str) -> str | None:
    """Return ``$XDG_CACHE_HOME/sandbox/<name>`` (default ``~/.cache``), or None when neither variable gives an absolute path."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = os.path.join(home, ".cache")
    return os.path.join(base, "sandbox", name)


def data_path(environ: Mapping[str, str], name: str) -> str | None:
    """Return where images and volumes are kept, `name` being which.

    It is ``$SANDBOX_DATA_DIR/<name>``, else ``$XDG_DATA_HOME/sandbox/<name>``, else ``~/.local/share/sandbox/<name>``; None when none of the three
    variables gives an absolute path.
    """
    return _own_path(environ, "SANDBOX_DATA_DIR", "XDG_DATA_HOME", ".local/share", name)


def state_path(environ: Mapping[str, str], name: str) -> str | None:
    """Return where what runs leave behind is kept, `name` being what: ``$SANDBOX_STATE_DIR/<name>``, else below ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    return _own_path(environ, "SANDBOX_STATE_DIR", "XDG_STATE_HOME", ".local/state", name)


def hidden_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the real paths of what is never seen inside a sandbox, whatever is shared; none needs to exist.

    An image's set-id files, the volumes of other runs and what those changed are nobody's but the caller's.
    """
    found = [data_path(environ, "images"), data_path(environ, "volumes"), state_path(environ, "changes")]
    return tuple([f"{os.path.realpath(os.path.dirname(path)).rstrip('/')}/{os.path.basename(path)}" for path in found if path is not None])


def _own_path(environ: Mapping[str, str], own: str, base: str, default: str, name: str) -> str | None:
    given = environ.get(own, "")
    if given.startswith("/"):
        return os.path.join(os.path.normpath(given), name)
    found = environ.get(base, "")
    if not found.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        found = os.path.join(home, default)
    return os.path.join(os.path.normpath(found), "sandbox", name)


def is_ours(status: os.stat_result) -> bool:
    """Whether nobody but the caller can write a file: who else can, chooses what is in it. sudo with the user's HOME is the usual way to meet one."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def open_directory(path: str | None, *, make: bool = True) -> int | None:
    """Return an fd of a cache directory, owned by the caller, or None when it cannot be trusted or used.

    Args:
        path: of `cache_path`.
        make: make it where it is missing.
    """
    if path is None:
        return None
    try:
        if make:
            make_directory(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if is_ours(os.fstat(fd)):
        return fd
    os.close(fd)
    return None


def make_directory(path: str) -> None:
    """Make a directory of the caller's own if it is not there, and those above it, all of mode 0700 whatever the umask is, but not in somebody else's.

    Under sudo with the user's HOME root would follow whatever links are there, and the user, who cannot use a directory of root's, would do without
    at every run from then on.

    Raises:
        OSError: it cannot or must not be made.
    """
    if os.path.lexists(path):
        return
    above = os.path.abspath(path)
    missing = []
    while not os.path.exists(above):
        missing.append(above)
        above = os.path.dirname(above)
    if os.stat(above).st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), above)
    for each in reversed(missing):
        try:
            make_private(each)
        except FileExistsError:
            pass


def make_private(path: str) -> None:
    """Make a new directory of mode 0700, also where the umask takes away what the caller itself needs.

    Raises:
        OSError: it cannot be made, or is there.
    """
    os.mkdir(path, 0o700)
    if os.lstat(path).st_mode & 0o700 != 0o700:
        os.chmod(path, 0o700)


def open_private(path: str) -> int | None:
    """As `open_directory`, for what is later used by its path.

    None as well where everybody may rename a directory on the way to it, or a link on it is somebody else's, who chose where it leads.
    """
    if _strangers_link(path):
        return None
    above = os.path.realpath(path)
    while above != "/":
        above = os.path.dirname(above)
        try:
            mode = os.stat(above).st_mode
        except OSError:
            continue  # it will be made, and be ours
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return None
    return open_directory(path)


def _strangers_link(path: str) -> str:
    """Return the first link on the way up from a path that is somebody else's, "" without one."""
    at = os.path.abspath(path)
    while at != "/":
        try:
            status = os.lstat(at)
        except OSError:
            pass  # it will be made, and be ours
        else:
            if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
                return at
        at = os.path.dirname(at)
    return ""


def why_not_private(path: str) -> str:
    """Return why `open_private` gives nothing, in words."""
    if link := _strangers_link(path):
        return f"the link `{link}` is somebody else's"
    above = os.path.realpath(path)
    there = above
    while above != "/":
        above = os.path.dirname(above)
        if not os.path.lexists(there):
            there = above
        try:
            mode = os.stat(above).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"everybody may write to `{above}`"
    status = os.stat(there)
    if not stat.S_ISDIR(status.st_mode):
        return f"`{there}` is no directory"
    if there == os.path.realpath(path) and not is_ours(status):
        return f"others may write to `{there}`" if status.st_uid == os.geteuid() else f"`{there}` is somebody else's"
    return f"it cannot be made in `{there}`"


def mark_of(content: bytes | memoryview) -> bytes:
    """Return 8 bytes that damaged content does not have; five times as fast as the fastest digest. Source: CPython Python/import.c: SipHash."""
    return _imp.source_hash(0x73616E64626F7831, content)


def read_entry(directory: int, name: str, limit: int) -> bytes | None:
    """Return an entry's bytes, or None when it is missing, somebody else's, no regular file, or longer than `limit`."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not is_ours(status) or not 0 < status.st_size <= limit:
            return None
        content = os.read(fd, status.st_size + 1)
        return content if len(content) == status.st_size else None  # it is being written
    except OSError:
        return None
    finally:
        os.close(fd)


def write_entry(directory: int, name: str, content: bytes) -> None:
    """Add an entry; failing to is no error.

    It is written to a file without a name, which a SIGKILL cannot leave behind, and linked when whole. Where the file system has none (NFS, FAT, some
    FUSE), it is written under its own name: what a SIGKILL leaves then is a part of an entry, which its reader must not believe and the next writer
    replaces. Of two writers the first wins; both hold the same. An entry that could not be used is taken away first.
    """
    try:
        if not _link_whole(directory, name, content):
            _unlink(directory, name)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
            _put(fd, content)
    except OSError:
        pass


def _link_whole(directory: int, name: str, content: bytes) -> bool:
    """Write a file without a name and give it one; return whether that can be done here."""
    try:
        fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
    try:
        if os.write(fd, content) == len(content):
            _unlink(directory, name)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        pass  # another writer's
    except FileNotFoundError:
        return False  # no /proc here
    finally:
        os.close(fd)
    return True


def _put(fd: int, content: bytes) -> None:
    try:
        os.write(fd, content)  # where it falls short, nobody believes the entry
    finally:
        os.close(fd)


def _unlink(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


__all__ = [
    "cache_path", "data_path", "hidden_paths", "is_ours", "make_directory", "make_private", "mark_of", "open_directory", "open_private", "read_entry",
    "state_path", "write_entry",
]  # fmt: skip
