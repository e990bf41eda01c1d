"""Finds what must not be reachable in a shared directory: sockets, FIFOs, and files that only a group may read.

A read-only mount does not stop connect(2): a D-Bus, Docker or ssh-agent socket in a shared directory is a way out (bubblewrap's README says
so of itself). Masking what a bounded scan finds is the *second* line: the first is the filter and Landlock, for a socket may be made later.
A FIFO that can only be read still takes what a program outside wrote for somebody else.
Only `rootfs` imports this module.
"""

from __future__ import annotations

import os
import stat
import time

from sandbox.record import dataclass

MAXIMUM_ENTRIES = 20_000
BUDGET_NS = 50_000_000
MAXIMUM_MASKS = 128
# Trees of thousands of installed or generated files, in which no daemon listens; looking there would cost most of the budget of most runs.
SKIPPED = frozenset(("node_modules", "site-packages", "dist-packages", "__pycache__", "objects"))

_State = tuple[int, int, int, int]  # device, inode, mtime, ctime
_KEPT = 64
_SETTLED_NS = 2_000_000_000  # coarser than any file system's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a scan found: host paths, and whether it saw everything."""

    paths: tuple[str, ...]
    complete: bool


_private: dict[tuple[str, int, int], tuple[list[tuple[str, _State]], Scan]] = {}


def find_sockets(directory: str, limit: int = MAXIMUM_ENTRIES, budget_ns: int = BUDGET_NS) -> Scan:
    """Return the Unix sockets and FIFOs in a directory tree, nearest the top first; symbolic links and `SKIPPED` directories are not followed.

    Args:
        directory: an absolute host path.
        limit: how many entries are looked at.
        budget_ns: how long the scan may take; checked once for each directory, so one slow directory can exceed it.
    """
    found: list[str] = []
    queue = [directory]
    seen = 0
    deadline = time.monotonic_ns() + budget_ns
    for current in queue:
        if len(found) > MAXIMUM_MASKS or time.monotonic_ns() > deadline:
            return Scan(paths=tuple(found[:MAXIMUM_MASKS]), complete=False)
        try:
            entries = os.scandir(current)
        except OSError:
            continue  # what we cannot list the program, who is the same user or a lesser one, cannot either
        with entries:
            for entry in entries:
                seen += 1
                if seen > limit:
                    return Scan(paths=tuple(found[:MAXIMUM_MASKS]), complete=False)
                # These three answer from the directory itself; only rarities cost a stat.
                if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in SKIPPED:
                        queue.append(entry.path)
                elif _leads_outside(entry):
                    found.append(entry.path)
    return Scan(paths=tuple(found[:MAXIMUM_MASKS]), complete=len(found) <= MAXIMUM_MASKS)


def _leads_outside(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) in (stat.S_IFSOCK, stat.S_IFIFO)
    except OSError:
        return False


def find_private(directory: str, limit: int = 2_000) -> Scan:
    """Return the files and directories of a tree that others may not read; they are not looked into.

    Supplementary groups stay with a rootless program, so a file that a group may read (``root:ssl-cert`` keys) is readable inside.
    A process that asks again gets the earlier answer if nothing that it was made of has changed: every directory, for new names, and every file
    that is no link, for another mode.

    Args:
        directory: an absolute host path that others may read.
        limit: how many entries are looked at.
    """
    key = (directory, limit, os.geteuid())
    known = _private.get(key)
    if known is not None and all(_state(path) == state for path, state in known[0]):
        return known[1]
    began_ns = time.time_ns()
    looked_at: list[tuple[str, _State]] = [(directory, _state(directory))]
    scan = _scan_private(directory, limit, looked_at)
    # What changed a moment ago may change again without its times telling.
    if all(ctime_ns < began_ns - _SETTLED_NS for _, (*_, ctime_ns) in looked_at):
        if len(_private) >= _KEPT:
            _private.clear()
        _private[key] = (looked_at, scan)
    return scan


def _scan_private(directory: str, limit: int, looked_at: list[tuple[str, _State]]) -> Scan:
    found: list[str] = []
    queue = [directory]
    seen = 0
    for current in queue:
        try:
            entries = os.scandir(current)
        except OSError:
            continue
        with entries:
            for entry in entries:
                seen += 1
                if seen > limit or len(found) > MAXIMUM_MASKS:
                    return Scan(paths=tuple(found[:MAXIMUM_MASKS]), complete=False)
                if entry.is_symlink():
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                looked_at.append((entry.path, _stamp(status)))
                if not is_public(status.st_mode):
                    found.append(entry.path)
                elif stat.S_ISDIR(status.st_mode):
                    queue.append(entry.path)
    return Scan(paths=tuple(found), complete=True)


def _stamp(status: os.stat_result) -> _State:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _state(path: str) -> _State:
    try:
        return _stamp(os.lstat(path))
    except OSError:
        return (0, 0, 0, 0)


def is_public(mode: int) -> bool:
    """Tell whether others may read a regular file, or list and enter a directory; anything else is not public."""
    if stat.S_ISDIR(mode):
        return mode & 0o005 == 0o005
    return stat.S_ISREG(mode) and bool(mode & 0o004)
