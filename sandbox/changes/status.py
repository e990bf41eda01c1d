"""How a change stands to the original now: to be done, done already, or in conflict with what somebody else did there meanwhile.

Only this floor imports it.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.changes.files import is_whiteout, look, make_facts, open_directory, open_file, read_xattrs, same_content
from sandbox.changes.model import Change, Facts, Kind, Type
from sandbox.enums import StrEnum
from sandbox.errors import describe_errno
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence

FIRST_MODE = 0o700
"""Of a directory that is being made; it gets its own when everything is in it."""
SET_ID = stat.S_ISUID | stat.S_ISGID


class Standing(StrEnum):
    """See the module."""

    PENDING = "pending"
    DONE = "done"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How one change stands; `now` is what the original is at that path, `reason` says what is in conflict."""

    standing: Standing
    now: Facts | None = None
    reason: str = ""


class Source:
    """The files of a run, as its uppers show them.

    Args:
        uppers: topmost first; borrowed.
    """

    def __init__(self, uppers: Sequence[int]) -> None:
        self._uppers = tuple(uppers)

    def parent(self, path: str, facts: Facts) -> int:
        """Open the directory that has the very file that was listed.

        Raises:
            FileNotFoundError: it is in none.
        """
        directory, _, name = path.rpartition("/")
        for upper in self._uppers:
            try:
                fd = open_directory(upper, directory)
            except OSError:
                continue
            status = look(fd, name)
            if status is not None and not is_whiteout(status) and (status.st_ino, status.st_dev) == (facts.inode, facts.device):
                return fd
            os.close(fd)
        raise FileNotFoundError(2, os.strerror(2), path)


def stand(change: Change, root: int, source: Source, since_ns: int, made: Container[str] = (), *, again: bool = False) -> Status:
    """Say how a change stands.

    Args:
        change: of the listing.
        root: descriptor of the original; borrowed.
        source: the run's files.
        since_ns: when the run, or the first of its chain, began.
        made: the paths of directories that the run made, or put in the place of something else: what is below one has nothing to stand against.
        again: an `apply` was killed: a directory of the mode that it gives them at first may be its own.
    """
    directory, _, name = change.path.rpartition("/")
    try:
        parent = open_directory(root, directory)
    except OSError as error:
        if change.after is None and error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Status(standing=Standing.DONE)
        if _is_below(change.path, made):
            return Status(standing=Standing.PENDING)
        return Status(standing=Standing.CONFLICT, reason=f"the directory that it was in: {describe_errno(error.errno or 0)}")
    try:
        status = look(parent, name)
        now = None if status is None else make_facts(parent, name, status)
        if again and _is_half_made(change, now):
            return Status(standing=Standing.PENDING, now=now)
        return _compare(change, now, since_ns, same=_is_as_after(change, parent, name, now, source))
    finally:
        os.close(parent)


def _compare(change: Change, now: Facts | None, since_ns: int, *, same: bool) -> Status:
    before, after = change.before, change.after
    if same or (after is None and now is None):
        return Status(standing=Standing.DONE, now=now)
    if now is None:
        if before is None:
            return Status(standing=Standing.PENDING)
        return Status(standing=Standing.CONFLICT, reason="it is gone from the original")
    if before is None:
        return Status(standing=Standing.CONFLICT, now=now, reason=f"the original has a {now.type} there now")
    if now.type is not before.type:
        return Status(standing=Standing.CONFLICT, now=now, reason=f"it was a {before.type} and is a {now.type} now")
    if now.type is Type.DIRECTORY:
        if now.inode != before.inode:
            return Status(standing=Standing.CONFLICT, now=now, reason="another directory is there now")
        if now.mode != before.mode and "mode" in change.what:
            return Status(standing=Standing.CONFLICT, now=now, reason="its mode was changed in the original")
        return Status(standing=Standing.PENDING, now=now)
    if identity(now) != identity(before) or now.mode != before.mode:
        return Status(standing=Standing.CONFLICT, now=now, reason="it was changed in the original since the run")
    if now.ctime_ns > since_ns:
        # Recorded at the end of the run it looks as it did then, but the run has seen, or copied, what it was before.
        return Status(standing=Standing.CONFLICT, now=now, reason="it was changed in the original after the run began")
    return Status(standing=Standing.PENDING, now=now)


def _is_half_made(change: Change, now: Facts | None) -> bool:
    after = change.after
    if after is None or now is None or change.kind is Kind.MODIFIED:
        return False
    return after.type is now.type is Type.DIRECTORY and now.mode == FIRST_MODE != after.mode


def _is_below(path: str, made: Container[str]) -> bool:
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in made:
            return True
    return False


def identity(facts: Facts) -> tuple[int, int, int, int, str]:
    """Return what tells a file that was written to, or replaced, from what it was. Not its ctime, which a rename of ours changes."""
    return facts.device, facts.inode, facts.size, facts.mtime_ns, facts.target


def identity_of(status: os.stat_result, target: str = "") -> tuple[int, int, int, int, str]:
    """Return the same of a status."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, target


def _is_as_after(change: Change, parent: int, name: str, now: Facts | None, source: Source) -> bool:
    """Whether the original is what the run made of it already: it was applied, or somebody did the same."""
    after = change.after
    if after is None or now is None:
        return False
    if after.type is not now.type:
        return False
    if after.type is Type.SYMLINK:
        return after.target == now.target
    if (after.mode | SET_ID) != (now.mode | SET_ID):
        return False
    if after.type not in (Type.FILE, Type.DIRECTORY):
        return True
    if after.type is Type.FILE and after.size != now.size:
        return False
    if "times" in change.what and after.mtime_ns != now.mtime_ns:
        return False
    if change.before is not None and identity(change.before) == identity(now) and "content" in change.what:
        return False  # untouched
    try:
        theirs = source.parent(change.path, after)
    except OSError:
        return False
    try:
        leaf = change.path.rpartition("/")[2]
        original = read_xattrs(parent, name, now.type)
        if original is not None and original != read_xattrs(theirs, leaf, after.type, force=True):
            return False
        if change.link:
            return _is_link(change, parent, now)
        return after.type is Type.DIRECTORY or _holds_same(theirs, leaf, parent, name, unreadable=after.mtime_ns == now.mtime_ns)
    finally:
        os.close(theirs)


def _is_link(change: Change, parent: int, now: Facts) -> bool:
    """Whether a name that the run made of another file is one; the two lie in one tree, so its root is found from the path."""
    up = "/".join([".."] * change.path.count("/")) or "."
    try:
        status = os.stat(f"{up}/{change.link}", dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (now.device, now.inode)


def _holds_same(one: int, leaf: str, other: int, name: str, *, unreadable: bool) -> bool:
    try:
        first = open_file(one, leaf, force=True)
    except OSError:
        return False
    try:
        second = open_file(other, name)
    except PermissionError:
        os.close(first)
        return unreadable
    except OSError:
        os.close(first)
        return False
    try:
        return same_content(first, second)
    finally:
        os.close(first)
        os.close(second)


def is_outward(change: Change) -> bool:
    """Whether it makes a link that leads out of the tree."""
    after = change.after
    if after is None or after.type is not Type.SYMLINK or (change.kind is Kind.MODIFIED and "content" not in change.what):
        return False
    if after.target.startswith("/"):
        return True
    depth = change.path.count("/")
    for part in after.target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in ("", "."):
            depth += 1
    return False


__all__ = ["FIRST_MODE", "SET_ID", "Source", "Standing", "Status", "identity", "identity_of", "is_outward", "stand"]
