"""The files of a package, and none besides: names, links that stay inside, and bounds on how much is read.

A path is walked one component at a time, each opened without following links; what a link says is walked the same way, and ``..`` goes back along what was
walked. So nothing outside is ever opened, also when somebody changes the package meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from sandbox.errors import describe_errno
from sandbox.judge.errors import PackageError
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,254}", re.ASCII)
"""Names that are read; every other name counts as absent. Source: Problem package format, general requirements."""

MAXIMUM_ENTRIES = 200_000
MAXIMUM_SOURCE_BYTES = 512 << 20
"""Of all programs together: they are kept in memory."""
_MAXIMUM_LINKS = 40
_MAXIMUM_STEPS = 4096
_MAXIMUM_DEPTH = 64
_MAXIMUM_WARNINGS = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class LinkError(PackageError):
    """A symbolic link of a package leads out of it, nowhere, or round and round."""


class DanglingError(LinkError):
    """It leads nowhere, inside the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A name in a directory of the package; links are seen through. `trouble` is why a link cannot be."""

    name: str
    path: str
    directory: bool = False
    size: int = 0
    executable: bool = False
    trouble: LinkError | None = None


class Tree:
    """A directory that is read, and nothing outside of it.

    Args:
        root: host path of the directory.
        shown: what errors call it.
        follow: directories outside that links may lead to all the same.
    """

    def __init__(self, root: str, *, shown: str = "", follow: Sequence[str] = ()) -> None:
        self.root = os.path.realpath(root)
        self.shown = shown or root
        self.warnings: list[str] = []
        self.left_out: list[str] = []
        self.yaml_bytes = 0
        self._follow = tuple(os.path.realpath(each) for each in follow)
        self._entries = 0
        self._bytes = 0
        try:
            self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            hint = "a package is a directory, or an archive whose name ends in `.zip` or `.kpp`" if error.errno == errno.ENOTDIR else None
            raise PackageError(f"open package `{root}`: {describe_errno(error.errno or 0)}", hint=hint) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is held open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def place(self, path: str) -> str:
        """Return what errors call a path of the package."""
        return f"{self.shown}/{path}" if path else self.shown

    def warn(self, message: str, path: str = "", line: int = 0) -> None:
        """Keep something doubtful; the same is kept once."""
        text = f"{self.place(path)}{f':{line}' if line else ''}: {message}"
        if len(self.warnings) < _MAXIMUM_WARNINGS and text not in self.warnings:
            self.warnings.append(text)

    def leave_out(self, entry: Entry) -> None:
        """Keep that an entry is not read, because of its trouble; where it leads out of the package, in `left_out` as well."""
        assert entry.trouble is not None
        self.warn(f"{entry.trouble.message}; it is not read", entry.path)
        if not isinstance(entry.trouble, DanglingError):
            self.left_out.append(entry.path)

    def host_path(self, path: str) -> str:
        """Return where a file or directory is on the host, links resolved. Raises as `open`."""
        fd, found = self._find(path)
        os.close(fd)
        return found

    def open(self, path: str) -> int:
        """Return an fd of a regular file or a directory; the caller owns it.

        Raises:
            LinkError: a link on the way leads out of the package, nowhere, or in a circle.
            PackageError: it is neither, or cannot be opened.
        """
        return self._find(path)[0]

    def _find(self, path: str) -> tuple[int, str]:
        try:
            return self._open(path)
        except LinkError:
            found = os.path.realpath(os.path.join(self.root, path)) if self._follow else ""
            for each in self._follow:
                if found.startswith(each + "/"):
                    with Tree(each, shown=each) as other:
                        return other._open(found[len(each) + 1 :])
            raise
        except OSError as error:
            raise PackageError(f"open `{self.place(path)}`: {describe_errno(error.errno or 0)}") from None

    def _open(self, path: str) -> tuple[int, str]:
        """Walk a path; return the fd of what is there and its host path."""
        stack = [os.dup(self._fd)]
        names = [self.root]
        try:
            pending = path.split("/")[::-1]
            links = steps = 0
            while pending:
                part = pending.pop()
                steps += 1
                if steps > _MAXIMUM_STEPS:
                    raise LinkError("link takes too many steps", origin=self.place(path))
                if part in ("", "."):
                    continue
                if part == "..":
                    if len(stack) == 1:
                        raise LinkError("link leads out of the package", origin=self.place(path))
                    os.close(stack.pop())
                    names.pop()
                    continue
                try:
                    mode = os.stat(part, dir_fd=stack[-1], follow_symlinks=False).st_mode
                    if stat.S_ISLNK(mode):
                        target = os.readlink(part, dir_fd=stack[-1])
                        links += 1
                        if links > _MAXIMUM_LINKS:
                            raise LinkError("links lead round in a circle", origin=self.place(path))
                        if target.startswith("/"):
                            raise LinkError("link is absolute, it must stay inside the package", origin=self.place(path))
                        pending += target.split("/")[::-1]
                    elif stat.S_ISDIR(mode):
                        stack.append(os.open(part, _DIRECTORY, dir_fd=stack[-1]))
                        names.append(part)
                    elif not stat.S_ISREG(mode):
                        raise PackageError("read a package: neither file nor directory", origin=self.place(path))
                    elif any(each not in ("", ".") for each in pending):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    else:
                        return _regular(os.open(part, _FILE, dir_fd=stack[-1]), self.place(path)), "/".join((*names, part))
                except FileNotFoundError:
                    if links:
                        raise DanglingError("link leads nowhere", origin=self.place(path)) from None
                    raise
            return stack.pop(), "/".join(names)
        finally:
            for each in stack:
                os.close(each)

    def list(self, path: str) -> list[Entry]:
        """Return what a directory holds, sorted by name, links seen through; an absent directory holds nothing.

        Names that begin with a dot are left out without a word, others that no package may have with one.

        Raises:
            PackageError: there is more in the package than will be read, or it cannot be read.
        """
        try:
            fd = self.open(path)
        except PackageError as error:
            if isinstance(error, LinkError) or not self.missing(path):
                raise
            return []
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise PackageError("read a package: not a directory", origin=self.place(path))
            found: list[Entry] = []
            with os.scandir(fd) as entries:
                for each in entries:
                    self._entries += 1
                    if self._entries > MAXIMUM_ENTRIES:
                        raise PackageError(f"read a package: more than {MAXIMUM_ENTRIES} files", origin=self.shown)
                    if NAME.fullmatch(each.name):
                        found.append(self._entry(path, each.name, fd))
                    elif not each.name.startswith("."):
                        self.warn(f"`{shown(each.name)}` is not read: names are of letters, digits, `_`, `.` and `-`", path)
        except OSError as error:
            raise PackageError(f"read `{self.place(path)}`: {describe_errno(error.errno or 0)}") from None
        finally:
            os.close(fd)
        return sorted(found, key=lambda entry: entry.name)

    def _entry(self, path: str, name: str, fd: int) -> Entry:
        below = f"{path}/{name}" if path else name
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            try:
                target = self.open(below)
            except LinkError as error:
                return Entry(name=name, path=below, trouble=error)
            try:
                status = os.fstat(target)
            finally:
                os.close(target)
        directory = stat.S_ISDIR(status.st_mode)
        return Entry(name=name, path=below, directory=directory, size=status.st_size, executable=bool(status.st_mode & 0o111))

    def missing(self, path: str) -> bool:
        """Whether nothing is at a path. A link that leads nowhere is something."""
        parent, _, name = path.rpartition("/")
        try:
            fd, _ = self._open(parent)
        except (OSError, PackageError):
            return True
        try:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def walk(self, path: str) -> Iterator[tuple[str, Entry]]:
        """Yield (path below `path`, entry) for every file below a directory, in order; what a link leads to is walked as if it were there.

        Raises:
            PackageError: as `list`; also when links make the tree endless.
        """
        pending = [("", 0)]
        while pending:
            below, depth = pending.pop()
            if depth > _MAXIMUM_DEPTH:
                raise PackageError(f"read a package: directories nested deeper than {_MAXIMUM_DEPTH}", origin=self.place(path))
            deeper = []
            for entry in self.list(f"{path}/{below}" if below else path):
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.directory:
                    deeper.append((name, depth + 1))
                else:
                    yield name, entry
            pending += reversed(deeper)

    def read(self, path: str, limit: int, what: str) -> bytes:
        """Return a file's bytes.

        Args:
            path: in the package.
            limit: bytes that it may have.
            what: what it is, for the error.

        Raises:
            PackageError: it is larger, or all that was read together is; or it cannot be read.
        """
        fd = self.open(path)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PackageError(f"read {what}: not a regular file", origin=self.place(path))
            parts = []
            left = limit + 1
            while left and (part := os.read(fd, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise PackageError(f"read `{self.place(path)}`: {describe_errno(error.errno or 0)}") from None
        finally:
            os.close(fd)
        if not left:
            raise PackageError(f"read {what}: larger than {limit} bytes", origin=self.place(path))
        self.count(limit + 1 - left)
        return b"".join(parts)

    def count(self, size: int) -> None:
        """Count bytes that are kept in memory. Raises `PackageError` when there are too many of them."""
        self._bytes += size
        if self._bytes > MAXIMUM_SOURCE_BYTES:
            raise PackageError(f"read a package: programs of more than {MAXIMUM_SOURCE_BYTES} bytes", origin=self.shown)


def _regular(fd: int, place: str) -> int:
    """Return the fd of what was just opened if it is still a regular file, and blocking."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PackageError("read a package: changed while it was read", origin=place)
    os.set_blocking(fd, True)
    return fd


def shown(name: str) -> str:
    """Return a name as it can stand in a message: printable, and not long."""
    return "".join(each if each.isprintable() else "?" for each in name[:80]) + ("…" if len(name) > 80 else "")
