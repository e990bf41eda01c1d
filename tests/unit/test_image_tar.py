"""The reader and the writer of archives: against `tarfile` on what is right, with reasons on what is not."""

# ruff: noqa: E501  -- one line for each wrong archive
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.images.bounds import Bounds, Budget, ImageError
from sandbox.images.packing import Packing, Unpacked, detect_packing
from sandbox.images.paths import hides, split_path
from sandbox.images.tarread import Kind, Member, TarReader
from sandbox.images.tarwrite import make_header


class Bytes:
    """A stream of bytes that gives no more than was asked for, and remembers the largest wish."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.largest = 0

    def read(self, count: int) -> bytes:
        self.largest = max(self.largest, count)
        return self._file.read(count)


def read(content: bytes, bounds: Bounds | None = None, *, needs_end: bool = True) -> list[tuple[Member, bytes]]:
    """Return every entry with its stored content."""
    reader = TarReader(Bytes(content), Budget(bounds or Bounds()), "a.tar", needs_end=needs_end)
    found = []
    for member in reader:
        parts = []
        while chunk := reader.read(1000):
            parts.append(chunk)
        found.append((member, b"".join(parts)))
    return found


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT, end: bytes = bytes(1024)) -> bytes:
    out = b""
    for info, content in entries:
        out += info.tobuf(format, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)
    return out + end


def info(name: str = "f", content: bytes = b"", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for key, value in facts.items():
        setattr(made, key, value)
    return made, content


def block(**fields: bytes) -> bytes:
    """Return a header with some fields as they are given, and the right checksum."""
    places = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12), "type": (156, 1),
              "link": (157, 100), "magic": (257, 8), "prefix": (345, 155), "sparse": (386, 97), "real": (483, 12)}  # fmt: skip
    made = bytearray(info()[0].tobuf(tarfile.USTAR_FORMAT))
    for key, value in fields.items():
        at, width = places[key]
        made[at : at + width] = value.ljust(width, b"\0")
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    content = b"".join(records)
    return block(type=kind, size=b"%011o" % len(content)) + content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    while len(b"%d %b=%b\n" % (size, key, value)) != size:
        size += 1
    return b"%d %b=%b\n" % (size, key, value)


END = bytes(1024)

# ---- what is right -------------------------------------------------------------------------------------------------------

_NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1, max_size=60).filter(lambda text: text not in (".", ".."))
_ENTRIES = st.fixed_dictionaries(
    {
        "name": st.lists(_NAMES, min_size=1, max_size=5).map("/".join),
        "content": st.binary(max_size=1500),
        "type": st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]),
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, (1 << 32) - 2),
        "gid": st.integers(0, 1 << 21),
        "mtime": st.one_of(st.integers(0, 1 << 33), st.integers(0, 1 << 41).map(lambda number: number / 1024)),
        "linkname": st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=150),
    }
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_ENTRIES, max_size=4), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_it_reads_what_tarfile_writes_as_tarfile_reads_it(entries: list[dict[str, Any]], format: int) -> None:
    made = []
    for each in entries:
        content = each["content"] if each["type"] == tarfile.REGTYPE else b""
        link = each["linkname"] if each["type"] in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        made.append(info(each["name"], content, **{key: each[key] for key in ("type", "mode", "uid", "gid", "mtime")}, linkname=link))
    data = tar_of(*made, format=format)
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        theirs = [(each, archive.extractfile(each).read() if each.isreg() else b"") for each in archive]  # type: ignore[union-attr]
    mine = read(data)
    assert len(mine) == len(theirs)
    for (member, content), (their, their_content) in zip(mine, theirs, strict=True):
        assert member.name.rstrip(b"/") == their.name.rstrip("/").encode("utf-8", "surrogateescape")
        assert (member.mode, member.uid, member.gid, content) == (their.mode, their.uid, their.gid, their_content)
        assert member.target == their.linkname.encode("utf-8", "surrogateescape")
        assert abs(member.mtime_ns / 1e9 - their.mtime) < 1e-3 * (1 + their.mtime / (1 << 31))


@settings(max_examples=100, deadline=None)
@given(
    st.binary(min_size=1, max_size=400).filter(lambda name: b"\0" not in name and not name.endswith(b"/")), st.integers(0, 1 << 40),
    st.integers(0, 1 << 32 - 2), st.integers(-(1 << 60), 1 << 62), st.dictionaries(st.sampled_from([b"user.a", b"user.b=c"]), st.binary(max_size=300)),
)  # fmt: skip
def test_it_reads_what_it_writes(name: bytes, size: int, uid: int, mtime_ns: int, xattrs: dict[bytes, bytes]) -> None:
    mtime_ns = max(-(1 << 31) * 10**9, min(mtime_ns, ((1 << 34) - 1) * 10**9))
    xattrs = {key: value for key, value in xattrs.items() if b"=" not in key and value}
    header = make_header(name, Kind.SYMLINK, mode=0o4751, mtime_ns=mtime_ns, uid=uid, gid=7, target=name, xattrs=xattrs)
    ((member, _),) = read(header + END)
    assert (member.name, member.kind, member.mode, member.mtime_ns, member.uid, member.target) == (name, Kind.SYMLINK, 0o4751, mtime_ns, uid, name)
    assert member.xattrs == xattrs
    file = TarReader(Bytes(make_header(name, Kind.FILE, mode=0, mtime_ns=0, size=size)), Budget(), "a")
    assert next(iter(file)).size == size


def test_sparse_files_of_every_kind() -> None:
    old = block(name=b"old", type=b"S", size=b"%011o" % 1024, magic=b"ustar  \0", sparse=(b"%011o\0%011o\0" % (512, 512) + b"%011o\0%011o\0" % (4096, 512)).ljust(96, b"\0"),
                real=b"%011o" % 8192)  # fmt: skip
    new = pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0"), record(b"GNU.sparse.realsize", b"9000"), record(b"GNU.sparse.name", b"new"))
    new += block(name=b"GNUSparseFile.1/new", size=b"%011o" % 1024) + b"1\n100\n512\n".ljust(512, b"\0") + b"n" * 512
    middle = pax(record(b"GNU.sparse.size", b"600"), record(b"GNU.sparse.map", b"0,2,10,3"), record(b"GNU.sparse.name", b"middle"))
    middle += block(name=b"x", size=b"%011o" % 5) + b"abcde".ljust(512, b"\0")
    first = pax(record(b"GNU.sparse.size", b"70"), *(record(b"GNU.sparse." + key, value) for key, value in
                [(b"offset", b"0"), (b"numbytes", b"1"), (b"offset", b"9"), (b"numbytes", b"2")]))  # fmt: skip
    first += block(name=b"first", size=b"%011o" % 3) + b"xyz".ljust(512, b"\0")
    found = read(old + b"o" * 1024 + new + middle + first + END)
    assert [(member.name, member.size, member.spans, len(content)) for member, content in found] == [
        (b"old", 8192, ((512, 512), (4096, 512)), 1024), (b"new", 9000, ((100, 512),), 512), (b"middle", 600, ((0, 2), (10, 3)), 5),
        (b"first", 70, ((0, 1), (9, 2)), 3),
    ]  # fmt: skip


def test_the_sparse_files_of_gnu_tar(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("tar") is None:
        pytest.skip("there is no program `tar`")
    with open(tmp_path / "holes", "wb") as file:
        for at in range(40):
            file.seek(at << 16)
            file.write(b"%d" % at)
        file.truncate(5 << 20)
    for form in ("--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"):
        done = subprocess.run(["tar", "-C", tmp_path, "-S", *(["--format=pax"] if "version" in form else []), form, "-cf", "-", "holes"], capture_output=True, check=True)
        ((member, stored),) = read(done.stdout)
        assert member.name == b"holes" and member.size == 5 << 20 and member.spans is not None
        whole, at = bytearray(member.size), 0
        for offset, length in member.spans:
            whole[offset : offset + length] = stored[at : at + length]
            at += length
        assert bytes(whole) == (tmp_path / "holes").read_bytes(), form


def test_an_extended_size_counts_for_the_file_and_nothing_else() -> None:
    """A reader that takes ustar's size where pax has another sees entries inside of the content that another does not see."""
    smuggled = block(name=b"smuggled")
    data = pax(record(b"size", b"512")) + block(name=b"outer", size=b"%011o" % 0) + smuggled + block(name=b"next") + END
    assert [member.name for member, _ in read(data)] == [b"outer", b"next"]
    data = pax(record(b"size", b"0")) + block(name=b"outer", size=b"%011o" % 512) + block(name=b"seen") + END
    assert [member.name for member, _ in read(data)] == [b"outer", b"seen"]
    data = pax(record(b"size", b"512")) + block(name=b"link", type=b"2", link=b"x") + block(name=b"seen") + END
    assert [member.name for member, _ in read(data)] == [b"link", b"seen"]


def test_content_that_a_name_or_a_type_seems_to_deny_is_not_read_as_headers() -> None:
    for header in (block(name=b"d/", type=b"\0", size=b"%011o" % 512), block(name=b"d/", type=b"0", size=b"%011o" % 512), block(type=b"D", size=b"%011o" % 512)):
        assert [member.name for member, _ in read(header + block(name=b"smuggled") + block(name=b"seen") + END)][1:] == [b"seen"]
    assert [member.kind for member, _ in read(block(name=b"d/", type=b"\0") + block(name=b"f/", type=b"0") + END)] == [Kind.DIRECTORY, Kind.FILE]


def test_global_and_repeated_headers() -> None:
    data = pax(record(b"path", b"everywhere"), kind=b"g") + block(name=b"a") + pax(record(b"path", b"here")) + block(name=b"b") + block(name=b"c")
    data += pax(record(b"path", b""), kind=b"g") + block(name=b"d") + END
    assert [member.name for member, _ in read(data)] == [b"everywhere", b"here", b"everywhere", b"d"]


# ---- what is wrong -------------------------------------------------------------------------------------------------------

LONG = b"././@LongLink"
WRONG: list[tuple[bytes, str]] = [
    (b"", "no end mark"),
    (block(), "no end mark"),
    (block()[:300], "middle of a header"),
    (block(size=b"%011o" % 2000) + bytes(1000), "middle of a file"),
    (bytes(512) + block() + END, "a header is empty"),
    (block().replace(b"ustar", b"Ustar") + END, "checksum is wrong"),
    (b"PK\3\4".ljust(1024, b"x"), "no tar archive"),
    (block(type=b"M") + END, "type b'M' of an entry is unknown"),
    (block(type=b"9") + END, "is unknown"),
    (block(size=b"-0000000001") + END, "size of a header is no number"),
    (block(size=b"\xff" * 12) + END, "size of a header is out of range"),
    (block(size=b"\x80" + b"\xff" * 11) + END, "size of a header is out of range"),
    (block(size=b"0x1") + END, "is no number"),
    (block(uid=b"\xff" * 8) + END, "uid of a header is out of range"),
    (block(uid=b"\x80\0\0\1\xff\xff\xff\xff") + END, "the owner of `f` is out of range"),
    (pax(record(b"size", b"-1")) + block() + END, "size of an extended header is no number"),
    (pax(record(b"size", b"9" * 19)) + block() + END, "out of range"),
    (pax(record(b"size", b"1e3")) + block() + END, "is no number"),
    (pax(record(b"uid", b"99999999999")) + block() + END, "owner of `f` is out of range"),
    (pax(record(b"mtime", b"nan")) + block() + END, "mtime of an extended header is no number"),
    (pax(record(b"mtime", b"--1")) + block() + END, "mtime of an extended header is no number"),
    (pax(record(b"path", b"a\0b")) + block() + END, "a NUL"),
    (pax(b"9999 path=x\n") + block() + END, "extended header is damaged"),
    (pax(b"5 path=x\n") + block() + END, "extended header is damaged"),
    (pax(b"0 path=x\n") + block() + END, "extended header is damaged"),
    (pax(b"path=x\n") + block() + END, "extended header is damaged"),
    (pax(b"99999999999999999999999999 path=x\n") + block() + END, "damaged|no number"),
    (pax(b"9 path=abX") + block() + END, "damaged"),
    (pax(record(b"path", b"x")) * 20 + block() + END, "more than 16 headers for one file"),
    (pax(record(b"path", b"x")) + END, "an extended header has no file"),
    (pax(record(b"path", b"x")), "no end mark"),
    (block(type=b"x", size=b"%011o" % (1 << 30)) + END, "a header of 1073741824 bytes"),
    (block(name=LONG, type=b"L", size=b"%011o" % (1 << 30)) + END, "a header of 1073741824 bytes"),
    (block(type=b"S", size=b"%011o" % 512, sparse=b"%011o\0%011o\0" % (0, 512), real=b"%011o" % 10) + bytes(512) + END, "contradict"),
    (block(type=b"S", size=b"%011o" % 5, sparse=b"%011o\0%011o\0" % (0, 3) + b"%011o\0%011o\0" % (1, 2), real=b"%011o" % 10) + bytes(512) + END, "overlap"),
    (block(type=b"S", size=b"%011o" % 512, sparse=b"%011o\0%011o\0" % (0, 5), real=b"%011o" % 10) + bytes(512) + END, "contradict"),
    (pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.realsize", b"5")) + block(size=b"%011o" % 512) + b"1\nx\n".ljust(512, b"\0") + END, "no number|damaged"),
    (pax(record(b"GNU.sparse.major", b"1")) + block(size=b"%011o" % 512) + bytes(512) + END, "real size is missing"),
    (pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.realsize", b"5")) + block(size=b"%011o" % 512) + b"9999999\n".ljust(512, b"\0") + END, "more than 65536"),
    (pax(record(b"GNU.sparse.map", b"1"), record(b"GNU.sparse.size", b"5")) + block() + END, "damaged map"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "says"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_with_the_header(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        read(data)
    assert "a.tar" in str(caught.value) or "too large" in str(caught.value)


def test_a_million_extended_headers_take_no_stack() -> None:
    endless = pax(record(b"comment", b"x"), kind=b"g") * 100_000
    with pytest.raises(ImageError, match="more than 16 headers"):
        read(endless)


def test_no_header_makes_the_reader_ask_for_more_than_its_bound() -> None:
    stream = Bytes(block(name=LONG, type=b"L", size=b"%011o" % (1 << 30)))
    with pytest.raises(ImageError, match="--max-header-bytes"):
        next(iter(TarReader(stream, Budget(Bounds(header_bytes=4096)), "a")))
    assert stream.largest <= 4096


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_or_another_archive(data: st.DataObject) -> None:
    content = bytearray(tar_of(info("a" * 150, b"x" * 600, mtime=1.5), info("l", type=tarfile.SYMTYPE, linkname="t"), format=tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        read(bytes(content))
    except ImageError:
        pass


# ---- packing -------------------------------------------------------------------------------------------------------------

PACKERS: dict[Packing, Callable[[bytes], bytes]] = {
    Packing.NONE: bytes, Packing.GZIP: lambda data: gzip.compress(data, 1), Packing.BZIP2: bz2.compress, Packing.XZ: lzma.compress,
}  # fmt: skip


def unpack(content: bytes, budget: Budget | None = None, sizes: tuple[int, ...] = (7, 512, 100_000)) -> tuple[bytes, str]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        stream = Unpacked(file.fileno(), detect_packing(content), budget or Budget(), "a.tar")
        try:
            found, at = b"", 0
            while chunk := stream.read(sizes[at % len(sizes)]):
                found, at = found + chunk, at + 1
            return found, stream.drain()
        finally:
            stream.close()


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("size", [0, 1, 1 << 18, 3_000_000])
def test_what_was_packed_comes_out_with_its_digest(packing: Packing, size: int) -> None:
    import hashlib

    plain = os.urandom(min(size, 1 << 18)) + bytes(max(0, size - (1 << 18)))
    content = PACKERS[packing](plain)
    if packing is not Packing.NONE:
        assert detect_packing(content) is packing
    assert unpack(content) == (plain, f"sha256:{hashlib.sha256(plain).hexdigest()}")
    if packing is not Packing.NONE:
        assert unpack(content + content)[0] == plain * 2  # joined, as gzip(1) allows
        assert unpack(content + bytes(700))[0] == plain  # padded to a tape's block


@pytest.mark.parametrize("packing", [Packing.GZIP, Packing.BZIP2, Packing.XZ])
def test_packing_that_is_damaged_is_refused(packing: Packing) -> None:
    content = PACKERS[packing](os.urandom(50_000))
    for broken in (content[: len(content) // 2], content[:-1], content[:9000] + b"\xff" * 50 + content[9050:], content + b"rest"):
        with pytest.raises(ImageError, match=r"cut off|damaged"):
            unpack(broken)


# ---- paths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [(b"a/b", (b"a", b"b")), (b"./a//./b/", (b"a", b"b")), (b"/a", (b"a",)), (b"", ()), (b"./", ()), (b"///", ()), (b"...", (b"...",)), (b"..a", (b"..a",))],
)
def test_paths_become_names_below_the_root(name: bytes, parts: tuple[bytes, ...]) -> None:
    assert split_path(name, 512) == parts


@pytest.mark.parametrize("name", [b"..", b"a/..", b"../a", b"/..", b"a/../b", b"./..", b"a\0b", b"x" * 256, b"a/" * 2100, b"a/" * 600])
def test_paths_that_are_none_are_refused(name: bytes) -> None:
    with pytest.raises(ImageError):
        split_path(name, 512)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (b"a/b", None), (b"a.wh.b", None), (b"a/.wh.b", ("gone", (b"a", b"b"))), (b".wh..x", ("gone", (b".x",))), (b".wh..opq", ("gone", (b".opq",))),
        (b"a/.wh..wh..opq", ("opaque", (b"a",))), (b".wh..wh..opq", ("opaque", ())), (b".wh..wh.plnk/5", ("ignored", ())), (b"a/.wh..wh.aufs", ("ignored", ())),
    ],
)  # fmt: skip
def test_whiteouts_are_told_from_files(name: bytes, what: Any) -> None:
    assert hides(split_path(name, 512)) == what
