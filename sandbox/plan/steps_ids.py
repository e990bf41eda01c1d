"""Steps about ids: the maps of both user namespaces, and whom init and the program become; first of every run, then of one with a range of ids.

Values only; `steps.py` says what a step is, `lower.py` and `lower_ids.py` make rows of them.
"""

from __future__ import annotations

from sandbox.record import dataclass

CAPABILITIES = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7}
"""What the root of an image needs to be the owner of its files and to become its other users; nothing here says anything of a mount, a network or a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropGroups:
    """setgroups(0) as root, before the user namespace: no supplementary group reaches the payload."""

    def describe(self) -> str:
        return "drop supplementary groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapIds:
    """Single-id user namespace map, written by the process itself; setgroups denied first (CVE-2014-8989), which an inner namespace inherits."""

    inside_uid: int
    inside_gid: int
    outside_uid: int
    outside_gid: int
    inner: bool = False

    def describe(self) -> str:
        which = "inner" if self.inner else "outer"
        return f"map uid {self.outside_uid} to {self.inside_uid}, gid {self.outside_gid} to {self.inside_gid} ({which} user namespace)" + (
            "" if self.inner else ", deny setgroups"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeIds:
    """setresgid(2), setresuid(2) to the mapped ids."""

    uid: int
    gid: int

    def describe(self) -> str:
        return f"become uid {self.uid}, gid {self.gid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareMaps:
    """A procfs that is mounted nowhere and a counter, both closed before execve: with them init gives the payload's namespace its map."""

    def describe(self) -> str:
        return "open a /proc of the run's own for the payload's id map"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPayload:
    """The inner namespace has the ids of the outer one, under the same numbers; only a process in the outer one may say so, and init still has the right.

    `uids` and `gids` are (first, count), an extent of the outer map each: the kernel takes no extent that spans two.
    """

    uids: tuple[tuple[int, int], ...]
    gids: tuple[tuple[int, int], ...]

    def describe(self) -> str:
        uids, gids = (sum(count for _, count in extents) for extents in (self.uids, self.gids))
        return f"map {uids} uids and {gids} gids for the payload (inner user namespace)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitMaps:
    def describe(self) -> str:
        return "wait for init to write the id maps"


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeUser:
    """Groups, gid and uid of the program; the capabilities stay until they are dropped."""

    uid: int
    gid: int

    def describe(self) -> str:
        return f"become uid {self.uid}, gid {self.gid}, no other groups"


__all__ = ["CAPABILITIES", "AwaitMaps", "BecomeIds", "BecomeUser", "DropGroups", "MapIds", "MapPayload", "PrepareMaps"]
