"""Hostile layers: archives that want out of the directory they are unpacked to, or want to fill or fool whoever unpacks them."""

# ruff: noqa: E501  -- one line a case, as a table has it
from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path

from escape.hostile_cases import (
    END,
    Case,
    Must,
    Scratch,
    base256,
    directory,
    file,
    hardlink,
    header,
    long_name,
    padded,
    pax,
    record,
    sparse_gnu,
    symlink,
)
from kernel.image_bytes import Built, digest_of, dumps, gzipped, image_of, write_layout

REFUSED, HARMLESS = Must.REFUSED, Must.HARMLESS
UP = "../" * 24
"""More than any test's directory is deep."""
BASE = directory("d") + file("d/kept", b"kept") + file("plain", b"plain") + symlink("link", "d") + END
MIB = 1 << 20

CASES: list[Case] = []


def layout(scratch: Scratch, *layers: bytes, blobs: list[bytes] | None = None) -> Path:
    """Write an OCI layout of layers, bottom first; `blobs` are other bytes for them than their gzip."""
    image = image_of(layers)
    if blobs is not None:
        image = with_blobs(image, blobs)
    return write_layout(scratch.made / "layout", {"latest": image})


def with_blobs(image: Built, blobs: list[bytes], media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip") -> Built:
    """Return an image whose layers are other blobs, with right digests and sizes."""
    import json

    table = json.loads(image.manifest)
    table["layers"] = [{"mediaType": media_type, "size": len(blob), "digest": digest_of(blob)} for blob in blobs]
    everything = {digest_of(image.config): image.config, **{digest_of(blob): blob for blob in blobs}}
    return Built(dumps(table), image.media_type, image.config, blobs, everything)


def add(name: str, kind: str, tries: str, must: Must, make: Callable[[Scratch], Path], says: str = "") -> None:
    """Put a case into the table."""
    CASES.append(Case(name, kind, tries, must, make, says))


def layer(name: str, kind: str, tries: str, must: Must, build: Callable[[Scratch], bytes], says: str = "", base: bytes | None = None) -> None:
    """Put a case into the table that is one archive, above `base` where there is one."""
    add(name, kind, tries, must, lambda scratch: layout(scratch, *([base] if base else []), build(scratch)), says)


def tarball(name: str, kind: str, tries: str, must: Must, build: Callable[[Scratch], bytes], says: str = "") -> None:
    """Put a case into the table that is a plain archive, as `image import root.tar` gets it."""

    def make(scratch: Scratch) -> Path:
        path = scratch.made / "root.tar"
        path.write_bytes(build(scratch))
        return path

    add(name, kind, tries, must, make, says)


def signed_checksum(name: bytes) -> bytes:
    """Return a header whose checksum counts bytes from -128, as some old programs do."""
    plain = header(name)
    return header(name, checksum=b"%06o\0 " % sum(each if each < 128 else each - 256 for each in plain[:148] + b" " * 8 + plain[156:]))


# ---- names -----------------------------------------------------------------------------------------------------------

for _name, _path in (
    ("dotdot", lambda s: f"{UP}{s.outside}/canary"),
    ("dotdot-one", lambda s: f"{UP}{s.outside}/canary"),
    ("dotdot-inside", lambda s: f"d/{UP}{s.outside}/canary"),
    ("dotdot-after-dot", lambda s: f"./.././{UP}{s.outside}/canary"),
    ("dotdot-doubled-slash", lambda s: f"d//..//{UP}{s.outside}/canary"),
    ("dotdot-last", lambda s: f"{UP}{s.outside}/new/.."),
    ("absolute", lambda s: f"{s.outside}/canary"),
    ("absolute-doubled", lambda s: f"//{s.outside}/canary"),
    ("absolute-dotdot", lambda s: f"/..{s.outside}/canary"),
):  # fmt: skip
    _kind = "absolute-name" if _name.startswith("absolute") else "dotdot-name"
    _must = REFUSED if ".." in _path(Scratch(Path("/o"), Path("/m"), b"")) else HARMLESS
    layer(_name, _kind, "a file whose name leads outside", _must, lambda s, p=_path: pax(record("path", p(s))) + file("x") + END)  # type: ignore[misc]
    tarball(f"{_name}-tarball", _kind, "the same, as a plain archive", _must, lambda s, p=_path: pax(record("path", p(s))) + file("x") + END)  # type: ignore[misc]
layer("dotdot-prefix", "dotdot-name", "`..` in the prefix field of ustar", REFUSED, lambda s: header("canary", 4, prefix="../../outside") + padded(b"evil") + END)
layer("dotdot-gnu-long", "dotdot-name", "`..` in a GNU long name", REFUSED, lambda s: long_name(f"{UP}{s.outside}/canary".encode()) + file("x") + END)
layer("dotdot-directory", "dotdot-name", "a directory outside gets another mode", REFUSED, lambda s: pax(record("path", f"{UP}{s.outside}/")) + directory("x", mode=0) + END)
layer("dotdot-root-mode", "dotdot-name", "the directory above the layer gets mode 0", REFUSED, lambda s: directory("..", mode=0) + END)
layer("backslash", "odd-name", "`..` as another system writes it", HARMLESS, lambda s: file("..\\..\\outside\\canary") + END)
layer("empty-name", "odd-name", "an entry without a name", REFUSED, lambda s: file("") + END)
layer("name-slash", "odd-name", "a file called `/`", REFUSED, lambda s: file("/") + END)
layer("name-dot", "odd-name", "a file called `.` in place of the root", REFUSED, lambda s: file(".") + END)
layer("root-symlink", "symlink-walk", "the root itself becomes a link outside", REFUSED, lambda s: symlink("./", str(s.outside)) + file("canary") + END)
layer("file-slash", "odd-name", "a file whose name ends with a slash", HARMLESS, lambda s: file("a/") + END)
layer("nul-in-name", "odd-name", "a NUL byte in a pax name", REFUSED, lambda s: pax(record("path", b"a\0/../../b")) + file("x") + END)
layer("nul-in-link", "odd-name", "a NUL byte in a link's target", REFUSED, lambda s: pax(record("linkpath", b"a\0b")) + symlink("x", "y") + END)
layer("not-utf8", "odd-name", "bytes that are no UTF-8", HARMLESS, lambda s: file(b"\xff\xfe\x80") + END)
layer("escape-codes", "odd-name", "a name that speaks to the terminal", HARMLESS, lambda s: file(b"\x1b]0;title\x07\nerror: forged\r") + END)
layer("component-256", "odd-name", "a component of 256 bytes", REFUSED, lambda s: pax(record("path", "n" * 256)) + file("x") + END)
layer("path-5000", "odd-name", "a path longer than the kernel takes", REFUSED, lambda s: pax(record("path", "/".join(["n" * 200] * 25))) + file("x") + END)
layer("case-twins", "odd-name", "names that differ in case only", HARMLESS, lambda s: directory("etc") + directory("Etc") + file("etc/a") + file("ETC/a".replace("ETC", "Etc")) + END)
layer("unicode-twins", "odd-name", "one name in two Unicode forms", HARMLESS, lambda s: file("é".encode()) + file("e\u0301".encode()) + END)
layer("full-width-dots", "odd-name", "dots that some system folds to `..`", HARMLESS, lambda s: file("\uff0e\uff0e/outside/canary") + END)

# ---- symbolic links --------------------------------------------------------------------------------------------------

layer("symlink-absolute", "symlink-walk", "a link to a directory outside, a file through it", HARMLESS, lambda s: symlink("x", str(s.outside)) + file("x/canary") + END)
tarball("symlink-absolute-tarball", "symlink-walk", "the same, as a plain archive", HARMLESS, lambda s: symlink("x", str(s.outside)) + file("x/canary") + END)
layer("symlink-relative", "symlink-walk", "the same with `..`", HARMLESS, lambda s: symlink("x", f"{UP}{s.outside}") + file("x/canary") + END)
layer("symlink-file", "symlink-open", "a link to a file outside, then a file of its name", HARMLESS, lambda s: symlink("x", f"{s.outside}/canary") + file("x") + END)
layer("symlink-dangling", "symlink-open", "a link to what is not there yet, then a file of its name", HARMLESS, lambda s: symlink("x", f"{s.outside}/new") + file("x") + END)
layer("symlink-chain", "symlink-walk", "links through links", HARMLESS, lambda s: symlink("a", ".") + symlink("a/b", ".") + symlink("a/b/c", f"{UP}{s.outside}") + file("a/b/c/canary") + END)
layer("symlink-long-chain", "symlink-walk", "100 links, each through the one before", REFUSED, lambda s: symlink("l0", str(s.outside)) + b"".join(symlink(f"l{n}", f"l{n - 1}") for n in range(1, 100)) + file("l99/canary") + END)
layer("symlink-loop", "symlink-walk", "a loop of links as a parent", REFUSED, lambda s: symlink("a", "b") + symlink("b", "a") + file("a/x") + END)
layer("symlink-self", "symlink-walk", "a link to itself as a parent", REFUSED, lambda s: symlink("a", "a") + file("a/x") + END)
layer("symlink-proc", "symlink-walk", "through /proc/self/cwd", HARMLESS, lambda s: symlink("x", "/proc/self/cwd") + file("x/evil") + END)
layer("symlink-proc-fd", "symlink-walk", "through /proc/self/fd", HARMLESS, lambda s: symlink("x", "/proc/self/fd") + file("x/1") + END)
layer("symlink-proc-root", "symlink-walk", "through /proc/self/root", HARMLESS, lambda s: symlink("x", f"/proc/self/root{s.outside}") + file("x/canary") + END)
layer("symlink-deep-file", "symlink-walk", "missing parents below a link", HARMLESS, lambda s: symlink("x", str(s.outside)) + file("x/a/b/c/new") + END)
layer("symlink-directory", "symlink-walk", "a directory made through a link", HARMLESS, lambda s: symlink("x", str(s.outside)) + directory("x/new") + END)
layer("symlink-directory-mode", "symlink-follow", "a directory entry where a link to a directory lies", HARMLESS, lambda s: symlink("x", f"{s.outside}/dir") + directory("x", mode=0) + END)
layer("symlink-replaces-directory", "symlink-walk", "a directory that becomes a link, then a file in it", HARMLESS, lambda s: directory("x") + symlink("x", str(s.outside)) + file("x/canary") + END)
layer("symlink-late-mode", "symlink-follow", "a directory whose mode is put off becomes a link", HARMLESS, lambda s: directory("x", mode=0) + symlink("x", f"{s.outside}/dir") + END)
layer("symlink-late-time", "symlink-follow", "a directory whose time is put off becomes a link", HARMLESS, lambda s: directory("x", mtime=0) + symlink("x", f"{s.outside}/dir", mtime=1) + END)
layer("symlink-mode", "symlink-follow", "the mode of a link is that of what it leads to", HARMLESS, lambda s: symlink("x", f"{s.outside}/canary", mode=0) + END)
layer("symlink-time", "symlink-follow", "the time of a link is that of what it leads to", HARMLESS, lambda s: symlink("x", f"{s.outside}/canary", mtime=0) + END)
layer("symlink-owner", "symlink-follow", "the owner of a link is that of what it leads to", HARMLESS, lambda s: symlink("x", f"{s.outside}/canary", uid=12345, gid=12345) + END)
layer("symlink-xattr", "symlink-follow", "the attributes of a link are those of what it leads to", HARMLESS, lambda s: pax(record("SCHILY.xattr.user.evil", b"1")) + symlink("x", f"{s.outside}/canary") + END)
layer("symlink-device", "symlink-walk", "a fifo made through a link", HARMLESS, lambda s: symlink("x", str(s.outside)) + header("x/new", 0, b"6") + END)
layer("symlink-symlink", "symlink-walk", "a link made through a link", HARMLESS, lambda s: symlink("x", str(s.outside)) + symlink("x/new", "/etc") + END)
layer("symlink-lower-layer", "symlink-walk", "the link lies in the layer below", HARMLESS, lambda s: file("x/canary") + END, base=b"")
layer("symlink-empty", "odd-name", "a link to nothing", REFUSED, lambda s: symlink("x", "") + END)
layer("symlink-huge", "odd-name", "a target of 5000 bytes", REFUSED, lambda s: pax(record("linkpath", "t" * 5000)) + symlink("x", "y") + END)
layer("symlink-harmless", "symlink-open", "links outside that nothing goes through", HARMLESS, lambda s: symlink("x", str(s.outside)) + symlink("y", f"{UP}etc") + END)

# ---- hard links ------------------------------------------------------------------------------------------------------

for _name, _target in (
    ("absolute", lambda s: f"{s.outside}/canary"),
    ("dotdot", lambda s: f"{UP}{s.outside}/canary"),
    ("dotdot-inside", lambda s: f"d/../{UP}{s.outside}/canary"),
):  # fmt: skip
    layer(f"hardlink-{_name}", "hardlink-outside", "a hard link to a file outside: its content", REFUSED, lambda s, t=_target: pax(record("linkpath", t(s))) + hardlink("x", "y") + END)  # type: ignore[misc]
    layer(f"hardlink-{_name}-write", "hardlink-outside", "and a file over it: a write through the link", REFUSED, lambda s, t=_target: pax(record("linkpath", t(s))) + hardlink("x", "y") + file("x") + END)  # type: ignore[misc]
tarball("hardlink-tarball", "hardlink-outside", "the same, as a plain archive", REFUSED, lambda s: pax(record("linkpath", f"{s.outside}/canary")) + hardlink("x", "y") + END)
layer("hardlink-symlink", "hardlink-outside", "a hard link through a symbolic link", REFUSED, lambda s: symlink("l", str(s.outside)) + hardlink("x", "l/canary") + END)
layer("hardlink-to-symlink", "hardlink-follow", "a hard link to a symbolic link, then a file of its name", HARMLESS, lambda s: symlink("l", f"{s.outside}/canary") + hardlink("x", "l") + file("x") + END)
layer("hardlink-mode", "hardlink-follow", "a hard link to a symbolic link gets a mode", HARMLESS, lambda s: symlink("l", f"{s.outside}/canary") + hardlink("x", "l", mode=0) + END)
layer("hardlink-content", "hardlink-follow", "a hard link that brings content for what it leads to", REFUSED, lambda s: symlink("l", f"{s.outside}/canary") + header("x", 4, b"1", link="l") + padded(b"evil") + END)
layer("hardlink-directory", "hardlink-odd", "a hard link to a directory", REFUSED, lambda s: directory("d") + hardlink("x", "d") + END)
layer("hardlink-missing", "hardlink-odd", "a hard link to nothing", REFUSED, lambda s: hardlink("x", "nothing") + END)
layer("hardlink-self", "hardlink-odd", "a hard link to itself", REFUSED, lambda s: hardlink("x", "x") + END)
layer("hardlink-own-name", "hardlink-odd", "a hard link over its own file", HARMLESS, lambda s: file("x") + hardlink("x", "x") + END)
layer("hardlink-root", "hardlink-odd", "a hard link to the root", REFUSED, lambda s: hardlink("x", ".") + END)
layer("hardlink-whiteout", "hardlink-odd", "a hard link to a whiteout of ours", REFUSED, lambda s: file(".wh.plain", b"") + hardlink("x", "plain") + END, base=BASE)
layer("hardlink-many", "hardlink-odd", "12000 names of one file", REFUSED, lambda s: file("f") + b"".join(hardlink(f"n{n}", "f") for n in range(12_000)) + END)

# ---- devices, fifos, set-id, attributes ------------------------------------------------------------------------------

layer("device-char", "device", "the host's memory as a device", HARMLESS, lambda s: header("mem", 0, b"3", device=(1, 1), mode=0o666) + END)
layer("device-block", "device", "the host's disk as a device", HARMLESS, lambda s: header("sda", 0, b"4", device=(8, 0), mode=0o666) + END)
layer("device-whiteout", "forged-overlay", "a device 0/0: a whiteout that no name says", HARMLESS, lambda s: header("plain", 0, b"3", device=(0, 0)) + END, base=BASE)
layer("device-huge", "device", "device numbers out of any range", HARMLESS, lambda s: header("x", 0, b"3", device=(0o7777777, 0o7777777)) + END)
layer("device-over-file", "device", "a device over a file that is there", HARMLESS, lambda s: file("x") + header("x", 0, b"4", device=(8, 0)) + END)
layer("fifo", "device", "a fifo: who opens it hangs", HARMLESS, lambda s: header("x", 0, b"6") + END)
layer("fifo-then-file", "device", "a file over a fifo: who opens it for writing hangs", HARMLESS, lambda s: header("x", 0, b"6") + file("x") + END)
layer("fifo-hardlink", "device", "a hard link to a fifo", HARMLESS, lambda s: header("x", 0, b"6") + hardlink("y", "x") + END)
layer("contiguous", "odd-type", "type 7, a contiguous file", HARMLESS, lambda s: header("x", 4, b"7") + padded(b"evil") + END)
layer("type-unknown", "odd-type", "a type that nobody knows", REFUSED, lambda s: header("x", 4, b"Z") + padded(b"evil") + END)
layer("type-dumpdir", "odd-type", "GNU's type D", HARMLESS, lambda s: header("x", 4, b"D") + padded(b"evil") + END)
layer("type-multi", "odd-type", "GNU's type M, the end of a file of another archive", REFUSED, lambda s: header("x", 4, b"M") + padded(b"evil") + END)
layer("directory-with-content", "odd-type", "a directory that brings content", HARMLESS, lambda s: header("d", 512, b"5", mode=0o755) + header("evil-inner", 0) + END)
layer("symlink-with-content", "odd-type", "a link that brings content, an entry in it", HARMLESS, lambda s: header("x", 512, b"2", link="y") + header("evil-inner", 0) + END)
layer("setuid", "set-id", "a set-user-id program that others of the host could run", HARMLESS, lambda s: file("su", b"#!/bin/sh\n", mode=0o6755, uid=0) + END)
layer("setgid-directory", "set-id", "a set-group-id directory that others could write to", HARMLESS, lambda s: directory("d", mode=0o7777) + END)
layer("mode-huge", "set-id", "more bits than a mode has", HARMLESS, lambda s: file("x", mode=0o7777777) + END)
layer("mode-type", "set-id", "a file type in the mode", HARMLESS, lambda s: file("x", mode=0o60666) + END)
layer("mode-zero", "set-id", "directories that their owner cannot enter, with files in them", HARMLESS, lambda s: directory("d", mode=0) + file("d/x", mode=0) + directory("d/e", mode=0) + file("d/e/y") + END)
layer("mode-root-zero", "set-id", "a root that its owner cannot enter", HARMLESS, lambda s: directory("./", mode=0) + file("x") + END)
for _key in ("user.overlay.opaque", "trusted.overlay.opaque", "user.overlay.whiteout", "user.overlay.redirect", "trusted.overlay.redirect", "user.overlay.metacopy", "user.overlay.origin", "user.overlay.nlink"):
    layer(f"xattr-{_key}", "forged-overlay", "an attribute with which overlay hides or moves files", HARMLESS, lambda s, k=_key: pax(record(f"SCHILY.xattr.{k}", b"/../../../outside" if "redirect" in k else b"y")) + directory("d") + END, base=BASE)  # type: ignore[misc]
layer("xattr-capability", "set-id", "capabilities on a file", HARMLESS, lambda s: pax(record("SCHILY.xattr.security.capability", b"\x01\0\0\2" + b"\xff" * 16)) + file("x") + END)
layer("xattr-selinux", "forged-overlay", "a label", HARMLESS, lambda s: pax(record("SCHILY.xattr.security.selinux", b"x")) + file("x") + END)
layer("xattr-acl", "set-id", "an access control list that lets everybody write", HARMLESS, lambda s: pax(record("SCHILY.xattr.system.posix_acl_access", b"\2\0\0\0" + b"\1\0\7\0\xff\xff\xff\xff" * 4)) + file("x") + END)
layer("xattr-libarchive", "forged-overlay", "the same attributes as libarchive writes them", HARMLESS, lambda s: pax(record("LIBARCHIVE.xattr.user.overlay.opaque", b"eQ==")) + directory("d") + END, base=BASE)
layer("xattr-huge", "bomb-header", "an attribute of 1 MiB", REFUSED, lambda s: pax(record("SCHILY.xattr.user.x", b"x" * MIB)) + file("x") + END)
layer("xattr-many", "bomb-header", "5000 attributes of one file", REFUSED, lambda s: pax(*(record(f"SCHILY.xattr.user.a{n}", b"x") for n in range(5000))) + file("x") + END)
layer("xattr-no-name", "bomb-header", "an attribute without a name", HARMLESS, lambda s: pax(record("SCHILY.xattr.", b"x")) + file("x") + END)

# ---- whiteouts -------------------------------------------------------------------------------------------------------

layer("whiteout-dotdot", "whiteout-outside", "`.wh...`: the whiteout of `..`", REFUSED, lambda s: directory("d") + file("d/.wh...", b"") + END, base=BASE)
layer("whiteout-dot", "whiteout-outside", "`.wh..`: the whiteout of `.`", REFUSED, lambda s: directory("d") + file("d/.wh..", b"") + END, base=BASE)
layer("whiteout-nothing", "whiteout-outside", "`.wh.`: the whiteout of nothing", REFUSED, lambda s: directory("d") + file("d/.wh.", b"") + END, base=BASE)
layer("whiteout-symlink", "whiteout-outside", "a whiteout through a link of the same layer", HARMLESS, lambda s: symlink("x", str(s.outside)) + file("x/.wh.canary", b"") + END, base=BASE)
layer("whiteout-lower-symlink", "whiteout-outside", "a whiteout through a link of the layer below", HARMLESS, lambda s: file("x/.wh.canary", b"") + END, base=None)
layer("opaque-symlink", "whiteout-outside", "an opaque mark through a link", HARMLESS, lambda s: symlink("x", str(s.outside)) + file("x/.wh..wh..opq", b"") + END, base=BASE)
layer("whiteout-up", "whiteout-outside", "a whiteout below `..`", REFUSED, lambda s: file(f"{UP}{s.outside}/.wh.canary", b"") + END, base=BASE)
layer("whiteout-absolute", "whiteout-outside", "a whiteout with an absolute name", HARMLESS, lambda s: pax(record("path", f"{s.outside}/.wh.canary")) + file("x", b"") + END, base=BASE)
layer("opaque-root", "whiteout-odd", "an opaque root", HARMLESS, lambda s: file(".wh..wh..opq", b"") + file("new") + END, base=BASE)
layer("whiteout-root-name", "whiteout-odd", "a whiteout with a slash after it", HARMLESS, lambda s: file(".wh.plain/", b"") + END, base=BASE)
layer("whiteout-directory", "whiteout-odd", "a whiteout that is a directory", HARMLESS, lambda s: directory(".wh.d") + END, base=BASE)
layer("whiteout-in-whiteout", "whiteout-odd", "a file below a whiteout", REFUSED, lambda s: directory(".wh.d") + file(".wh.d/x") + END, base=BASE)
layer("whiteout-symlink-type", "whiteout-odd", "a whiteout that is a link", HARMLESS, lambda s: symlink(".wh.d", str(s.outside)) + END, base=BASE)
layer("whiteout-hardlink-type", "whiteout-odd", "a whiteout that is a hard link", HARMLESS, lambda s: file("new") + hardlink(".wh.d", "new") + END, base=BASE)
layer("whiteout-with-content", "whiteout-odd", "a whiteout of 1 KiB", HARMLESS, lambda s: file(".wh.d", b"x" * 1024) + END, base=BASE)
layer("whiteout-twice", "whiteout-odd", "a whiteout and the file, in both orders", HARMLESS, lambda s: file("plain", b"a") + file(".wh.plain", b"") + file("d", b"b") + END, base=BASE)
layer("whiteout-of-whiteout", "whiteout-odd", "`.wh..wh.x`", HARMLESS, lambda s: file(".wh..wh.x", b"") + END, base=BASE)
layer("whiteout-aufs", "whiteout-odd", "aufs' own files", HARMLESS, lambda s: directory(".wh..wh.plnk") + file(".wh..wh.aufs", b"") + file(".wh..wh.plnk/1", b"x") + END, base=BASE)
layer("whiteout-long", "whiteout-odd", "a whiteout whose name is as long as a name can be", HARMLESS, lambda s: pax(record("path", ".wh." + "n" * 251)) + file("x", b"") + END, base=BASE)
layer("whiteout-middle", "whiteout-odd", "a whiteout as a parent", REFUSED, lambda s: file(".wh.d/new", b"x") + END, base=BASE)

# ---- too much --------------------------------------------------------------------------------------------------------


def zeros_gzip(scratch: Scratch, total: int, name: str = "zeros") -> Path:
    """Write a layout whose one layer is a gzip of a file of zeros, without ever holding it."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as out:
        out.write(pax(record("size", str(total))) + header(name, 0 if total >= 8**11 else total))
        for _ in range(total // MIB):
            out.write(b"\0" * MIB)
        out.write(END)
    return layout(scratch, b"", blobs=[packed.getvalue()])


def gzip_members(scratch: Scratch, count: int) -> Path:
    """Write a layout whose one layer is many gzip members of zeros: a few bytes each."""
    member = gzip.compress(b"\0" * MIB, 9, mtime=0)
    head = gzip.compress(header("zeros", count * MIB), 9, mtime=0)
    return layout(scratch, b"", blobs=[head + member * count + gzip.compress(END, 9, mtime=0)])


add("bomb-gzip", "bomb-size", "384 MiB of zeros in 400 KiB", REFUSED, lambda s: zeros_gzip(s, 384 * MIB))
add("bomb-gzip-members", "bomb-size", "the same in 400 members", REFUSED, lambda s: gzip_members(s, 400))
layer("bomb-claimed", "bomb-size", "a file of 8 EiB that is not there", REFUSED, lambda s: pax(record("size", str((1 << 63) - 1))) + header("x", 0) + END)
layer("bomb-claimed-over", "bomb-size", "a size above any integer of 64 bits", REFUSED, lambda s: pax(record("size", "9" * 40)) + header("x", 0) + END)
layer("bomb-claimed-digits", "bomb-size", "a size of 100000 digits", REFUSED, lambda s: pax(record("size", "9" * 100_000)) + header("x", 0) + END)
layer("bomb-base256", "bomb-size", "the same in binary", REFUSED, lambda s: header("x", base256((1 << 90), 12)) + END)
layer("sparse-gnu", "bomb-sparse", "an old GNU sparse file of 1 TiB", REFUSED, lambda s: sparse_gnu("x", 1 << 40, [(0, 4), (1 << 40, 0)], b"evil") + END)
layer("sparse-gnu-exa", "bomb-sparse", "of 8 EiB", REFUSED, lambda s: sparse_gnu("x", (1 << 63) - 1, [((1 << 63) - 5, 4)], b"evil") + END)
layer("sparse-gnu-overlap", "bomb-sparse", "whose pieces overlap", REFUSED, lambda s: sparse_gnu("x", 100, [(0, 4), (2, 4)], b"evilevil") + END)
layer("sparse-gnu-negative", "bomb-sparse", "whose piece is before its beginning", REFUSED, lambda s: sparse_gnu("x", 100, [(-4096, 4)], b"evil") + END)
layer("sparse-gnu-beyond", "bomb-sparse", "whose piece is behind its end", REFUSED, lambda s: sparse_gnu("x", 10, [(1 << 30, 4)], b"evil") + END)
layer("sparse-gnu-more", "bomb-sparse", "with more pieces than content", REFUSED, lambda s: sparse_gnu("x", 1 << 20, [(0, 1 << 19), (1 << 19, 1 << 19)], b"evil") + END)
layer("sparse-pax-1.0", "bomb-sparse", "a pax 1.0 sparse file of 1 TiB", REFUSED, lambda s: pax(record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0"), record("GNU.sparse.name", "x"), record("GNU.sparse.realsize", str(1 << 40))) + file("GNUSparseFile.0/x", b"1\n0\n4\n".ljust(512, b"\0") + b"evil") + END)
layer("sparse-pax-1.0-map", "bomb-sparse", "whose map has a billion entries", REFUSED, lambda s: pax(record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0"), record("GNU.sparse.name", "x"), record("GNU.sparse.realsize", "4")) + file("GNUSparseFile.0/x", b"1000000000\n0\n4\n".ljust(512, b"\0") + b"evil") + END)
layer("sparse-pax-1.0-name", "dotdot-name", "whose real name leads outside", REFUSED, lambda s: pax(record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0"), record("GNU.sparse.name", f"{UP}{s.outside}/canary"), record("GNU.sparse.realsize", "4")) + file("GNUSparseFile.0/x", b"1\n0\n4\n".ljust(512, b"\0") + b"evil") + END)
layer("sparse-pax-0.1", "bomb-sparse", "a pax 0.1 sparse file of 1 TiB", REFUSED, lambda s: pax(record("GNU.sparse.size", str(1 << 40)), record("GNU.sparse.numblocks", "1"), record("GNU.sparse.map", "0,4"), record("GNU.sparse.name", "x")) + file("GNUSparseFile.0/x") + END)
layer("sparse-pax-0.0", "bomb-sparse", "a pax 0.0 sparse file of 1 TiB", REFUSED, lambda s: pax(record("GNU.sparse.size", str(1 << 40)), record("GNU.sparse.numblocks", "1"), record("GNU.sparse.offset", "0"), record("GNU.sparse.numbytes", "4")) + file("x") + END)
layer("pax-header-huge", "bomb-header", "an extended header of 32 MiB", REFUSED, lambda s: pax(record("comment", b"c" * (32 * MIB))) + file("x") + END)
layer("pax-header-claimed", "bomb-header", "an extended header that says 4 GiB", REFUSED, lambda s: header("x", 4 << 30, b"x") + END)
layer("pax-many-records", "bomb-header", "200000 records in one header", REFUSED, lambda s: pax(*[record(f"k{n}", "v") for n in range(200_000)]) + file("x") + END)
layer("pax-many-headers", "bomb-header", "20000 extended headers before one file", REFUSED, lambda s: pax(record("comment", "c")) * 20_000 + file("x") + END)
layer("pax-global-many", "bomb-header", "20000 global headers", REFUSED, lambda s: pax(record("comment", "c"), kind=b"g") * 20_000 + file("x") + END)
layer("long-name-huge", "bomb-header", "a GNU long name of 16 MiB", REFUSED, lambda s: long_name(b"n" * (16 * MIB)) + file("x") + END)
layer("long-name-claimed", "bomb-header", "a GNU long name that says 4 GiB", REFUSED, lambda s: header("././@LongLink", 4 << 30, b"L", magic=b"ustar  \0") + END)
layer("depth-2000", "bomb-depth", "directories 2000 deep, one by one", REFUSED, lambda s: b"".join(directory("d/" * n) if n < 45 else pax(record("path", "d/" * n)) + directory("x") for n in range(1, 2001)) + END)
layer("depth-in-one-name", "bomb-depth", "the same in one name", REFUSED, lambda s: pax(record("path", "d/" * 2000 + "x")) + file("x") + END)
layer("many-entries", "bomb-entries", "12000 empty files in 60 KiB", REFUSED, lambda s: b"".join(header(f"f{n}") for n in range(12_000)) + END)
layer("many-duplicates", "bomb-entries", "12000 times the same file", REFUSED, lambda s: header("f") * 12_000 + END)
layer("many-directories", "bomb-entries", "12000 times the same directory", REFUSED, lambda s: directory("f") * 12_000 + END)
layer("swap-types", "bomb-entries", "a name that is file, directory and link by turns, 500 times", HARMLESS, lambda s: (file("f") + directory("f") + symlink("f", str(s.outside))) * 500 + END)

# ---- broken ----------------------------------------------------------------------------------------------------------

layer("truncated-header", "broken", "an archive that ends in a header", REFUSED, lambda s: file("a") + header("x")[:300])
layer("truncated-content", "broken", "an archive that ends in a file", REFUSED, lambda s: header("x", 100_000) + b"x" * 512)
layer("no-end", "broken", "an archive without its last blocks", HARMLESS, lambda s: file("x"))
layer("one-zero-block", "broken", "one zero block, then more entries", REFUSED, lambda s: file("a") + b"\0" * 512 + file("hidden") + END)
layer("after-end", "broken", "entries behind the end", HARMLESS, lambda s: file("a") + END + file(f"{UP}{s.outside}/canary") + END)
layer("garbage-after-end", "broken", "garbage behind the end", HARMLESS, lambda s: file("a") + END + b"garbage" * 1000)
layer("checksum", "broken", "a header with a wrong checksum", REFUSED, lambda s: header("x", checksum=b"000001\0 ") + END)
layer("checksum-signed", "broken", "a checksum as some count it, of signed bytes", HARMLESS, lambda s: signed_checksum(b"\xff\xfe") + END)
layer("size-negative", "broken", "a negative size", REFUSED, lambda s: header("x", base256(-512, 12)) + file("y") + END)
layer("size-garbage", "broken", "a size that is no number", REFUSED, lambda s: header("x", b"12z45678901") + END)
layer("size-pax-negative", "broken", "a negative size in pax", REFUSED, lambda s: pax(record("size", "-1")) + header("x") + END)
layer("size-pax-text", "broken", "a size of words", REFUSED, lambda s: pax(record("size", "many")) + header("x") + END)
layer("size-pax-underscore", "broken", "a size that only Python reads", REFUSED, lambda s: pax(record("size", "1_0")) + header("x", 10) + padded(b"x" * 10) + END)
layer("size-pax-unicode", "broken", "a size of Arabic digits", REFUSED, lambda s: pax(record("size", "٤")) + header("x", 4) + padded(b"evil") + END)
layer("size-smuggle", "broken", "a pax size that hides an entry from one reader and shows it to another", REFUSED, lambda s: pax(record("size", "0")) + header("a", 1024) + file(f"{UP}{s.outside}/canary") + END)
layer("mtime-garbage", "broken", "a time that is none", REFUSED, lambda s: file("x", mtime=b"zzz") + END)
layer("mtime-nan", "broken", "a time that is not a number", REFUSED, lambda s: pax(record("mtime", "nan")) + file("x") + END)
layer("mtime-huge", "broken", "a time of 10^300 s", REFUSED, lambda s: pax(record("mtime", "1e300")) + file("x") + END)
layer("mtime-digits", "broken", "a time of 5000 digits", REFUSED, lambda s: pax(record("mtime", "9" * 5000)) + file("x") + END)
layer("mtime-before-1970", "broken", "a time before 1970", HARMLESS, lambda s: pax(record("mtime", "-99999999999")) + file("x") + END)
layer("uid-garbage", "broken", "an owner that is no number", REFUSED, lambda s: file("x", uid=b"root") + END)
layer("uid-huge", "broken", "an owner above 32 bits", REFUSED, lambda s: pax(record("uid", str(1 << 70))) + file("x") + END)
layer("uid-negative", "broken", "owner -1, which chown takes for `leave it`", REFUSED, lambda s: pax(record("uid", "-1"), record("gid", "-1")) + file("x") + END)
layer("pax-length-huge", "broken", "a record longer than its header", REFUSED, lambda s: pax(b"999999 path=x\n") + file("x") + END)
layer("pax-length-zero", "broken", "a record of length 0: a reader that does not move", REFUSED, lambda s: pax(b"0 path=x\n") + file("x") + END)
layer("pax-length-negative", "broken", "a record of length -5: a reader that moves back", REFUSED, lambda s: pax(b"-5 path=x\n") + file("x") + END)
layer("pax-no-newline", "broken", "a record without its newline", REFUSED, lambda s: pax(b"9 path=xy") + file("x") + END)
layer("pax-no-equals", "broken", "a record without its value", REFUSED, lambda s: pax(b"8 path x\n"[:9]) + file("x") + END)
layer("pax-not-utf8", "broken", "a name in pax that is no UTF-8", HARMLESS, lambda s: pax(record("path", b"\xff\xfe")) + file("x") + END)
layer("pax-alone", "broken", "an extended header with nothing behind it", REFUSED, lambda s: pax(record("path", "x")) + END)
layer("pax-pax", "broken", "an extended header for an extended header", REFUSED, lambda s: pax(record("path", "../x")) + pax(record("comment", "c")) + file("y") + END)
layer("pax-global-path", "broken", "a global header that names every file", REFUSED, lambda s: pax(record("path", f"{UP}{s.outside}/canary"), kind=b"g") + file("x") + END)
layer("pax-global-link", "broken", "a global header that gives every link its target", HARMLESS, lambda s: pax(record("linkpath", str(s.outside)), kind=b"g") + symlink("x", "y") + file("x/canary") + END)
layer("pax-duplicate", "broken", "a record that is there twice", REFUSED, lambda s: pax(record("path", "a"), record("path", f"{UP}{s.outside}/canary")) + file("x") + END)
layer("gnu-and-pax", "broken", "two long names for one file", REFUSED, lambda s: long_name(b"a") + pax(record("path", f"{UP}{s.outside}/canary")) + file("x") + END)
layer("no-tar", "broken", "no archive at all", REFUSED, lambda s: b"#!/bin/sh\necho evil\n" * 100)
layer("empty-archive", "broken", "an archive of nothing", HARMLESS, lambda s: END)
tarball("empty-file", "broken", "a file of no bytes", REFUSED, lambda s: b"")
tarball("gzip-truncated", "broken", "a gzip that ends early", REFUSED, lambda s: (lambda z: z[: len(z) // 2])(gzipped(file("a", b"x" * 9999) + END)))
tarball("gzip-corrupt", "broken", "a gzip with a wrong checksum", REFUSED, lambda s: (lambda z: z[:-8] + bytes(4) + z[-4:])(gzipped(file("a", b"x" * 9999) + END)))
tarball("gzip-of-gzip", "bomb-size", "a gzip in a gzip", REFUSED, lambda s: gzipped(gzipped(file("a") + END)))
tarball("zstd-corrupt", "broken", "a zstd frame of garbage", REFUSED, lambda s: b"\x28\xb5\x2f\xfd" + bytes(100))
tarball("xz-header", "broken", "an archive packed in a way we do not know", REFUSED, lambda s: b"\xfd7zXZ\0" + bytes(100))
tarball("zlib", "broken", "zlib without gzip's header", REFUSED, lambda s: zlib.compress(file("a") + END))
tarball("pickle", "broken", "a pickle that runs a program when it is loaded", REFUSED, lambda s: b"cos\nsystem\n(S'exit 1'\ntR.")


def _lower_whiteout(scratch: Scratch) -> Path:
    """A whiteout below a name that the layer under it has made a link outside: overlay form has a directory of its own there."""
    return layout(scratch, symlink("x", str(scratch.outside)) + END, file("x/.wh.canary", b"") + END)


def _lower_symlink(scratch: Scratch) -> Path:
    """A file below a name that the layer under it has made a link outside."""
    return layout(scratch, symlink("x", str(scratch.outside)) + END, file("x/canary") + END)


for _at, _case in enumerate(CASES):
    if _case.name == "whiteout-lower-symlink":
        CASES[_at] = Case(_case.name, _case.kind, _case.tries, _case.must, _lower_whiteout)
    elif _case.name == "symlink-lower-layer":
        CASES[_at] = Case(_case.name, _case.kind, _case.tries, _case.must, _lower_symlink)


