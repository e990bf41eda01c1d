"""Files out of a sandbox: read from the run's working directory when nothing runs there any more.

The tree was made by an untrusted program. It is walked by descriptors, one name at a time, and no link is followed; only regular files with one
name are read, up to a size in all. Since every process of the run is dead nothing changes meanwhile. Imported by `api`.

Attacks that this stops: CVE-2018-15664, CVE-2024-28185 and go-judge's copy-out of links, each a link read or written as the supervisor.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import PolicyError, describe_errno
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAXIMUM_ENTRIES = 100_000
_MAXIMUM_DEPTH = 64
_MAXIMUM_NAMES = 4 << 20  # characters of all paths: 8192 files 64 directories deep would have 128 MiB
_MAXIMUM_SKIPPED = 100
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(slots=True, kw_only=True)
class Collection:
    """What was found: contents by path below the working directory, and what was left out, as text of ours about names of theirs."""

    files: dict[str, bytes] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    size: int = 0
    entries: int = 0
    names: int = 0
    unsaid: int = 0

    def skip(self, text: str) -> None:
        """Note what is left out; after many only that there is more."""
        if len(self.skipped) < _MAXIMUM_SKIPPED:
            self.skipped.append(text)
        else:
            self.unsaid += 1


def parse_patterns(patterns: Sequence[str], origin: str) -> tuple[tuple[str, ...], ...]:
    """Return patterns as their components.

    Args:
        patterns: paths below the working directory; ``*``, ``?`` and ``[...]`` match within a name, ``**`` any number of directories.
        origin: where errors say that they came from.

    Raises:
        PolicyError: one is empty, absolute, or leads out.
        TypeError: one text instead of a list of them.
    """
    if isinstance(patterns, (str, bytes)):
        raise TypeError("patterns must be a sequence of texts, not one text")
    parsed = []
    for pattern in patterns:
        parts = tuple(part for part in pattern.split("/") if part not in ("", "."))
        if not parts or pattern.startswith("/") or ".." in parts or "\0" in pattern:
            raise PolicyError(f"collect `{pattern}`: a path below the working directory is needed", origin=origin)
        parsed.append(parts)
    return tuple(parsed)


def collect_files(root: int, patterns: tuple[tuple[str, ...], ...], limit_bytes: int) -> Collection:
    """Read the files that match any of the patterns.

    Args:
        root: descriptor of the directory; borrowed. Every process that could write there is dead.
        patterns: from `parse_patterns`.
        limit_bytes: the size of all files together; one that does not fit is left out and named.
    """
    found = Collection()
    _walk(root, os.fstat(root).st_dev, "", patterns, limit_bytes, found, 0)
    if found.unsaid:
        found.skipped.append(f"and {found.unsaid} more")
    return found


def _walk(
    directory: int, device: int, prefix: str, patterns: tuple[tuple[str, ...], ...], limit_bytes: int, found: Collection, depth: int
) -> None:
    """Go through one directory; `patterns` are what is left to match from here on."""
    from fnmatch import fnmatchcase

    if depth > _MAXIMUM_DEPTH:
        found.skip(f"`{prefix}`: nested too deep")
        return
    for name in sorted(os.listdir(directory)):
        found.entries += 1
        if found.entries > _MAXIMUM_ENTRIES:
            if found.entries == _MAXIMUM_ENTRIES + 1:
                found.skip(f"more than {_MAXIMUM_ENTRIES} names")
            return
        wanted = False
        below: list[tuple[str, ...]] = []
        for first, *rest in _unfold(patterns):
            if first == "**":
                below.append((first, *rest))
            elif fnmatchcase(name, first):
                wanted = wanted or not rest
                if rest:
                    below.append(tuple(rest))
        if not wanted and not below:
            continue
        path = prefix + name
        try:
            fd = os.open(name, _OPEN, dir_fd=directory)
        except OSError as error:
            # A link is ELOOP, a socket ENXIO; what they lead to is not ours to say.
            if wanted or error.errno not in (errno.ELOOP, errno.ENXIO):
                reason = "a link or no regular file" if error.errno in (errno.ELOOP, errno.ENXIO) else describe_errno(error.errno or 0)
                found.skip(f"`{path}`: {reason}")
            continue
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                if below and (status.st_dev == device or _same_mount(fd, directory)):
                    _walk(fd, device, path + "/", tuple(dict.fromkeys(below)), limit_bytes, found, depth + 1)
            elif wanted:
                _take(fd, status, status.st_dev == device or _same_mount(fd, directory), path, limit_bytes, found)
        except OSError as error:
            found.skip(f"`{path}`: {describe_errno(error.errno or 0)}")
        finally:
            os.close(fd)


def _unfold(patterns: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """Return the patterns, and those that begin with ``**`` without it as well: it may stand for no directory."""
    result = dict.fromkeys(patterns)
    pending = list(patterns)
    while pending:
        first, *rest = pending.pop()
        if first == "**":
            shorter = tuple(rest) or ("*",)
            if shorter not in result:
                result[shorter] = None
                pending.append(shorter)
    return tuple(result)


def _same_mount(fd: int, directory: int) -> bool:
    """Whether a file is in the mount of the directory that it was found in, though not on its device: in an overlay each layer's files have one of their own.

    Source: proc_pid_fdinfo(5).
    """
    numbers = []
    for each in (fd, directory):
        with open(f"/proc/self/fdinfo/{each}", "rb", buffering=0) as file:
            numbers.append([line for line in (file.readall() or b"").splitlines() if line.startswith(b"mnt_id:")])
    return numbers[0] == numbers[1] != []


def _take(fd: int, status: os.stat_result, inside: bool, path: str, limit_bytes: int, found: Collection) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or not inside:
        found.skip(f"`{path}`: a link or no regular file")
        return
    left = limit_bytes - found.size
    if status.st_size > left:
        found.skip(f"`{path}`: {status.st_size} bytes, of {limit_bytes} in all {left} are left")
        return
    content = bytearray()
    while len(content) <= left and (data := os.read(fd, 1 << 20)):
        content += data
    if len(content) > left:
        found.skip(f"`{path}`: it grew while it was read")
        return
    if found.names + len(path) > _MAXIMUM_NAMES:
        found.skip(f"`{path}`: the paths of all files are longer than {_MAXIMUM_NAMES} characters")
        return
    found.names += len(path)
    found.files[path] = bytes(content)
    found.size += len(content)
