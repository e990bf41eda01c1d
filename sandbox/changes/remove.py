"""Removing what a program of somebody else's has made: of any depth and any mode, by descriptor, through no link. Only this floor imports it."""

from __future__ import annotations

import os
import stat

from sandbox.errors import SetupError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent: int, name: str) -> None:
    """Remove a directory and everything in it, or a file; a missing one is no error.

    A directory in it is first moved up beside the others, under a number, so that a tree deeper than any path, or than there are descriptors, costs no more.

    Args:
        parent: the directory that it is in; borrowed. Nobody else changes what is below.
        name: of what goes.

    Raises:
        SetupError: something cannot be removed.
    """
    try:
        try:
            top = _open(parent, name)
        except NotADirectoryError:
            os.unlink(name, dir_fd=parent)
            return
        except FileNotFoundError:
            return
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        raise SetupError(f"remove `{name}`", error.errno or 5) from None


def _empty(top: int) -> None:
    number = 0
    pending = [""]
    while pending:
        place = pending.pop()
        directory = top if not place else _open(top, place)
        try:
            moved = []
            with os.scandir(directory) as entries:
                names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_directory in names:
                if not is_directory:
                    os.unlink(name, dir_fd=directory)
                    continue
                _unlock(directory, name)
                while True:
                    number += 1
                    free = f".{number}"
                    try:
                        os.stat(free, dir_fd=top, follow_symlinks=False)
                    except FileNotFoundError:
                        break
                os.rename(name, free, src_dir_fd=directory, dst_dir_fd=top)
                moved.append(free)
        finally:
            if place:
                os.close(directory)
        if place:
            os.rmdir(place, dir_fd=top)
        pending += moved


def _open(parent: int, name: str) -> int:
    """Open a directory of ours, whatever its mode."""
    _unlock(parent, name)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _unlock(parent: int, name: str) -> None:
    """Give ourselves every right over a directory of ours; the kernel wants the right to write to one that is to be moved."""
    handle = os.open(name, _HANDLE, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", mode | 0o700)
    finally:
        os.close(handle)


__all__ = ["remove_tree"]
