"""Removes and measures trees that were made by untrusted programs: by descriptor, without following a link, however deep and whatever their modes are.

Imports nothing of ours; `volumes` imports this module.
"""

from __future__ import annotations

import os
import stat

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_WALK_DEPTH = 256
_WALK_ENTRIES = 2_000_000


def remove_tree(directory: int, name: str) -> None:
    """Remove what `name` is in a directory; nothing there is no error.

    A directory in it is moved up beside it before it is emptied, so that depth costs neither descriptors nor stack: nesting of 100 000 is cheap to make.

    Args:
        directory: borrowed; the caller's alone, so that nobody moves anything meanwhile.
        name: of the tree; may have slashes, of directories that are the caller's alone.

    Raises:
        OSError: something cannot be removed.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=directory)
        return
    top = _open_for_removal(directory, name)
    try:
        waiting: list[str] = []
        _empty(top, top, waiting)
        while waiting:
            each = waiting[-1]
            fd = _open_for_removal(top, each)
            try:
                waiting.pop()
                _empty(fd, top, waiting)
            finally:
                os.close(fd)
            os.rmdir(each, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _empty(fd: int, top: int, waiting: list[str]) -> None:
    """Remove the files of a directory, and move its directories to the top under names that nothing there has."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            moved = f".{os.urandom(12).hex()}"
            # Moving a directory writes its `..`, for which it has to be writable.
            os.close(_open_for_removal(fd, name))
            os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=top)
            waiting.append(moved)
        else:
            os.unlink(name, dir_fd=fd)


def _open_for_removal(directory: int, name: str) -> int:
    """Open a directory whose owner we are, whatever its mode: a program may have taken every right away."""
    path = os.open(name, _PATH | os.O_DIRECTORY, dir_fd=directory)
    try:
        mode = os.fstat(path).st_mode
        if mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{path}", stat.S_IMODE(mode) | 0o700)
        return os.open(name, _OPEN, dir_fd=directory)
    finally:
        os.close(path)


def measure_tree(directory: int) -> tuple[int, int, bool]:
    """Return the bytes that a tree takes on the disk, its entries, and whether that is all of it (not too deep, too many, unreadable).

    Args:
        directory: its top; borrowed.
    """
    used, count, whole = 0, 0, True
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[int, int]] = [(os.dup(directory), 0)]
    try:
        while stack:
            fd, depth = stack.pop()
            try:
                with os.scandir(fd) as entries:
                    names = [entry.name for entry in entries]
                for name in names:
                    count += 1
                    if count > _WALK_ENTRIES:
                        return used, count, False
                    try:
                        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) not in seen:
                            used += status.st_blocks * 512
                        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                            seen.add((status.st_dev, status.st_ino))
                        if stat.S_ISDIR(status.st_mode):
                            if depth >= _WALK_DEPTH or len(stack) >= _WALK_DEPTH:
                                whole = False
                            else:
                                stack.append((os.open(name, _OPEN, dir_fd=fd), depth + 1))
                    except OSError:
                        whole = False
            except OSError:
                whole = False
            finally:
                os.close(fd)
    finally:
        for fd, _ in stack:
            os.close(fd)
    return used, count, whole


__all__ = ["measure_tree", "remove_tree"]
