"""Which Landlock rules stand behind the mounts. Pure.

Source: landlock(7); Documentation/userspace-api/landlock.rst. Since: Linux 5.13, more rights by ABI.
"""

from __future__ import annotations

from sandbox.plan.root import Bind, Overlay, RootSpec, Tmpfs
from sandbox.plan.steps import RestrictLandlock

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # ABI 2, 3, 5
RESOLVE_UNIX = 1 << 16  # ABI 9 (Linux 7.1): reaching a socket by its path, but one that was made inside
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1, 2  # ABI 6

_READ = EXECUTE | READ_FILE | READ_DIR
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def handled_rights(abi: int) -> int:
    """All file rights that a kernel with this ABI can restrict."""
    rights = (1 << 13) - 1
    if abi >= 2:
        rights |= REFER
    if abi >= 3:
        rights |= TRUNCATE
    if abi >= 5:
        rights |= IOCTL_DEV
    if abi >= 9:
        rights |= RESOLVE_UNIX
    return rights


def landlock_step(root: RootSpec, abi: int, *, proc_writable: bool) -> RestrictLandlock | None:
    """Return the ruleset that mirrors the mounts, or None where the kernel has no Landlock.

    Everything may be read and executed; only what is mounted writable may be changed; no device node may be
    made anywhere; /dev and a whole /proc may be written to but not changed in shape. No path may lead to a socket of a program outside, which a
    read-only mount does not prevent.
    """
    if abi <= 0:
        return None
    handled = handled_rights(abi)
    change = handled & ~(MAKE_CHAR | MAKE_BLOCK | RESOLVE_UNIX)
    rules: list[tuple[str, int]] = [("/", _READ)]
    rules.append(("/dev", (_READ | WRITE_FILE | TRUNCATE | IOCTL_DEV) & handled))
    rules.append(("/dev/shm", change))
    if proc_writable:
        rules.append(("/proc", (_READ | WRITE_FILE | TRUNCATE) & handled))
    for entry in root.entries:
        match entry:
            case Tmpfs(path=path) | Overlay(path=path):
                rules.append((path, change & ~(0 if entry.executable else EXECUTE)))
            case Bind(path=path, writable=True, directory=directory):
                rules.append((path, change if directory else change & _FILE_RIGHTS))
            case _:
                pass
    scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= 6 else 0
    return RestrictLandlock(handled=handled, scoped=scoped, rules=tuple(sorted(set(rules))), abi=abi)
