"""What the functions return that a `listener` puts in the place of the host's: values that note what is looked at of them. Only `listener` imports it."""

from __future__ import annotations

import io
import os

from sandbox.api.questions import digest, kind_of, stamp_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from sandbox.api.listener import Listener

_STAT, _STAMP = 5, 8


class Status:
    """A file's status; what was looked at of it is noted: who and what it is, or with its size and times."""

    __slots__ = ("_found", "_key", "_kind", "_listener", "st_dev", "st_gid", "st_ino", "st_mode", "st_uid")

    def __init__(self, found: os.stat_result, listener: Listener, kind: str, key: str) -> None:
        self._found, self._listener, self._kind, self._key = found, listener, kind, key
        self.st_mode, self.st_ino, self.st_dev, self.st_uid, self.st_gid = stamp = stamp_of(found)[:_STAT]
        before = listener.notes[kind].setdefault(key, stamp)
        if not isinstance(before, tuple) or before[:_STAT] != stamp:
            listener.void = listener.void or f"`{key}` changed meanwhile"

    def __getattr__(self, name: str) -> Any:
        stamp, notes = stamp_of(self._found), self._listener.notes[self._kind]
        if len(notes[self._key]) == _STAMP and notes[self._key] != stamp:
            self._listener.void = self._listener.void or f"`{self._key}` changed meanwhile"
        notes[self._key] = stamp
        return getattr(self._found, name)


class Content(io.BytesIO):
    """What a file held, with the one method that a file without a buffer has besides."""

    def readall(self) -> bytes:
        """See `io.RawIOBase`."""
        return self.read()


class Flags:
    """What `os.statvfs` returns, as far as anybody asks."""

    __slots__ = ("f_flag",)

    def __init__(self, flags: int) -> None:
        self.f_flag = flags


class User:
    """What `pwd.getpwuid` returns, as far as anybody asks."""

    __slots__ = ("pw_dir",)

    def __init__(self, directory: str) -> None:
        self.pw_dir = directory


class Entries:
    """What `os.scandir` returns."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open any more."""


class Entry:
    """One name of a directory; what it is was noted with the directory."""

    __slots__ = ("_kind", "name", "path")

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name, self.path, self._kind = entry.name, entry.path, kind_of(entry)

    def is_symlink(self) -> bool:
        """See `os.DirEntry`."""
        return self._kind == 1

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """See `os.DirEntry`."""
        return os.path.isfile(self.path) if follow_symlinks and self._kind == 1 else self._kind == 2

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """See `os.DirEntry`."""
        return os.path.isdir(self.path) if follow_symlinks and self._kind == 1 else self._kind == 3

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """See `os.DirEntry`."""
        return os.stat(self.path) if follow_symlinks else os.lstat(self.path)


class Environment:
    """Variables; each that is asked for is noted by the digest of its value. Their names together are no question: they are in an entry's name."""

    def __init__(self, environ: Mapping[str, str], notes: dict[str, bytes | None]) -> None:
        self._environ, self._notes = environ, notes

    def get(self, name: str, default: Any = None) -> Any:
        """See `os.environ`."""
        found = self._environ.get(name)
        self._notes[name] = None if found is None else digest(os.fsencode(found))
        return default if found is None else found

    def __getitem__(self, name: str) -> str:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return str(found)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def keys(self) -> list[str]:
        """See `os.environ`."""
        return list(self._environ)

    def items(self) -> list[tuple[str, str]]:
        """See `os.environ`; all of them are noted."""
        return [(name, self.get(name)) for name in self._environ]
