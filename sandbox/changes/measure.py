"""What a directory takes on the disk while a program writes to it, and whose it is afterwards: by descriptor, and through no link.

`api` imports it.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.changes.files import open_directory


def measure_tree(parent: int, name: str, *, limit_bytes: int, limit_files: int) -> tuple[int, int]:
    """Return bytes on the disk and the number of names below a directory; it stops where one of the bounds is passed.

    Args:
        parent: the directory that it is in; borrowed.
        name: its name.
        limit_bytes: the bound of the bytes.
        limit_files: of the names.
    """
    used = count = 0
    counted: set[tuple[int, int]] = set()
    pending = [name]
    while pending:
        place = pending.pop()
        try:
            directory = open_directory(parent, place)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # what is down there is not counted, so it counts as too much
                return used, limit_files + 1
            continue  # it has gone meanwhile
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    count += 1
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    key = (status.st_dev, status.st_ino)
                    if status.st_nlink > 1 and key in counted:
                        continue
                    counted.add(key)
                    used += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{place}/{entry.name}")
                    if used > limit_bytes or count > limit_files:
                        return used, count
        except OSError:
            continue
        finally:
            os.close(directory)
    return used, count


def give_tree(parent: int, name: str, uid: int, gid: int) -> None:
    """Let everything below a directory, and itself, belong to somebody; for root, whose payload was another user. Nothing writes there any more.

    Args:
        parent: the directory that it is in; borrowed.
        name: its path below that.
        uid: the new owner.
        gid: the new group.
    """
    pending = [name]
    while pending:
        place = pending.pop()
        try:
            directory = open_directory(parent, place)
        except OSError:
            continue  # deeper than a path can say: nobody goes on from there
        try:
            os.fchown(directory, uid, gid)
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{place}/{entry.name}")
                    else:
                        mode = entry.stat(follow_symlinks=False).st_mode
                        os.chown(entry.name, uid, gid, dir_fd=directory, follow_symlinks=False)
                        if stat.S_ISREG(mode) and mode & 0o6000:  # a change of owner takes them away
                            os.chmod(entry.name, stat.S_IMODE(mode), dir_fd=directory)
        finally:
            os.close(directory)


__all__ = ["give_tree", "measure_tree"]
