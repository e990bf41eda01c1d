"""The questions that preparing a launch puts to the host, asked again before a stored launch is used. `listener` notes them.

A launch whose every question has the same answer is the one that would be prepared now. Of files' contents and of the values of variables there are only
digests. Imported by `api.stored`, in every run of the command line.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Notes = dict[str, dict[Any, Any]]
    """Answers by kind and by what was asked; of nothing but what `marshal` takes."""

listening: Any = None
"""The listener that notes what a launch is prepared from, while there is one; for what it cannot note by itself."""

_PIECE = 1 << 16


def digest(content: bytes) -> bytes:
    """Return 16 bytes that no other content has."""
    from _blake2 import blake2b

    return blake2b(content, digest_size=16).digest()


def holds(notes: Notes, environ: Mapping[str, str]) -> bool:
    """Whether every question has the same answer now.

    Args:
        notes: of a `Listener`, of whatever age.
        environ: the caller's environment.
    """
    for name, answer in notes["variable"].items():
        value = environ.get(name)
        if answer != (None if value is None else digest(os.fsencode(value))):
            return False
    for kind, look in (("lstat", os.lstat), ("stat", os.stat)):
        for path, answer in notes[kind].items():
            try:
                found = look(path)
            except OSError as error:
                if error.errno != answer:
                    return False
                continue
            if answer != found[:3] + found[4:6] and answer != stamp_of(found):  # mode, inode, device; owner, group
                return False
    for path, stamp in notes["unchanged"].items():
        try:
            if stamp != stamp_of(os.stat(path)):
                return False
        except OSError:
            return False
    return all(_ask(kind, key) == answer for kind in notes if kind not in ("variable", "lstat", "stat", "unchanged") for key, answer in notes[kind].items())


def _ask(kind: str, key: Any) -> Any:
    try:
        match kind:
            case "readlink":
                return os.readlink(key)
            case "access":
                path, mode, effective = key
                return os.access(path, mode, effective_ids=effective)
            case "read":
                path, count = key
                return read_digest(path, count)
            case "list":
                return names_digest(os.listdir(key))
            case "scan":
                with os.scandir(key) as entries:
                    return kinds_digest(list(entries))
            case "statvfs":
                return os.statvfs(key).f_flag
            case "mkdir":
                path, mode = key
                os.mkdir(path, mode)
                return 0
            case "xattr":
                path, name = key
                return digest(os.getxattr(path, name))
            case "scheduler":
                return os.sched_getscheduler(key)
            case "priority":
                return os.getpriority(*key)
            case "processors":
                return os.cpu_count()
            case "affinity":
                return os.sched_getaffinity(key)
            case "sysconf":
                return os.sysconf(key)
            case "user":
                import pwd

                return pwd.getpwuid(key).pw_dir
            case "unfiltered":
                return is_unfiltered()
            case "kernel":
                from sandbox.kernel.calls import ask_kernel

                return ask_kernel(key)
            case _:
                return None  # written by another version
    except OSError as error:
        return error.errno
    except KeyError:
        return None


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return all that tells of a file whether it is the same and has not been changed; the first five are what and whose it is."""
    return (
        status.st_mode, status.st_ino, status.st_dev, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def is_unfiltered() -> bool:
    """Whether no seccomp filter is around us: then what a kernel offers is the same from its boot on. Source: proc_pid_status(5)."""
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"\nSeccomp:\t0\n" in os.read(fd, 8192)
    finally:
        os.close(fd)


def read_digest(path: str, count: int) -> bytes:
    """Return the digest of a file's first bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        content = b""
        while len(content) < count and (part := os.read(fd, min(_PIECE, count - len(content)))):
            content += part
        return digest(content)
    finally:
        os.close(fd)


def names_digest(names: list[str]) -> bytes:
    """Return the digest of names in whatever order."""
    return digest(os.fsencode("\0".join(sorted(names))))


def kinds_digest(entries: list[os.DirEntry[str]]) -> bytes:
    """Return the digest of a directory's names, each with what it is."""
    return names_digest([entry.name + "/lfdo"[kind_of(entry) :][:1] for entry in entries])


def kind_of(entry: os.DirEntry[str]) -> int:
    """Return 1 for a symbolic link, 2 for a file, 3 for a directory, 4 for anything else."""
    return 1 if entry.is_symlink() else 2 if entry.is_file(follow_symlinks=False) else 3 if entry.is_dir(follow_symlinks=False) else 4


__all__ = ["digest", "holds", "is_unfiltered", "kind_of", "kinds_digest", "names_digest", "read_digest", "stamp_of"]
