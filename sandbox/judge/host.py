"""Files of the host that say how it measures and who else uses it: bounded, and what is missing is an answer.

Only `environment` and `noise` import this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_READ_BYTES = 1 << 20
_PROCESSORS = 4096


class Tree:
    """Files of the host below a directory, which tests make; what cannot be read is None."""

    def __init__(self, root: str = "/", allowed: frozenset[int] | None = None) -> None:
        """Take ``/`` and the processors that this process may use, or what a test says."""
        self._root = root
        self.allowed = frozenset(os.sched_getaffinity(0)) if allowed is None else allowed

    def read(self, path: str) -> str | None:
        """Return a file's text without the blanks around it; None when it is empty or cannot be read, which in ``/sys`` may fail with any errno."""
        try:
            with open(os.path.join(self._root, path.lstrip("/")), "rb") as file:
                return file.read(_READ_BYTES).decode("ascii", "replace").strip() or None
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.exists(os.path.join(self._root, path.lstrip("/")))

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, sorted; none where there is none."""
        try:
            return sorted(os.listdir(os.path.join(self._root, path.lstrip("/"))))
        except OSError:
            return []

    def writable(self, path: str) -> bool:
        """Whether this user may write there."""
        return os.access(os.path.join(self._root, path.lstrip("/")), os.W_OK)


def parse_list(text: str) -> frozenset[int]:
    """Return the processors of the kernel's list format, ``0-3,8``; what is none of it is left out."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?(?::\d+/\d+)?\s*", part, re.ASCII)
        if match is not None:
            first, last = int(match[1]), int(match[2] or match[1])
            found.update(range(first, min(last, first + _PROCESSORS) + 1))
    return frozenset(found)


def read_ticks(tree: Tree) -> Mapping[str, int] | None:
    """Return the ticks of all processors together, of ``/proc/stat``; None where they cannot be read.

    Source: proc(5), ``/proc/stat``: user nice system idle iowait irq softirq steal.
    """
    words = (tree.read("/proc/stat") or "").partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:9]):
        return None
    return dict(zip(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), map(int, words[1:9]), strict=True))


def steal_share(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> float | None:
    """Return which share of the time that was wanted the host of a virtual machine took, between two readings or since boot; None where it is not known."""
    if after is None:
        return None
    spent = {name: max(0, count - (before or {}).get(name, 0)) for name, count in after.items()}
    wanted = sum(spent.values()) - spent["idle"] - spent["iowait"]
    return spent["steal"] / wanted if wanted else 0.0


def quota(tree: Tree) -> float | None:
    """Return how many processors' time the nearest quota of our cgroups gives; None without one that is visible."""
    mounts = cgroup_mounts(tree)
    found: list[float] = []
    for line in (tree.read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        key = "" if controllers == "" else "cpu" if "cpu" in controllers.split(",") else None
        mount = None if key is None else mounts.get(key)
        while mount is not None:
            words = (tree.read(f"{mount}{path}/cpu.max") or "").split()
            if not words:
                words = [tree.read(f"{mount}{path}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
                found.append(int(words[0]) / int(words[1]))
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
    return min(found, default=None)


def cgroup_mounts(tree: Tree) -> dict[str, str]:
    """Return where hierarchies are mounted, by controller; cgroup v2 is the key ""."""
    found: dict[str, str] = {}
    for line in (tree.read("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) > 4 and len(kinds) > 2:
            if kinds[0] == "cgroup2":
                found.setdefault("", fields[4])
            elif kinds[0] == "cgroup":
                for option in kinds[2].split(","):
                    found.setdefault(option, fields[4])
    return found


def is_virtual(tree: Tree) -> bool:
    flags = re.search(r"^flags\s*:(.*)$", tree.read("/proc/cpuinfo") or "", re.MULTILINE)
    return (flags is not None and "hypervisor" in flags[1].split()) or bool(tree.read("/sys/hypervisor/type"))
