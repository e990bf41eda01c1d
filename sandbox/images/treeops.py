"""Files of the store by descriptor: nothing below a directory is reached by following a link, whatever lies there.

The store's directory is the caller's alone, so that nobody changes it under our hands; what is in it was written by strangers all the same.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.kernel.calls import open_beneath

PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory_beneath(root: int, path: bytes) -> int:
    """Return an O_PATH descriptor of a directory below `root` (borrowed), reached through no link.

    Raises:
        OSError: ENOENT, ENOTDIR, ELOOP at a link.
    """
    if not path:
        return os.open(".", PATH_FLAGS | os.O_DIRECTORY, dir_fd=root)
    return open_beneath(root, os.fsdecode(path), PATH_FLAGS | os.O_DIRECTORY)


def status_at(directory: int, name: bytes) -> os.stat_result | None:
    """Return what a name is, without following it, or None for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def make_new_directory(parent: int, name: str) -> int:
    """Make a directory of mode 0700 and return a descriptor of it; a leftover of the same name is an error."""
    os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)


def remove_at(parent: int, name: bytes, trash: int) -> int:
    """Remove a file, or a directory with everything in it, and return how many names went.

    A directory inside another is moved to `trash` before it is emptied, so that neither the depth of a tree nor the length of its paths matters.

    Args:
        parent: the directory that has it; borrowed.
        name: one name.
        trash: a directory of ours on the same file system; borrowed. What does not go stays there.

    Raises:
        OSError: a name does not go (EPERM where it belongs to another id).
    """
    status = status_at(parent, name)
    if status is None:
        return 0
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return 1
    _open_up(parent, name, status.st_mode)
    own = os.urandom(8).hex().encode()
    first = own + b"-0"
    os.rename(name, first, src_dir_fd=parent, dst_dir_fd=trash)
    todo = [first]
    made, removed = 1, 0
    while todo:
        place = todo.pop()
        directory = os.open(place, DIRECTORY_FLAGS, dir_fd=trash)
        try:
            with os.scandir(directory) as entries:
                found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            for child, is_directory in found:
                if is_directory:
                    _open_up(directory, child, os.stat(child, dir_fd=directory, follow_symlinks=False).st_mode)
                    aside = b"%b-%d" % (own, made)
                    os.rename(child, aside, src_dir_fd=directory, dst_dir_fd=trash)
                    todo.append(aside)
                    made += 1
                else:
                    os.unlink(child, dir_fd=directory)
                    removed += 1
        finally:
            os.close(directory)
        os.rmdir(place, dir_fd=trash)
        removed += 1
    return removed


def _open_up(parent: int, name: bytes, mode: int) -> None:
    """Let the owner into a directory, and let it be moved, which writes its `..`."""
    if mode & 0o700 == 0o700:
        return
    fd = os.open(name, PATH_FLAGS | os.O_DIRECTORY, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def copy_content(source: int, target: int, size: int) -> None:
    """Copy a file's bytes, holes included; both descriptors are borrowed.

    Raises:
        OSError: it cannot be read or written; EIO when it is shorter than `size`.
    """
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < min(end, size):
            count = os.copy_file_range(source, target, min(end, size) - start, start, start)
            if not count:
                raise OSError(errno.EIO, "the file became shorter")
            start += count
        position = end
    os.ftruncate(target, size)


def sync_directory(fd: int) -> None:
    """Have what was renamed into a directory survive a power failure; borrowed."""
    os.fsync(fd)


__all__ = [
    "DIRECTORY_FLAGS", "PATH_FLAGS", "copy_content", "make_new_directory", "open_directory_beneath", "remove_at", "status_at", "sync_directory",
]  # fmt: skip
