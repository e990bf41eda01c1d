"""What a killed `apply` leaves in the original, found and taken away. Only `apply` and `api` import it."""

from __future__ import annotations

import json
import os
import stat

from sandbox.changes.files import look, open_directory
from sandbox.changes.model import Change, Type
from sandbox.changes.status import identity, identity_of
from sandbox.errors import describe_errno
from sandbox.kernel.calls import RENAME_NOREPLACE, rename_with
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.changes.keep import Opened

UNLOCKED = 0o300
_NOTE = "applying"


@dataclass(slots=True, kw_only=True)
class Applied:
    """What came of it: how many changes were made, and (change, reason) of those that were not."""

    made: int = 0
    failed: list[tuple[Change, str]] = field(default_factory=list)


def temporary_name(run: str) -> str:
    """Return the name that a file has in the original's directories for a moment."""
    return f".sandbox-{run}.tmp"


def begin_apply(opened: Opened) -> None:
    """Note that changes are being made: what a kill leaves is looked for as long as the note is there."""
    os.close(os.open(_NOTE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=opened.directory))


def note_unlocked(opened: Opened, tree: int, path: str, mode: int) -> None:
    """Note that a directory of the original is about to be made writable for its owner, whose mode is to be had back after a kill."""
    fd = os.open(_NOTE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=opened.directory)
    try:
        os.write(fd, json.dumps([tree, path, mode]).encode("ascii") + b"\n")
    finally:
        os.close(fd)


def _lock_again(opened: Opened) -> None:
    """Give directories that are as a killed `apply` has left them the modes that they had."""
    with open(os.open(_NOTE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened.directory), "rb") as file:
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            tree, path, mode = json.loads(line)
            fd = open_directory(opened.layers(tree)[1][0], path)
        except (ValueError, OSError):
            continue  # half a line, whose directory was not touched yet; or it is gone
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) == mode | UNLOCKED:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def is_applying(opened: Opened) -> bool:
    """Whether changes are being made, or were when a kill came."""
    return os.access(_NOTE, os.F_OK, dir_fd=opened.directory)


def end_apply(opened: Opened) -> None:
    """Take the note away."""
    os.unlink(_NOTE, dir_fd=opened.directory)


def tidy(opened: Opened) -> list[str]:
    """Remove from the original what a killed `apply` has left there, before the next one or before its run is let go.

    Returns:
        names of what is there, is not of the run, and stays.
    """
    kept: list[str] = []
    if not is_applying(opened):
        return kept
    changes = list(opened.changes())
    for number, tree in enumerate(opened.record.trees):
        if not tree.image:
            kept += take_up(opened.record.run, opened.layers(number)[1][0], [change for change in changes if change.tree == number])
    _lock_again(opened)
    return kept


def take_up(run: str, root: int, changes: Sequence[Change]) -> list[str]:
    """Remove what a killed `apply` has left: the old file after an exchange, or the new one before it; anything else is somebody's work, and stays.

    Args:
        run: its id.
        root: descriptor of the original; borrowed.
        changes: in whose directories to look.

    Returns:
        as `tidy`.
    """
    stays: list[str] = []
    below: dict[str, list[Change]] = {}
    for change in changes:
        below.setdefault(change.path.rpartition("/")[0], []).append(change)
    name = temporary_name(run)
    for directory, those in below.items():
        try:
            parent = open_directory(root, directory)
        except OSError:
            continue
        try:
            status = look(parent, name)
            if status is None:
                continue
            if _is_ours(parent, name, status, those):
                remove(parent, name)
            else:
                stays.append(f"{directory}/{keep(parent, name)}".lstrip("/"))
        except OSError as error:
            stays.append(f"{directory}/{name}".lstrip("/") + f": {describe_errno(error.errno or 0)}")
        finally:
            os.close(parent)
    return stays


def _is_ours(parent: int, name: str, status: os.stat_result, changes: Sequence[Change]) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return True  # it is only removed if it is empty
    if stat.S_ISREG(status.st_mode) and not stat.S_IMODE(status.st_mode):
        return True  # half of a new one
    target = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else ""
    for change in changes:
        if change.before is not None and identity(change.before) == identity_of(status, target):
            return True
        after = change.after
        if after is not None and stat.S_IFMT(status.st_mode) == file_format(after.type):
            if after.type is Type.FILE and (after.size, after.mtime_ns) == (status.st_size, status.st_mtime_ns):
                return True
            if after.type is not Type.FILE and after.target == target:
                return True
    return False


def keep(parent: int, name: str) -> str:
    """Give what has the temporary name, and is somebody's work, another one, which is returned."""
    number = 0
    while True:
        number += 1
        kept = f"{name}.{number}.kept"
        try:
            rename_with(parent, name, parent, kept, RENAME_NOREPLACE)
            return kept
        except FileExistsError:
            continue


def remove(parent: int, name: str) -> None:
    """Remove a file, a link, or an empty directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=parent)


def file_format(kind: Type) -> int:
    """Return the bits of a mode that say it."""
    return {
        Type.FILE: stat.S_IFREG, Type.DIRECTORY: stat.S_IFDIR, Type.SYMLINK: stat.S_IFLNK, Type.FIFO: stat.S_IFIFO, Type.SOCKET: stat.S_IFSOCK,
        Type.DEVICE: stat.S_IFCHR,
    }[kind]  # fmt: skip


__all__ = [
    "UNLOCKED", "Applied", "begin_apply", "end_apply", "file_format", "is_applying", "keep", "note_unlocked", "remove", "take_up",
    "temporary_name", "tidy",
]  # fmt: skip
