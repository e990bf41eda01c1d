"""The cheap probe: the facts of this host that every run needs.

File reads and single system calls only; nothing is forked, so a threaded program may call it, and it costs well under a
millisecond. What has to be tried in a child lives in `probe_deep`, for `doctor`. Whoever may import `kernel` may import this.
"""

from __future__ import annotations

import errno
import os

from sandbox.abi.host import HostFeatures
from sandbox.kernel import calls, procfs


def probe_host() -> HostFeatures:
    """Return the facts of the running host.

    Each is read afresh: a sysctl or a mount may change between two runs of a long-lived program. What cannot be read counts as absent.
    `proc_mountable` is derived from the mount table by the kernel's own rule; it is False too where a fresh procfs would have to be
    read-only or to have unusual atime options, because the plan asks for neither.
    """
    name = os.uname()
    mounts = procfs.parse_mountinfo(procfs.select_lines(procfs.read_bytes("/proc/self/mountinfo", 16 << 20) or b""))
    proc = procfs.judge_proc(mounts)
    return HostFeatures(
        arch=name.machine,
        kernel=name.release,
        uid=os.geteuid(),
        gid=os.getegid(),
        landlock_abi=probe_landlock(),
        proc_mountable=proc.mountable and not proc.read_only and proc.atime == "relatime",
        root_pivotable=procfs.is_root_pivotable(mounts) if mounts else _root_looks_pivotable(),
        keyrings=probe_keyrings(),
        time_namespace=os.path.exists("/proc/self/ns/time") and procfs.read_sysctl("user/max_time_namespaces") != 0,
        user_namespace_sysctl=_sysctls_writable(),
        notify_wait_killable=calls.ask_kernel("wait-killable") in (0, -errno.EFAULT),
        # the ioctl needs a listener to ask; it came with Linux 6.6 and too old a number only costs speed
        notify_sync_wake=parse_release(name.release) >= (6, 6),
    )


def probe_landlock() -> int:
    """Return the Landlock ABI, 0 where it is not built, not enabled at boot or refused by an outer filter."""
    return max(0, calls.ask_kernel("landlock"))


def probe_keyrings() -> bool:
    """Whether keyctl(2) exists and is allowed.

    Where an outer filter refuses it (Docker's does) the payload cannot use it either, so there is nothing to detach from.
    """
    return calls.ask_kernel("keyrings") not in (-errno.ENOSYS, -errno.EPERM, -errno.EOPNOTSUPP)


def _sysctls_writable() -> bool:
    """Whether init can set user.max_*_namespaces of its own user namespace: they exist and /proc/sys is not mounted read-only (containers)."""
    try:
        return not os.statvfs("/proc/sys/user/max_user_namespaces").f_flag & os.ST_RDONLY
    except OSError:
        return False


def parse_release(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel release text such as ``6.1.0-50-amd64``; (0, 0) where it has another form."""
    numbers = release.split("-", 1)[0].split("+", 1)[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return 0, 0


def _root_looks_pivotable() -> bool:
    """Guess where no /proc tells: a memory file system at "/" may be the initial rootfs, where the way without pivot_root works as well."""
    try:
        from sandbox.kernel.probe_calls import RAMFS_MAGIC, TMPFS_MAGIC, root_magic

        return root_magic() not in (RAMFS_MAGIC, TMPFS_MAGIC)
    except OSError:
        return True
