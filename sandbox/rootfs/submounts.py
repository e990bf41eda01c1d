"""Finds the kernel's own file systems below a shared directory: the `proc` and `sys` of a chroot tree that somebody works on.

A shared directory is taken with every mount below it, so a procfs there would show the host's processes and their command lines, past the
sandbox's own /proc. Only `rootfs.host` imports this module.
"""

from __future__ import annotations

import os
import re

from sandbox.rootfs.view import is_within

# What shows or steers the host; file systems that hold somebody's files are shared as they are.
KERNEL_TYPES = frozenset({
    "autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl", "hugetlbfs",
    "mqueue", "nfsd", "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs",
})  # fmt: skip
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """The host's mount points and the types of what is mounted there; made from the bytes of /proc/self/mountinfo.

    Of two mounts on one place the later one counts. Source: proc_pid_mountinfo(5).
    """

    def __init__(self, content: bytes) -> None:
        self._kinds: dict[str, str] = {}
        for line in content.splitlines():
            words = line.split(b" ", 5)
            if len(words) == 6:
                point = words[4]
                if b"\\" in point:
                    point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), point)
                self._kinds[os.fsdecode(point)] = os.fsdecode(words[5].partition(b" - ")[2].partition(b" ")[0])

    def kernel_type(self, path: str) -> str | None:
        """Return the type of the file system that an absolute real path lies in, if it is one of the kernel's own."""
        nearest = max((point for point in self._kinds if is_within(path, point)), key=len, default=None)
        kind = self._kinds.get(nearest) if nearest is not None else None
        return kind if kind in KERNEL_TYPES else None

    def kernel_mounts_below(self, directory: str) -> list[str]:
        """Return the mount points of the kernel's file systems strictly below a directory, none that lies below another one."""
        found: list[str] = []
        for point in sorted(point for point, kind in self._kinds.items() if kind in KERNEL_TYPES):
            if point != directory and is_within(point, directory) and not any(is_within(point, above) for above in found):
                found.append(point)
        return found


def read_mounts() -> Mounts:
    """Read the mounts of our own mount namespace; where there is no /proc, there is nothing to find."""
    try:
        with open("/proc/self/mountinfo", "rb", buffering=0) as file:
            return Mounts(file.readall() or b"")
    except OSError:
        return Mounts(b"")
