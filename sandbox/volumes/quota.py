"""Limits the size of a volume where the host can: by a project quota, which takes root and a file system that is mounted with it.

What an ordinary user could have instead is no limit: a loop device and setting a quota need root, a FUSE server outside would be a daemon with the user's
rights that parses what the program wrote. Only `volumes` imports this module. Source: quotactl(2), ioctl_xfs_fsgetxattr(2), Linux Documentation of ext4.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from sandbox.errors import SandboxError, UnsupportedError, describe_errno

_FSGETXATTR, _FSSETXATTR = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("<IIIII8x")  # flags, extent size, extents, project, copy-on-write extent size
_PROJINHERIT = 0x200
_SETQUOTA_PROJECT = 0x800008 << 8 | 2  # QCMD(Q_SETQUOTA, PRJQUOTA)
_DQBLK = struct.Struct("<QQQQQQQQI4x")  # hard and soft limit of KiB, bytes now, hard and soft limit of inodes, inodes now, two times, what of it counts
_QIF_LIMITS = 1 | 4
_BYTES_PER_INODE = 4096
_HINT = "`--tmpfs /PATH:size=64M` has a limit, and ends with the run"


def check_quota(directory: int, path: str, needed_by: str) -> None:
    """Refuse where no limit would be enforced.

    Args:
        directory: of the volumes; borrowed.
        path: the same, for messages.
        needed_by: the option.

    Raises:
        UnsupportedError: the caller is not root, or the file system has no project quotas that count.
    """
    if os.geteuid() != 0:
        raise UnsupportedError("a quota on the volume's directory", needed_by, reason="only root may set a quota", hint=_HINT)
    options = _mount_options(os.fstat(directory).st_dev)
    # A file system that only counts (pqnoenforce, or ext4's feature without the option) would let everything pass.
    if "prjquota" not in options:
        raise UnsupportedError(
            "a quota on the volume's directory", needed_by, reason=f"`{path}` lies on a file system that is not mounted with `prjquota`",
            hint=f"ext4: `tune2fs -O project,quota` and mount it so; or set SANDBOX_DATA_DIR to one that is; {_HINT}",
        )  # fmt: skip


def _mount_options(device: int) -> tuple[str, ...]:
    """Return the options of the file system with a device number. Source: proc_pid_mountinfo(5)."""
    wanted = f" {os.major(device)}:{os.minor(device)} "
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if wanted in line.partition(" - ")[0]:
                return tuple(line.rstrip("\n").rpartition(" ")[2].split(","))
    return ()


def new_project() -> int:
    """Return a project id that nobody else is likely to have; two volumes with one would share the smaller limit."""
    return 0x40000000 | int.from_bytes(os.urandom(4)) >> 2


def set_limit(directory: int, project: int, size_bytes: int) -> None:
    """Put an empty directory, and all that will be made in it, into a project that may take so much.

    Nothing inside a sandbox can leave the project: that takes the initial user namespace.

    Raises:
        SandboxError: the kernel refuses.
    """
    _set_quota(directory, project, size_bytes)
    try:
        block = bytearray(_FSXATTR.size)
        fcntl.ioctl(directory, _FSGETXATTR, block)
        flags, extent, extents, _, copied = _FSXATTR.unpack(block)
        fcntl.ioctl(directory, _FSSETXATTR, _FSXATTR.pack(flags | _PROJINHERIT, extent, extents, project, copied))
    except OSError as error:
        raise SandboxError(f"put the volume into project {project}: {describe_errno(error.errno or 0)}") from None


def forget_limit(directory: int, project: int) -> None:
    """Take the limit of a removed volume away; failing to is no error."""
    try:
        _set_quota(directory, project, 0)
    except SandboxError:
        pass


def _set_quota(directory: int, project: int, size_bytes: int) -> None:
    from sandbox.kernel.calls import quotactl_fd

    kib = -(-size_bytes // 1024)
    inodes = max(64, size_bytes // _BYTES_PER_INODE) if size_bytes else 0
    try:
        quotactl_fd(directory, _SETQUOTA_PROJECT, project, _DQBLK.pack(kib, 0, 0, inodes, 0, 0, 0, 0, _QIF_LIMITS))
    except OSError as error:
        what = "no quotas there" if error.errno in (errno.ESRCH, errno.ENOSYS) else describe_errno(error.errno or 0)
        raise SandboxError(f"limit project {project} to {size_bytes} bytes: {what}") from None


