"""Where cgroup hierarchies are mounted and where in them this process is: /proc/self/mountinfo and /proc/self/cgroup.

Parsing only; nothing here writes. The backends of this room import it. Nothing is assumed to be at /sys/fs/cgroup: hybrid
hosts, containers and co-mounted controllers put it elsewhere.
"""

from __future__ import annotations

import os
import re

from sandbox.record import dataclass

_OCTAL = re.compile(r"\\([0-3][0-7]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo that is a cgroup mount; `root` is the cgroup that is visible at `point`."""

    version: int
    root: str
    point: str
    options: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One line of /proc/self/cgroup; v2 has no controllers there."""

    controllers: frozenset[str]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A mounted hierarchy; `own` is the visible directory of this process's cgroup, None when it is outside the mount."""

    version: int
    controllers: frozenset[str]
    point: str
    own: str | None


def unescape(field: str) -> str:
    r"""Undo mountinfo's octal escapes (``\040`` is a space); a lone backslash stays.

    Source: proc_pid_mountinfo(5); kernel fs/proc_namespace.c, mangle.
    """
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Return the cgroup mounts, in order; malformed lines are skipped, a later mount on the same point hides the earlier.

    Args:
        text: the file's content, decoded by `os.fsdecode`.
    """
    found: dict[str, Mount] = {}
    for line in text.split("\n"):
        fields = line.split(" ")
        # Optional fields sit between the sixth field and a lone "-"; a mount point can't contain a raw space.
        try:
            separator = fields.index("-", 6)
        except ValueError:
            continue
        if len(fields) < separator + 4:
            continue
        point = unescape(fields[4])
        found.pop(point, None)
        kind = fields[separator + 1]
        if kind not in ("cgroup", "cgroup2"):
            continue
        options = frozenset(unescape(fields[separator + 3]).split(","))
        found[point] = Mount(version=2 if kind == "cgroup2" else 1, root=unescape(fields[3]), point=point, options=options)
    return tuple(found.values())


def parse_memberships(text: str) -> tuple[Membership, ...]:
    """Return the lines of /proc/self/cgroup; a path may contain colons, malformed lines are skipped.

    Args:
        text: the file's content, decoded by `os.fsdecode`.
    """
    found = []
    for line in text.split("\n"):
        parts = line.split(":", 2)
        if len(parts) != 3 or not parts[0].isdecimal() or not parts[2].startswith("/"):
            continue
        found.append(Membership(controllers=frozenset(filter(None, parts[1].split(","))), path=parts[2]))
    return tuple(found)


def visible_path(mount: Mount, path: str) -> str | None:
    """Return where the cgroup `path` appears below `mount`, or None when it does not.

    A path with ``..`` lies outside this process's cgroup namespace; it can't be named through the mount.
    """
    if ".." in path.split("/") or ".." in mount.root.split("/"):
        return None
    root = mount.root.rstrip("/")
    if path != root and not path.startswith(root + "/"):
        return None
    relative = path[len(root) :].strip("/")
    return os.path.join(mount.point, relative) if relative else mount.point


def match_hierarchies(mounts: tuple[Mount, ...], memberships: tuple[Membership, ...]) -> tuple[Hierarchy, ...]:
    """Join both files: one `Hierarchy` for each hierarchy that is mounted, at the mount that shows our own cgroup if any does."""
    found = []
    for membership in memberships:
        version = 1 if membership.controllers else 2
        candidates = [mount for mount in mounts if mount.version == version and (version == 2 or membership.controllers <= mount.options)]
        if not candidates:
            continue
        best = next((mount for mount in candidates if visible_path(mount, membership.path) is not None), candidates[0])
        own = visible_path(best, membership.path)
        found.append(Hierarchy(version=version, controllers=membership.controllers, point=best.point, own=own))
    return tuple(found)


def read_hierarchies(proc: str = "/proc") -> tuple[Hierarchy, ...]:
    """Read the mounted hierarchies of this process; empty where there is no /proc.

    Args:
        proc: where procfs is mounted.
    """
    try:
        with open(f"{proc}/self/mountinfo", "rb") as file:
            mounts = parse_mountinfo(os.fsdecode(file.read()))
        with open(f"{proc}/self/cgroup", "rb") as file:
            memberships = parse_memberships(os.fsdecode(file.read()))
    except OSError:
        return ()
    return match_hierarchies(mounts, memberships)
