"""What an upper directory changed of what lies below it: every name that is not after the run as it was before.

It compares two views of one tree: the run's (its upper over the uppers that it went on from over the original) and the original's. Only directories that a run
has touched are looked at. A file that was copied up and is the same again is no change. Bounded: a program can make a million files.
Only this floor imports it.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.changes.files import is_opaque, is_whiteout, look, make_facts, open_directory, open_file, read_xattrs, same_content
from sandbox.changes.model import Change, Facts, Kind, Type
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAXIMUM_CHANGES = 250_000
MAXIMUM_LOOKS = 1_000_000
"""Names looked at: whiteouts of nothing and copies that changed nothing are no changes and cost time all the same."""
MAXIMUM_NAMES = 64 << 20
"""Bytes of all paths that are listed, together."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What was found.

    Attributes:
        changes: of one tree or of several, in the order of their paths.
        complete: whether that is all of them.
        bytes: what the uppers' files take on the disk.
    """

    changes: list[Change]
    complete: bool = True
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A name in one view: the layer that shows it, and, for a directory, all layers that it is merged of."""

    layer: int
    status: os.stat_result
    merged: tuple[int, ...]


class _Enough(Exception):
    """There is more than will be listed."""


def compare(tree: int, uppers: Sequence[int], lowers: Sequence[int], found: Found) -> None:
    """Add to `found` what is changed in one tree.

    Args:
        tree: its number.
        uppers: descriptors of upper directories, topmost first; borrowed.
        lowers: of the original's directories, topmost first; borrowed.
        found: grows; what is in it counts towards the bounds.
    """
    if not found.complete:
        return
    walk = _Walk(tree, uppers, lowers, found)
    try:
        walk.run()
    except _Enough:
        found.complete = False
    walk.mark_links()
    found.changes[walk.begin :] = sorted(found.changes[walk.begin :], key=lambda change: change.path.split("/"))


class _Walk:
    def __init__(self, tree: int, uppers: Sequence[int], lowers: Sequence[int], found: Found) -> None:
        self._tree = tree
        self._layers = (*uppers, *lowers)
        self._first_lower = len(uppers)
        self._found = found
        self.begin = len(found.changes)
        self._looks = 0
        self._names = sum(len(change.path) for change in found.changes)
        self._counted: set[tuple[int, int]] = set()
        self._files: dict[tuple[int, int], list[tuple[str, Facts, Facts | None]]] = {}

    def run(self) -> None:
        everything = tuple(range(len(self._layers)))
        pending = [("", everything, everything[self._first_lower :])]
        while pending:
            path, after, before = pending.pop()
            pending += self._directory(path, after, before)

    def _directory(
        self, path: str, after: tuple[int, ...], before: tuple[int, ...]
    ) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Compare one directory; return those below that are to be compared."""
        opened: dict[int, int] = {}
        below = []
        try:
            for layer in sorted({*after, *before}):
                try:
                    opened[layer] = open_directory(self._layers[layer], path)
                except OSError as error:
                    # Deeper than a path can say, or an original that has become something else or cannot be read: nothing of it is listed.
                    if layer < self._first_lower or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        self._found.complete = False
            after = tuple(layer for layer in after if layer in opened)
            before = tuple(layer for layer in before if layer in opened)
            for name in self._touched(opened, after, before):
                now = self._look(opened, after, name)
                then = self._look(opened, before, name)
                below += self._compare(opened, path, name, now, then)
            return below
        finally:
            for fd in opened.values():
                os.close(fd)

    def _touched(self, opened: dict[int, int], after: tuple[int, ...], before: tuple[int, ...]) -> list[str]:
        names: set[str] = set()
        layers = [layer for layer in after if layer < self._first_lower]
        if tuple(layer for layer in after if layer >= self._first_lower) != before:
            layers += before  # hidden altogether: what was there is gone
        for layer in layers:
            with os.scandir(opened[layer]) as entries:
                for entry in entries:
                    names.add(entry.name)
                    self._looks += 1
                    if self._looks > MAXIMUM_LOOKS:
                        raise _Enough
        return sorted(names)

    def _look(self, opened: dict[int, int], layers: tuple[int, ...], name: str) -> _Seen | None:
        first: tuple[int, os.stat_result] | None = None
        merged: list[int] = []
        for layer in layers:
            status = look(opened[layer], name)
            if status is None:
                continue
            if layer < self._first_lower:
                self._count_bytes(status)
            if is_whiteout(status):
                break
            if not stat.S_ISDIR(status.st_mode):
                first = first or (layer, status)
                break
            first = first or (layer, status)
            merged.append(layer)
            if layer != layers[-1] and is_opaque(opened[layer], name):
                break
        return None if first is None else _Seen(layer=first[0], status=first[1], merged=tuple(merged))

    def _count_bytes(self, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if key in self._counted:
                return
            self._counted.add(key)
        self._found.bytes += status.st_blocks * 512

    def _compare(
        self, opened: dict[int, int], path: str, name: str, now: _Seen | None, then: _Seen | None
    ) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        whole = f"{path}/{name}" if path else name
        after = None if now is None else make_facts(opened[now.layer], name, now.status)
        before = None if then is None else make_facts(opened[then.layer], name, then.status)
        if now is not None and after is not None and now.layer < self._first_lower and after.type is Type.FILE and after.links > 1:
            self._files.setdefault((now.layer, after.inode), []).append((whole, after, before))
        merged_now = () if now is None else now.merged
        merged_then = () if then is None else then.merged
        if before is None and after is None:
            return []
        if before is None:
            self._add(Change(tree=self._tree, path=whole, kind=Kind.ADDED, after=after))
        elif after is None:
            self._add(Change(tree=self._tree, path=whole, kind=Kind.DELETED, before=before))
        elif before.type is not after.type:
            self._add(Change(tree=self._tree, path=whole, kind=Kind.REPLACED, before=before, after=after))
        else:
            assert now is not None and then is not None
            theirs = now.layer < self._first_lower
            same = now.layer == then.layer
            what = () if same else self._differences(opened[then.layer], opened[now.layer], name, before, after, force=theirs)
            if what:
                self._add(Change(tree=self._tree, path=whole, kind=Kind.MODIFIED, what=what, before=before, after=after))
            if merged_now == merged_then:
                return []
        return [(whole, merged_now, merged_then)] if merged_now or merged_then else []

    def _differences(self, one: int, other: int, name: str, before: Facts, after: Facts, *, force: bool) -> tuple[str, ...]:
        what = []
        if after.type is Type.FILE and not _same_file(one, other, name, before, after, force=force):
            what.append("content")
        if after.type is Type.SYMLINK and before.target != after.target:
            what.append("content")
        if before.mode != after.mode and after.type is not Type.SYMLINK:
            what.append("mode")
        original = read_xattrs(one, name, before.type)
        if original is not None and original != read_xattrs(other, name, after.type, force=force):
            what.append("xattrs")
        if not what and after.type is Type.FILE and before.mtime_ns != after.mtime_ns:
            what.append("times")
        return tuple(what)

    def _add(self, change: Change) -> None:
        self._names += len(change.path)
        if len(self._found.changes) >= MAXIMUM_CHANGES or self._names > MAXIMUM_NAMES:
            raise _Enough
        self._found.changes.append(change)

    def mark_links(self) -> None:
        """Say of each name of a file with several which other name it is of: one that was there before, or else the first."""
        listed = {change.path: number for number, change in enumerate(self._found.changes) if number >= self.begin}
        for names in self._files.values():
            if len(names) < 2:
                continue
            names.sort(key=lambda item: (item[2] is None, item[0].split("/")))
            leader, _, leader_before = names[0]
            for path, after, before in names[1:]:
                number = listed.get(path)
                if number is not None:
                    change = self._found.changes[number]
                    what = (*change.what, "link") if change.kind is Kind.MODIFIED else ()
                    self._found.changes[number] = replace(change, link=leader, what=what)
                elif before is not None and (leader_before is None or leader_before.inode != before.inode):
                    # It holds what it held, but is another name of the leader now.
                    self._found.changes.append(
                        Change(tree=self._tree, path=path, kind=Kind.MODIFIED, what=("link",), before=before, after=after, link=leader)
                    )


def _same_file(one: int, other: int, name: str, before: Facts, after: Facts, *, force: bool) -> bool:
    if before.size != after.size:
        return False
    try:
        first = open_file(one, name)
    except PermissionError:
        return before.mtime_ns == after.mtime_ns  # what its owner may not read, and a run could only write
    except OSError:
        return False
    try:
        second = open_file(other, name, force=force)
    except OSError:
        os.close(first)
        return False
    try:
        return same_content(first, second)
    finally:
        os.close(first)
        os.close(second)


__all__ = ["MAXIMUM_CHANGES", "Found", "compare"]
