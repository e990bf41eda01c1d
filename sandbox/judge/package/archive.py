"""Zip archives of packages: unpacked into a place of ours, within bounds, whatever they say about names, sizes and kinds.

Everything is looked at before anything is written; links are made last, so nothing is ever written through one. What names no package may have is left out.
Source: PKWARE APPNOTE.TXT 4.3, 4.4.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib

from sandbox.errors import describe_errno
from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import NAME, shown
from sandbox.judge.package.places import make_place
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

MAXIMUM_ARCHIVE = 1 << 30
MAXIMUM_UNPACKED = 4 << 30
MAXIMUM_FILE = 1 << 30
MAXIMUM_MEMBERS = 50_000
_MAXIMUM_NAME = 1024
_MAXIMUM_DEPTH = 32
_MAXIMUM_TARGET = 1024
_MAXIMUM_DIRECTORY = 32 << 20
_END, _END_SIZE = b"PK\5\6", 22
_END64, _END64_SIZE = b"PK\6\6", 56
_LOCATOR64, _LOCATOR64_SIZE = b"PK\6\7", 20
_MEMBER, _MEMBER_SIZE = b"PK\1\2", 46
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much an archive may hold; tests make them small."""

    archive_bytes: int = MAXIMUM_ARCHIVE
    unpacked_bytes: int = MAXIMUM_UNPACKED
    file_bytes: int = MAXIMUM_FILE
    members: int = MAXIMUM_MEMBERS


def is_archive(path: str) -> bool:
    """Whether a path names a zip archive rather than a directory."""
    return path.endswith((".zip", ".kpp")) and not os.path.isdir(path)


def unpack_archive(path: str, name: str, bounds: Bounds | None = None) -> str:
    """Unpack an archive of a package into a new place below the cache; return the directory that has ``problem.yaml``.

    Args:
        path: the archive.
        name: what the package is called.
        bounds: how much it may hold.

    Raises:
        PackageError: it is no archive of a package, or one that does not fit the bounds or wants out of its directory. Nothing is left of it then.
    """
    bounds = bounds or Bounds()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise PackageError(f"open archive `{path}`: {describe_errno(error.errno or 0)}") from None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PackageError(f"read archive `{path}`: not a regular file")
        if status.st_size > bounds.archive_bytes:
            raise PackageError(f"read archive `{path}`: larger than {bounds.archive_bytes} bytes")
        _check_end(file, status.st_size, path, bounds.members)
        place = make_place("package")
        try:
            root = _unpack(file, status.st_size, path, os.path.join(place.path, name), bounds)
        except PackageError:
            place.remove()
            raise
        except OSError as error:
            place.remove()
            raise PackageError(f"unpack archive `{path}`: {describe_errno(error.errno or 0)}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
            place.remove()
            raise PackageError(f"unpack archive `{path}`: it is damaged: {shown(str(error).rstrip('.'))}") from None
        except BaseException:
            place.remove()
            raise
    return root


def _check_end(file: BinaryIO, size: int, path: str, most: int) -> None:
    """Refuse a directory of members that would fill the memory before anything about it can be checked.

    `zipfile` believes the directory's length, and never the number of members beside it; where there is a record of ZIP64, it believes that one's.
    """
    file.seek(max(0, size - _END_SIZE - 0xFFFF - _LOCATOR64_SIZE - _END64_SIZE))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise PackageError(f"read archive `{path}`: it is no zip archive")
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    before = tail[max(0, at - _LOCATOR64_SIZE - _END64_SIZE) : at]
    if before.startswith(_END64) and before[_END64_SIZE:].startswith(_LOCATOR64):
        length = int.from_bytes(before[40:48], "little")
        at -= len(before)
    start = size - len(tail) + at - length
    if length > _MAXIMUM_DIRECTORY or start < 0:
        raise PackageError(f"read archive `{path}`: more files than any package has")
    file.seek(start)
    directory = file.read(length)
    members = position = 0
    while directory.startswith(_MEMBER, position) and position + _MEMBER_SIZE <= length:
        members += 1
        if members > most:
            raise PackageError(f"unpack archive `{path}`: more than {most} files")
        position += _MEMBER_SIZE + sum(struct.unpack_from("<HHH", directory, position + 28))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Members:
    """What an archive holds, looked at: directories, files with their mode, and links."""

    directories: dict[str, None]
    files: dict[str, zipfile.ZipInfo]
    links: dict[str, zipfile.ZipInfo]


def _unpack(file: BinaryIO, size: int, path: str, target: str, bounds: Bounds) -> str:
    with zipfile.ZipFile(file) as archive:
        members = _look(archive.infolist(), size, path, bounds)
        os.mkdir(target, 0o700)
        for name in members.directories:
            os.mkdir(os.path.join(target, name), 0o700)
        left = bounds.unpacked_bytes
        for name, info in members.files.items():
            left -= _write(archive, info, os.path.join(target, name), min(left, bounds.file_bytes), path)
        for name, info in members.links.items():
            with archive.open(info) as content:
                link = content.read(_MAXIMUM_TARGET + 1)
            if not 0 < len(link) <= _MAXIMUM_TARGET or b"\0" in link:
                raise _refused(path, info, "a link that leads nowhere")
            os.symlink(link, os.fsencode(os.path.join(target, name)))
    if "problem.yaml" in members.files:
        return target
    tops = [name for name in members.directories if "/" not in name and f"{name}/problem.yaml" in members.files]
    if len(tops) != 1:
        raise PackageError(f"archive `{path}` is no problem package: it has no `problem.yaml`" if not tops else f"archive `{path}` has several packages")
    return os.path.join(target, tops[0])


def _look(infos: list[zipfile.ZipInfo], size: int, path: str, bounds: Bounds) -> _Members:
    """Return what is to be unpacked; refuse the archive for what no honest one has."""
    found = _Members(directories={}, files={}, links={})
    unpacked = packed = 0
    for info in infos:
        name = _name(info, path)
        unpacked += info.file_size
        packed += info.compress_size
        if info.flag_bits & _ENCRYPTED:
            raise _refused(path, info, "encrypted")
        if info.compress_type not in _METHODS:
            raise _refused(path, info, "compressed in a way that is not read")
        if info.file_size > bounds.file_bytes or unpacked > bounds.unpacked_bytes:
            raise _refused(path, info, "too large" if info.file_size > bounds.file_bytes else "where the archive gets too large")
        if packed > size:
            raise _refused(path, info, "in the same bytes as other files")
        parts = name.rstrip("/").split("/")
        if not all(NAME.fullmatch(part) for part in parts) or parts[0] == "__MACOSX":
            continue
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise _refused(path, info, "neither file, directory nor link")
        directory = name.endswith("/") or kind == stat.S_IFDIR
        whole = "/".join(parts)
        if whole in found.files or whole in found.links or (whole in found.directories and not directory):
            raise _refused(path, info, "there twice")
        for count in range(1, len(parts) + directory):
            above = "/".join(parts[:count])
            if above in found.files or above in found.links:
                raise _refused(path, info, "below what is no directory")
            found.directories.setdefault(above)
        if not directory:
            (found.links if kind == stat.S_IFLNK else found.files)[whole] = info
    return found


def _name(info: zipfile.ZipInfo, path: str) -> str:
    """Return a member's name; refuse what would lead elsewhere."""
    name = info.orig_filename
    parts = name.rstrip("/").split("/")
    if not name or len(name) > _MAXIMUM_NAME or len(parts) > _MAXIMUM_DEPTH:
        raise _refused(path, info, "named as no file can be")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or "" in parts or "." in parts:
        raise _refused(path, info, "named so that it leads elsewhere")
    return name


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: str, limit: int, path: str) -> int:
    """Write one file, never more than `limit` bytes; return how many."""
    mode = 0o700 if info.external_attr >> 16 & 0o111 else 0o600
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    written = 0
    with open(fd, "wb") as out, archive.open(info) as content:
        while part := content.read(1 << 20):
            written += len(part)
            if written > limit:
                raise _refused(path, info, "larger than it says")
            out.write(part)
    return written


def _refused(path: str, info: zipfile.ZipInfo, what: str) -> PackageError:
    return PackageError(f"unpack archive `{path}`: `{shown(info.orig_filename)}` is {what}")
