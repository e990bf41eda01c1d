"""The files of an image as it is distributed, by name: in a directory, or in a tar archive that is read once.

What is in an archive goes to files without structure in the store's own ``tmp``, so that a name in it is only ever a key of a table.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from sandbox.errors import describe_errno
from sandbox.images.bounds import MAXIMUM_PATH, Budget, ImageError, copy_error
from sandbox.images.packing import Unpacked, packing_of
from sandbox.images.paths import split_path
from sandbox.images.tarread import Kind, TarReader
from sandbox.images.treeops import DIRECTORY_FLAGS
from sandbox.kernel.calls import open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sandbox.images.store import Progress, Store

    class Members(Protocol):
        """Named files."""

        name: str

        def has(self, path: str) -> bool:
            """Whether there is such a file."""

        def open(self, path: str) -> int:
            """Return a read-only descriptor of a regular file, for the caller to close."""

        def close(self) -> None:
            """Let go of everything."""


_MAXIMUM_FILES = 100_000
_MAXIMUM_LINKS = 8


class DirectoryMembers:
    """The files below a directory; none is reached through a link, and none that is not a regular file is opened.

    Args:
        fd: the directory; taken.
        name: for messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    def has(self, path: str) -> bool:
        """See `Members`."""
        try:
            os.close(self.open(path))
        except ImageError as error:
            if error.hint is not None:
                raise
            return False
        return True

    def open(self, path: str) -> int:
        """See `Members`.

        Raises:
            ImageError: it is missing (without a hint), or not a regular file that is reached without links.
        """
        if "\0" in path:
            raise ImageError("a NUL in the name of a file", origin=f"`{self.name}`")
        try:
            fd = open_beneath(self._fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            hint = None
            if error.errno in (errno.ELOOP, errno.EXDEV):
                hint = "an image's files must be files: copy what the link leads to"
            raise ImageError(f"open `{path[:200]}`: {describe_errno(error.errno or 0)}", origin=f"`{self.name}`", hint=hint) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(f"`{path[:200]}` is no regular file", origin=f"`{self.name}`", hint="an image's files must be files")
        return fd

    def close(self) -> None:
        """See `Members`."""
        os.close(self._fd)


class ArchiveMembers:
    """The regular files of a tar archive, packed or not, kept in `tmp` until the store is closed. Links lead to other entries, never to a file.

    Args:
        store: open for writing; borrowed.
        fd: the archive, at its beginning; borrowed.
        budget: of the import: how many files, and how many bytes, there may be.
        name: for messages.
        progress: told of each part.

    Raises:
        ImageError: it is no archive, is damaged or too large.
    """

    def __init__(self, store: Store, fd: int, budget: Budget, name: str, progress: Progress | None = None) -> None:
        self.name = name
        self._store = store
        self._files: dict[str, str] = {}
        self._links: dict[str, str] = {}
        stream = Unpacked(fd, packing_of(fd), budget, name)
        total = os.fstat(fd).st_size
        room = 2 * budget.bounds.bytes  # packed and unpacked layers
        try:
            reader = TarReader(stream, budget, name)
            for member in reader:
                budget.entry()
                if len(self._files) + len(self._links) >= _MAXIMUM_FILES:
                    raise ImageError(f"more than {_MAXIMUM_FILES} files in an image", origin=f"`{name}`")
                try:
                    path = "/".join(map(os.fsdecode, split_path(member.name, 64)))
                except ImageError as error:
                    raise copy_error(error, f"`{name}`, entry `{member.shown}`") from None
                self._files.pop(path, None)
                self._links.pop(path, None)
                if len(member.target) > MAXIMUM_PATH:
                    raise ImageError(f"a link to a path longer than {MAXIMUM_PATH} bytes", origin=f"`{name}`, entry `{member.shown}`")
                budget.remember(len(path) + len(member.target))
                if member.kind is Kind.FILE and member.spans is None:
                    room -= member.size
                    if room < 0:
                        budget.refuse("bytes", f"more than {2 * budget.bounds.bytes} bytes in the archive")
                    self._files[path] = self._keep(reader)
                    if progress is not None:
                        progress(f"read `{posixpath.basename(name)}`", min(stream.taken, total), total)
                elif member.kind is Kind.SYMLINK:
                    self._links[path] = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), os.fsdecode(member.target)))[1:]
                elif member.kind is Kind.LINK:
                    self._links[path] = posixpath.normpath("/" + os.fsdecode(member.target))[1:]
        finally:
            stream.close()

    def has(self, path: str) -> bool:
        """See `Members`."""
        return self._follow(path) is not None

    def open(self, path: str) -> int:
        """See `Members`.

        Raises:
            ImageError: there is no such file.
        """
        kept = self._follow(path)
        if kept is None:
            raise ImageError(f"there is no file `{path[:200]}`", origin=f"`{self.name}`")
        return os.open(kept, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._store.tmp)

    def close(self) -> None:
        """See `Members`; the files go with the store's `tmp`."""
        self._files.clear()

    def _keep(self, reader: TarReader) -> str:
        name = self._store.new_name()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._store.tmp)
        with open(fd, "wb", buffering=0) as file:
            while chunk := reader.read(1 << 20):
                file.write(chunk)
        return name

    def _follow(self, path: str) -> str | None:
        for _ in range(_MAXIMUM_LINKS):
            if path in self._files:
                return self._files[path]
            if path not in self._links:
                return None
            path = self._links[path]
        return None


def open_directory_members(path: str) -> DirectoryMembers:
    """Open a directory that holds an image; the path itself is the caller's and may be a link.

    Raises:
        OSError: it cannot be opened.
    """
    return DirectoryMembers(os.open(path, DIRECTORY_FLAGS & ~os.O_NOFOLLOW), path)


def read_member(members: Members, path: str, limit: int) -> bytes:
    """Return a small file whole.

    Raises:
        ImageError: it is missing, or larger than documents may be.
    """
    fd = members.open(path)
    try:
        if os.fstat(fd).st_size > limit:
            raise ImageError(f"`{path}` is larger than {limit} bytes", origin=f"`{members.name}`", hint="where you trust it, `--max-document-bytes`")
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)


__all__ = ["ArchiveMembers", "DirectoryMembers", "open_directory_members", "read_member"]
