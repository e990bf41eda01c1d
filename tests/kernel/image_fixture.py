"""An image of every kind of entry, in more than 20 layers of a few KB, and how a tree is written down to be compared.

`layers` are the same bytes on every machine. Two first layers and 22 small ones: whiteouts, opaque directories, hard links within a layer and to layers
below, attributes, set-id bits, devices, names of every sort, and each kind of entry taking another's place.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

from kernel.image_bytes import EPOCH, Entry, member, tar_of

HARD, SYM, DIR, CHAR, BLOCK_DEVICE, FIFO = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)


def xattrs(**values: str) -> dict[str, str]:
    """Return the pax records of extended attributes of ``user.``."""
    return {f"SCHILY.xattr.user.{key}": value for key, value in values.items()}


def base() -> list[Entry]:
    """The layer that everything is in."""
    directories = ("bin", "etc", "etc/skel", "usr", "usr/lib", "usr/lib/deep", "usr/lib/deep/er", "var", "var/cache", "opt", "srv", "home", "old")
    entries: list[Entry] = [member(name, DIR, mtime=EPOCH + place) for place, name in enumerate(directories)]
    entries += [
        (member("bin/tool", mode=0o755), b"#!/bin/sh\nexit 0\n"),
        member("bin/tool-too", HARD, mode=0o755, linkname="bin/tool"),
        member("usr/lib/tool-again", HARD, mode=0o755, linkname="bin/tool"),
        (member("bin/su", mode=0o4755), b"set-user-id\n"),
        (member("bin/write", mode=0o2755, gid=5), b"set-group-id\n"),
        (member("etc/shadow", mode=0o640, gid=42), b"root:*:\n"),
        (member("etc/secret", mode=0o000), b"nobody reads it\n"),
        ("etc/hostname", b"fixture\n"),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"),
        member("etc/empty"),
        ("etc/skel/.profile", b"# profile\n"),
        member("tmp", DIR, mode=0o1777),
        member("etc/read-only", DIR, mode=0o555),
        ("etc/read-only/inside", b"inside\n"),
        member("lib", SYM, linkname="usr/lib"),
        member("etc/mtab", SYM, linkname="/proc/self/mounts"),
        member("etc/dangling", SYM, linkname="../no/such/file"),
        member("etc/up", SYM, linkname="../../../../../outside"),
        member("usr/lib/link-name", HARD, linkname="etc/dangling"),
        ("usr/lib/data", bytes(range(256)) * 300),
        (member("usr/lib/attributes", pax_headers=xattrs(comment="a value")), b"with attributes\n"),
        member("usr/lib/attributed", DIR, pax_headers=xattrs(kind="directory")),
        (member("usr/lib/fraction", pax_headers={"mtime": "1700000000.123456789"}), b"a time between seconds\n"),
        (member("usr/lib/before", mtime=-86400), b"before 1970\n"),
        (member("home/alice", mode=0o600, uid=1000, gid=1000), b"hers\n"),
        ("opt/a name with spaces", b"spaces\n"),
        ("opt/ünïcödé", b"unicode\n"),
        ("opt/line\nbreak", b"line\n"),
        ("opt/-rf", b"dash\n"),
        ("opt/" + "long" * 40, b"long\n"),
        ("opt/back\\slash", b"backslash\n"),
        ("old/a", b"a\n"),
        ("old/b", b"b\n"),
        "old/sub",
        ("old/sub/c", b"c\n"),
        "srv/opaque",
        ("srv/opaque/below", b"below\n"),
        "srv/opaque/sub",
        ("srv/opaque/sub/below", b"below, too\n"),
        "srv/gone",
        ("srv/gone/x", b"x\n"),
        ("srv/file-then-directory", b"a file\n"),
        "srv/directory-then-file",
        ("srv/directory-then-file/inside", b"inside\n"),
        "srv/directory-then-link",
        ("srv/directory-then-link/inside", b"inside\n"),
        member("srv/link-then-directory", SYM, linkname="opaque"),
        ("srv/file-then-link", b"a file\n"),
        member("srv/link-then-file", SYM, linkname="opaque/below"),
        ("srv/changed", b"as it was\n"),
        ("srv/linked", b"two names\n"),
        member("srv/linked-too", HARD, linkname="srv/linked"),
        member("srv/mode", DIR, mode=0o700),
        ("srv/mode/kept", b"kept\n"),
        member("dev", DIR),
        member("dev/null", CHAR, devmajor=1, devminor=3, mode=0o666),
        member("dev/disk", BLOCK_DEVICE, devmajor=8, devminor=0, mode=0o660),
        member("dev/pipe", FIFO, mode=0o600),
    ]
    return entries


def second() -> list[Entry]:
    """The layer that takes away and changes."""
    return [
        "srv",
        member(".wh.old"),
        "srv/opaque",
        member("srv/opaque/.wh..wh..opq"),
        ("srv/opaque/new", b"new\n"),
        member("srv/.wh.gone"),
        member("srv/.wh.never-there"),
        member("srv/file-then-directory", DIR),
        ("srv/file-then-directory/inside", b"a directory now\n"),
        ("srv/directory-then-file", b"a file now\n"),
        member("srv/directory-then-link", SYM, linkname="changed"),
        member("srv/link-then-directory", DIR),
        ("srv/link-then-directory/inside", b"a directory now\n"),
        member("srv/file-then-link", SYM, linkname="changed"),
        ("srv/link-then-file", b"a file now\n"),
        ("srv/changed", b"as it is\n"),
        member("srv/.wh.linked"),
        member("srv/mode", DIR, mode=0o711, mtime=EPOCH + 99),
        (member("srv/mode/added"), b"added\n"),
        ("usr/lib/deep/er/without-parents", b"its parents are in the layer below only\n"),
        member("bin/tool-below", HARD, mode=0o755, linkname="bin/tool"),
        member("etc/hostname-below", HARD, linkname="etc/hostname"),
        (member("bin/su", mode=0o4711), b"another set-user-id\n"),
    ]


def third() -> list[Entry]:
    """The layer that brings back."""
    return [
        "old",
        ("old/a", b"a again\n"),
        "srv",
        "srv/gone",
        ("srv/gone/y", b"y\n"),
        ("srv/linked", b"one name\n"),
        member("srv/opaque/.wh.new"),
        ("srv/opaque/newer", b"newer\n"),
        member("etc/.wh.dangling"),
    ]


def layers() -> list[bytes]:
    """Return every layer as a tar archive, bottom first."""
    chance = random.Random(6)
    there: list[str] = []
    made = [tar_of(base()), tar_of(second()), tar_of(third(), tarfile.GNU_FORMAT)]
    for number in range(22):
        entries: list[Entry] = [member("var", DIR), member("var/many", DIR, mtime=EPOCH + number)]
        for _ in range(6):
            name = f"var/many/{chance.randrange(30)}"
            if any(isinstance(entry, tuple) and isinstance(entry[0], str) and entry[0] == name for entry in entries):
                continue
            entries.append((name, b"%d of layer %d\n" % (chance.randrange(1000), number)))
            there.append(name)
        gone = chance.choice(there)
        if not any(isinstance(entry, tuple) and entry[0] == gone for entry in entries):
            entries.append(member(f"var/many/.wh.{gone.rpartition('/')[2]}"))
            there = [name for name in there if name != gone]
        if number % 7 == 3:
            entries = [member("var", DIR), member("var/many", DIR), member("var/many/.wh..wh..opq"), (f"var/many/only-{number}", b"only\n")]
            there = [f"var/many/only-{number}"]
        made.append(tar_of(entries))
    return made


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
CONFIG = {"Env": ["PATH=/bin:/usr/bin", "FIXTURE=yes"], "WorkingDir": "/srv", "User": "1000:1000", "Entrypoint": ["/bin/tool"], "Cmd": ["--help"]}


def listing(root: str | Path, *, owners: bool = False, skip: Iterable[str] = ()) -> list[str]:
    """Write a tree down, a line an entry: path, type, mode, size, digest or target, other names, attributes, time.

    Names that an entry shares with others of the tree are said by the first of them. Attributes of ``user.`` only, without overlay's and umoci's own.

    Args:
        root: its directory.
        owners: uid and gid, too.
        skip: paths from the root that are left out, with all below.
    """
    top = os.fsencode(str(root))
    left_out = {os.fsencode(path) for path in skip}
    first: dict[tuple[int, int], bytes] = {}
    lines = []

    def walk(path: bytes) -> None:
        full = os.path.join(top, path) if path else top
        status = os.lstat(full)
        kind = stat.S_IFMT(status.st_mode)
        words = [repr(path)[2:-1] or ".", KINDS[kind]]
        if kind != stat.S_IFLNK:
            words.append(f"{stat.S_IMODE(status.st_mode):04o}")
        if owners:
            words.append(f"{status.st_uid}:{status.st_gid}")
        if kind == stat.S_IFREG:
            words += [str(status.st_size), content_digest(full)]
        elif kind == stat.S_IFLNK:
            words.append("→ " + repr(os.readlink(full))[2:-1])
        if kind != stat.S_IFDIR:
            name = first.setdefault((status.st_dev, status.st_ino), path)
            if name != path:
                words.append("= " + repr(name)[2:-1])
        words += attributes(full)
        words.append(f"@{status.st_mtime_ns}")
        lines.append(" ".join(words))
        if kind == stat.S_IFDIR:
            for name in sorted(os.listdir(full)):
                below = os.path.join(path, name) if path else name
                if below not in left_out:
                    walk(below)

    walk(b"")
    return lines


def attributes(path: bytes) -> list[str]:
    """Return the attributes of ``user.`` of one entry, as words."""
    found = []
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return []
    for name in sorted(names):
        if name.startswith("user.") and not name.startswith(("user.overlay.", "user.rootlesscontainers")):
            value = os.getxattr(path, name, follow_symlinks=False)
            found.append(f"{name}={value!r}"[:100].replace("=b'", "='"))
    return found


def content_digest(path: bytes) -> str:
    """Return the first digits of a file's digest; a file that its owner cannot read is made readable for the moment."""
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    times = os.lstat(path)
    readable = os.access(path, os.R_OK)
    if not readable:
        os.chmod(path, mode | 0o400)
    try:
        with open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:16]
    finally:
        if not readable:
            os.chmod(path, mode)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
