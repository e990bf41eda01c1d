"""Built programs, kept by the digest of everything that they were made of.

An entry is made under another name and renamed when whole. It is looked at whole at every use (`cache_entry`), because a program out of here is run as
somebody's submission; what cannot be believed is taken away and made again. The directory itself has to be the caller's, and no way to it somebody else's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import posixpath
import shutil
import tempfile
import threading
import time

from sandbox.errors import SandboxError, describe_errno
from sandbox.judge.cache_entry import verify_entry, write_entry
from sandbox.record import dataclass, field
from sandbox.store import cache_path, open_private, why_not_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_BYTES = 2 << 30
DEFAULT_AGE_NS = 30 * 24 * 3600 * 1_000_000_000
_NEW = ".new-"
_LOCK = "lock"
_PRIVATE = "run-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A built program of the cache: the host directory of its files, and what was noted beside them."""

    key: str
    directory: str
    notes: Mapping[str, str] = field(default_factory=dict)


class Cache:
    """A cache of built programs. Safe from any thread and from several processes at a time; entries stay while one of them holds it open.

    Args:
        directory: where; made, mode 0700, where it is missing.
        private: `directory` is where such caches lie; this one is a new directory there, removed at the end. What a killed process left there is removed now.
        bytes_limit: how much `close` leaves.
        age_limit_ns: how long an entry that nobody uses stays.

    Raises:
        SandboxError: the directory cannot be made, or belongs to somebody else.
    """

    def __init__(self, directory: str, *, private: bool = False, bytes_limit: int = DEFAULT_BYTES, age_limit_ns: int = DEFAULT_AGE_NS) -> None:
        self._own = private
        self._bytes_limit = bytes_limit
        self._age_limit_ns = age_limit_ns
        self._lock = threading.Lock()
        self._closed = False
        self._said: dict[str, str] = {}
        while True:
            self.directory = _make_private(directory) if private else directory
            self._held = _open_lock(self.directory)
            fcntl.flock(self._held, fcntl.LOCK_SH)
            if not private or _is_still(self.directory, self._held):
                break
            os.close(self._held)  # another command took it for one whose maker is dead before it was locked

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, key: str) -> Entry | None:
        """Return an entry whose every byte was checked, or None; one that cannot be believed is removed, and `said` tells why."""
        path = posixpath.join(self.directory, key)
        if not os.path.lexists(path):
            return None
        try:
            notes = verify_entry(path, key)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            with self._lock:
                self._said[key] = f"compiled program `{key[:12]}`: {reason}; it is made again"
            self._discard(path)
            return None
        try:
            os.utime(posixpath.join(path, "entry.json"), follow_symlinks=False)
        except OSError:
            pass
        return Entry(key=key, directory=posixpath.join(path, "files"), notes=notes)

    def said(self, key: str) -> str:
        """Return, once, what was wrong with an entry that `find` removed, empty where nothing was."""
        with self._lock:
            return self._said.pop(key, "")

    def add(self, key: str, files: Mapping[str, bytes], notes: Mapping[str, str]) -> Entry:
        """Keep a program and return its entry. Of two writers the first wins; both have the same.

        Args:
            key: digest of everything that it was made of.
            files: contents by relative path; checked by whoever calls.
            notes: short texts to find again with it.

        Raises:
            SandboxError: it cannot be written.
        """
        path = posixpath.join(self.directory, key)
        try:
            new = tempfile.mkdtemp(prefix=_NEW, dir=self.directory)
            try:
                write_entry(new, key, files, notes)
                os.rename(new, path)
            except BaseException as error:
                _remove(new)
                if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        except OSError as error:
            raise SandboxError(f"keep a compiled program in `{self.directory}`: {describe_errno(error.errno or 0)}") from None
        found = self.find(key)
        if found is None:  # somebody else's, and it was no good
            raise SandboxError(f"keep a compiled program in `{self.directory}`: another process changes it")
        return found

    def close(self) -> None:
        """Let go of the entries, and remove what is too old or too much, if nobody else holds the cache open."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            if self._own:
                _remove(self.directory)
                return
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # another judge runs
            prune(self.directory, bytes_limit=self._bytes_limit, age_limit_ns=self._age_limit_ns)
        finally:
            os.close(self._held)

    def _discard(self, path: str) -> None:
        """Take an entry out of the way in one step, then remove it."""
        try:
            away = tempfile.mkdtemp(prefix=_NEW, dir=self.directory)
            os.rename(path, posixpath.join(away, "old"))
        except OSError:
            return
        _remove(away)


def open_cache(environ: Mapping[str, str], *, keep: bool = True) -> Cache:
    """Return the user's cache of compiled programs, or one that ends with the process.

    Args:
        environ: for the place.
        keep: False for one of this process's own, which starts empty.

    Raises:
        SandboxError: there is no place for it.
    """
    directory = cache_path(environ, "judge/compiled" if keep else "judge/private")
    if directory is None:
        if keep:
            raise SandboxError("keep compiled programs: neither XDG_CACHE_HOME nor HOME is an absolute path", hint="`--no-cache` does without")
        directory = os.path.join(tempfile.gettempdir(), f"sandbox-judge-{os.geteuid()}", "private")
    return Cache(directory, private=not keep)


def _open_lock(directory: str) -> int:
    fd = open_private(directory)
    if fd is None:
        raise SandboxError(
            f"use `{directory}` as a cache of compiled programs: {why_not_private(directory)}",
            hint="`--no-cache` does without, and XDG_CACHE_HOME puts it elsewhere",
        )
    try:
        return os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
    except OSError as error:
        raise SandboxError(f"open `{directory}/{_LOCK}`: {describe_errno(error.errno or 0)}") from None
    finally:
        os.close(fd)


def _is_still(directory: str, lock: int) -> bool:
    try:
        return os.path.samestat(os.lstat(posixpath.join(directory, _LOCK)), os.fstat(lock))
    except OSError:
        return False


def _make_private(base: str) -> str:
    """Make a directory that lives as long as we do, and remove those whose makers are dead.

    Raises:
        SandboxError: it cannot be made.
    """
    fd = open_private(base)
    if fd is None:
        raise SandboxError(f"make a directory in `{base}`: {why_not_private(base)}")
    os.close(fd)
    for item in _items(base):
        if item.name.startswith(_PRIVATE):
            _remove_abandoned(item.path)
    try:
        return tempfile.mkdtemp(prefix=_PRIVATE, dir=base)
    except OSError as error:
        raise SandboxError(f"make a directory in `{base}`: {describe_errno(error.errno or 0)}") from None


def _remove_abandoned(path: str) -> None:
    try:
        fd = os.open(posixpath.join(path, _LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # Just made and not locked yet, or half removed: an hour decides.
        with contextlib.suppress(OSError):
            if time.time() - os.lstat(path).st_mtime > 3600:
                _remove(path)
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError:
        pass
    finally:
        os.close(fd)


def prune(directory: str, *, bytes_limit: int, age_limit_ns: int) -> int:
    """Remove what an interrupted writer left, entries not used for long, and the least used ones above a size; return how many.

    Args:
        directory: of a cache that nobody holds open.
        bytes_limit: size of all entries together.
        age_limit_ns: since the last use.
    """
    now = time.time_ns()
    entries = []
    removed = 0
    for item in _items(directory):
        if item.name == _LOCK:
            continue
        if item.name.startswith(_NEW):  # its writer is dead: a living one holds the cache open
            _remove(item.path)
            continue
        try:
            used = os.stat(posixpath.join(item.path, "entry.json"), follow_symlinks=False).st_mtime_ns
        except OSError:
            used = 0
        entries.append((used, item.path, _size(item.path)))
    total = sum(size for _, _, size in entries)
    for used, path, size in sorted(entries):
        if now - used > age_limit_ns or total > bytes_limit:
            _remove(path)
            total -= size
            removed += 1
    return removed


def _items(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return list(found)


def _size(path: str) -> int:
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(posixpath.join(directory, name)).st_size
            except OSError:
                pass
    return total


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            os.unlink(path)
        except OSError:
            pass


__all__ = ["Cache", "Entry", "open_cache", "prune"]
