"""Reads directories in overlay form as the one tree that they make together: whiteouts, opaque directories, links that stay inside.

The layers are of an image's archive, hostile data that was unpacked with care: nothing is followed, everything is looked at by name relative to a descriptor.
A single host directory is read in the same way. Source: Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from sandbox.errors import PolicyError
from sandbox.volumes.place import open_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPAQUE = "user.overlay.opaque"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAXIMUM_LINKS = 40  # as the kernel: path_resolution(7)
_MAXIMUM_STEPS = 4096


class Directory(NamedTuple):
    """A directory of the merged tree: its path below each layer, without a leading slash, and the layers that it is in, topmost first."""

    path: str
    layers: tuple[int, ...]


class Listing(NamedTuple):
    """What a directory holds: subdirectories by name, and for each layer the names of everything else that shows of it."""

    directories: dict[str, tuple[int, ...]]
    others: dict[int, list[str]]


class Layers:
    """The tree; a context manager.

    Args:
        paths: host directories, topmost first.

    Raises:
        OSError: one cannot be opened.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._fds: list[int] = []
        try:
            for path in paths:
                self._fds.append(os.open(path, _OPEN))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; idempotent."""
        while self._fds:
            os.close(self._fds.pop())

    def open(self, directory: Directory, layer: int) -> int:
        """Return a descriptor of a directory in one of its layers."""
        return open_below(self._fds[layer], directory.path)

    def resolve(self, path: str) -> Directory | None:
        """Return the directory at an absolute path, links followed as a program inside would; None where there is nothing.

        Raises:
            PolicyError: something else than a directory is there.
            OSError: it cannot be looked at.
        """
        todo = path.split("/")[::-1]
        stack = [Directory("", tuple(range(len(self._fds))))]
        links = steps = 0
        while todo:
            name = todo.pop()
            steps += 1
            if steps > _MAXIMUM_STEPS:
                return None
            if name in ("", "."):
                continue
            if name == "..":
                if len(stack) > 1:
                    stack.pop()
                continue
            found = self._look_up(stack[-1], name)
            if found is None:
                return None
            if isinstance(found, Directory):
                stack.append(found)
                continue
            if not found:
                raise PolicyError(f"`{path}` is a file, or leads to one", hint="a volume is a directory: choose another target")
            links += 1
            if links > _MAXIMUM_LINKS:
                return None
            if found.startswith("/"):
                del stack[1:]
            todo.extend(found.split("/")[::-1])
        return stack[-1]

    def _look_up(self, parent: Directory, name: str) -> Directory | str | None:
        """Return a subdirectory, a link's text, an empty text for anything else, or None for nothing."""
        layers: list[int] = []
        for layer in parent.layers:
            fd = self.open(parent, layer)
            try:
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    if layers:
                        break
                    if _is_whiteout(status):
                        return None
                    return os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else ""
                layers.append(layer)
                if _is_opaque(fd, name):
                    break
            finally:
                os.close(fd)
        return Directory(f"{parent.path}/{name}".lstrip("/"), tuple(layers)) if layers else None

    def list(self, directory: Directory, most: int) -> Listing:
        """Return what shows in a directory.

        Args:
            directory: of this tree.
            most: names in all its layers together.

        Raises:
            PolicyError: there are more.
            OSError: it cannot be looked at.
        """
        directories: dict[str, list[int]] = {}
        closed: set[str] = set()  # nothing of a lower layer shows there
        others: dict[int, list[str]] = {}
        seen = 0
        for layer in directory.layers:
            fd = self.open(directory, layer)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        seen += 1
                        if seen > most:
                            raise PolicyError(f"`/{directory.path}` has more than {most} names")
                        name = entry.name
                        if name in closed:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            directories.setdefault(name, []).append(layer)
                            if len(self._fds) > 1 and _is_opaque(fd, name):
                                closed.add(name)
                            continue
                        closed.add(name)
                        if name not in directories and not (
                            not entry.is_file(follow_symlinks=False) and not entry.is_symlink() and _is_whiteout(entry.stat(follow_symlinks=False))
                        ):
                            others.setdefault(layer, []).append(name)
            finally:
                os.close(fd)
        return Listing({name: tuple(layers) for name, layers in directories.items()}, others)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(directory: int, name: str) -> bool:
    fd = os.open(name, _OPEN, dir_fd=directory)
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError:
        return False
    finally:
        os.close(fd)


__all__ = ["Directory", "Layers", "Listing"]
