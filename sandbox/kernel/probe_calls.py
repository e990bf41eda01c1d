"""System calls that only the probes make: ctypes wrappers, one per call.

Nothing here decides anything. Each wrapper raises `OSError` naming the call and its operands. Only the `probe*` modules of
this floor and their tests may import it; the calls of a run are in `calls`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

CLONE_NEWTIME: Final = 0x80
CLONE_NEWNS: Final = 0x20000
CLONE_NEWCGROUP: Final = 0x2000000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 32
KEYCTL_GET_KEYRING_ID: Final = 0
KEYCTL_JOIN_SESSION_KEYRING: Final = 1
KEY_SPEC_SESSION_KEYRING: Final = -3
RAMFS_MAGIC: Final = 0x858458F6
TMPFS_MAGIC: Final = 0x01021994

# Calls below 424 differ between architectures; those from 424 on have one number everywhere.
# Source: arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h
_OLD_NUMBERS: Final = {
    "x86_64": {"seccomp": 317, "keyctl": 250, "pivot_root": 155, "perf_event_open": 298, "getppid": 110, "clone": 56, "unshare": 272},
    "aarch64": {"seccomp": 277, "keyctl": 219, "pivot_root": 41, "perf_event_open": 241, "getppid": 173, "clone": 220, "unshare": 97},
}
NUMBERS: Final = {
    **_OLD_NUMBERS.get(os.uname().machine, {}),
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446,
}
AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.unshare.argtypes = [ctypes.c_int]
_libc.unshare.restype = ctypes.c_int
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.mount.restype = ctypes.c_int
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.umount2.restype = ctypes.c_int
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.prctl.restype = ctypes.c_int
_libc.statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
_libc.statfs.restype = ctypes.c_int


class SockFprog(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class _MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def _fail(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def raw(name: str, *arguments: int | None) -> int:
    """Make a system call by name with plain numbers (None is a null pointer).

    Raises:
        OSError: with the call's errno; ENOSYS where this architecture has no number for it.
    """
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"{name}: no number for {os.uname().machine}")
    words = [ctypes.c_ulong((argument or 0) & 0xFFFFFFFFFFFFFFFF) for argument in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _fail(name)
    return result


def unshare(flags: int) -> None:
    """Enter new namespaces. Source: unshare(2)."""
    if _libc.unshare(flags) < 0:
        raise _fail(f"unshare({flags:#x})")


def mount(source: str | None, target: str, fs_type: str | None, flags: int, data: str | None = None) -> None:
    """Mount by path, for mount namespaces of the probe's own. Source: mount(2)."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, fs_type, data)]
    if _libc.mount(words[0], words[1], words[2], flags, words[3]) < 0:
        raise _fail(f"mount {fs_type or source} on {target}")


def umount2(target: str, flags: int) -> None:
    """Unmount. Source: umount(2)."""
    if _libc.umount2(os.fsencode(target), flags) < 0:
        raise _fail(f"umount2 {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root mount. Source: pivot_root(2)."""
    new, old = ctypes.create_string_buffer(os.fsencode(new_root)), ctypes.create_string_buffer(os.fsencode(put_old))
    raw("pivot_root", ctypes.addressof(new), ctypes.addressof(old))


def new_mount(fs_type: str, options: dict[str, str], attributes: int = 0) -> int:
    """Make a detached mount with fsopen(2), fsconfig(2) and fsmount(2); return its fd (the caller's). Since: Linux 5.2."""
    name = ctypes.create_string_buffer(fs_type.encode())
    context = raw("fsopen", ctypes.addressof(name), 1)
    try:
        for key, value in options.items():
            key_text, value_text = ctypes.create_string_buffer(key.encode()), ctypes.create_string_buffer(value.encode())
            raw("fsconfig", context, FSCONFIG_SET_STRING, ctypes.addressof(key_text), ctypes.addressof(value_text), 0)
        raw("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
        return raw("fsmount", context, 1, attributes)
    finally:
        os.close(context)


def move_mount(fd: int, target: str) -> None:
    """Attach a detached mount (borrows fd). Source: move_mount(2)."""
    empty, path = ctypes.create_string_buffer(b""), ctypes.create_string_buffer(os.fsencode(target))
    raw("move_mount", fd, ctypes.addressof(empty), -100, ctypes.addressof(path), MOVE_MOUNT_F_EMPTY_PATH)


def open_tree(path: str) -> int:
    """Clone a mount tree, detached and recursive; return its fd (the caller's). Source: open_tree(2)."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    return raw("open_tree", -100, ctypes.addressof(text), OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC)


def mount_setattr(fd: int, attributes: int) -> None:
    """Set mount attributes on a whole tree (borrows fd). Since: Linux 5.12. Source: mount_setattr(2)."""
    empty, attr = ctypes.create_string_buffer(b""), _MountAttr(attr_set=attributes)
    raw("mount_setattr", fd, ctypes.addressof(empty), AT_EMPTY_PATH | AT_RECURSIVE, ctypes.addressof(attr), ctypes.sizeof(attr))


def prctl(option: int, argument: int = 0) -> int:
    """Call prctl(2) with one argument."""
    result: int = _libc.prctl(option, argument, 0, 0, 0)
    if result < 0:
        raise _fail(f"prctl({option})")
    return result


def install_filter(program: bytes, flags: int) -> int:
    """Install a classic BPF seccomp filter on this thread; return 0 or the listener's fd. Source: seccomp(2)."""
    code = ctypes.create_string_buffer(program, len(program))
    header = SockFprog(len(program) // 8, ctypes.addressof(code))
    return raw("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(header))


def landlock_abi() -> int:
    """Return the Landlock ABI version. Raises `OSError`: ENOSYS not built, EOPNOTSUPP not enabled at boot. Source: landlock(7)."""
    return raw("landlock_create_ruleset", None, 0, 1)


def root_magic() -> int:
    """Return the file system type number of "/". Source: statfs(2)."""
    buffer = (ctypes.c_long * 32)()
    if _libc.statfs(b"/", ctypes.addressof(buffer)) < 0:
        raise _fail("statfs /")
    return buffer[0] & 0xFFFFFFFF


def landlock_forbid_writing() -> None:
    """Forbid this thread to open any file for writing, for good. Needs no_new_privs. Source: landlock(7)."""
    handled = ctypes.c_uint64(2)  # LANDLOCK_ACCESS_FS_WRITE_FILE; the first field alone is a valid attribute for every ABI
    ruleset = raw("landlock_create_ruleset", ctypes.addressof(handled), 8, 0)
    try:
        raw("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def perf_event_open(kind: int, config: int) -> int:
    """Open a counter of this process's user mode; return its fd (the caller's). Source: perf_event_open(2)."""
    attribute = bytearray(128)
    struct.pack_into("IIQ", attribute, 0, kind, len(attribute), config)
    struct.pack_into("Q", attribute, 40, 1 | 1 << 5 | 1 << 6)  # disabled, exclude_kernel, exclude_hv
    buffer = ctypes.create_string_buffer(bytes(attribute), len(attribute))
    return raw("perf_event_open", ctypes.addressof(buffer), 0, -1, -1, 0)


def libseccomp_version() -> str | None:
    """Return the version of the libseccomp that policies are compiled with, or None where it cannot be loaded."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return ".".join(str(number) for number in library.seccomp_version().contents)
