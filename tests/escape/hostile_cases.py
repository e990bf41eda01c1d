"""What a hostile archive is: its kind, what it tries, what must happen, and how it is made. The tables are in `hostile_tar` and `hostile_layouts`."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 512


class Must(enum.Enum):
    """What has to become of an import."""

    REFUSED = "refused"
    HARMLESS = "harmless"
    """It succeeds, and means nothing outside the image."""


@dataclass(frozen=True)
class Scratch:
    """Where an attack is aimed at: `outside` and all in it may not change; what is made is put into `made`."""

    outside: Path
    made: Path
    secret: bytes


@dataclass(frozen=True)
class Case:
    """One hostile archive.

    Args:
        name: unique.
        kind: what has one control.
        tries: in words.
        must: what has to happen.
        make: writes it below `Scratch.made`, returns its path.
        says: part of the refusal's message.
    """

    name: str
    kind: str
    tries: str
    must: Must
    make: Callable[[Scratch], Path] = field(repr=False)
    says: str = ""


def header(
    name: bytes | str,
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    link: bytes | str = b"",
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_700_000_000,
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    prefix: bytes | str = b"",
    checksum: int | bytes | None = None,
) -> bytes:
    """Return one tar header, every field of it as it is given: a number is written in octal, bytes as they are."""

    def text(value: bytes | str, length: int) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        return raw[:length].ljust(length, b"\0")

    def number(value: int | bytes, length: int) -> bytes:
        if isinstance(value, bytes):
            return value[:length].ljust(length, b"\0")
        return b"%0*o\0" % (length - 1, value) if 0 <= value < 8 ** (length - 1) else base256(value, length)

    block = b"".join(
        (
            text(name, 100), number(mode, 8), number(uid, 8), number(gid, 8), number(size, 12), number(mtime, 12), b" " * 8, kind, text(link, 100),
            text(magic, 8), text(b"root", 32), text(b"root", 32), number(device[0], 8), number(device[1], 8), text(prefix, 155), b"\0" * 12,
        )
    )  # fmt: skip
    if checksum is None:
        checksum = b"%06o\0 " % sum(block)
    return block[:148] + number(checksum, 8) + block[156:]


def base256(value: int, length: int) -> bytes:
    """Return GNU tar's binary form of a number."""
    raw = (value & ((1 << 8 * length) - 1)).to_bytes(length, "big")
    return bytes([0xFF if value < 0 else 0x80 | raw[0]]) + raw[1:]


def padded(content: bytes) -> bytes:
    """Return content with zeros up to the next block."""
    return content + b"\0" * (-len(content) % BLOCK)


def _long(name: bytes | str, target: bytes | str = b"") -> bytes:
    """Return an extended header for what does not fit into the fields of a plain one."""
    records = [record(key, value) for key, value in (("path", name), ("linkpath", target)) if len(value) > 100]
    return pax(*records) if records else b""


def file(name: bytes | str, content: bytes = b"evil", **fields: object) -> bytes:
    """Return a regular file's header and content."""
    return _long(name) + header(name, len(content), **fields) + padded(content)  # type: ignore[arg-type]


def directory(name: bytes | str, **fields: object) -> bytes:
    """Return a directory's header."""
    return _long(name) + header(name, 0, b"5", **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes | str, target: bytes | str, **fields: object) -> bytes:
    """Return a symbolic link's header."""
    return _long(name, target) + header(name, 0, b"2", link=target, **{"mode": 0o777, **fields})  # type: ignore[arg-type]


def hardlink(name: bytes | str, target: bytes | str, **fields: object) -> bytes:
    """Return a hard link's header."""
    return _long(name, target) + header(name, 0, b"1", link=target, **fields)  # type: ignore[arg-type]


def record(key: bytes | str, value: bytes | str) -> bytes:
    """Return one pax record with its right length."""
    raw = b" " + (key.encode() if isinstance(key, str) else key) + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
    length = len(raw) + 1
    while len(b"%d" % length) + len(raw) != length:
        length = len(b"%d" % length) + len(raw)
    return b"%d" % length + raw


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header of records as they are."""
    content = b"".join(records)
    return header("PaxHeaders/x", len(content), kind) + padded(content)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """Return GNU tar's long name (``L``) or long link (``K``)."""
    return header("././@LongLink", len(name) + 1, kind, magic=b"ustar  \0") + padded(name + b"\0")


END = b"\0" * (2 * BLOCK)


def sparse_gnu(name: str, real_size: int, pieces: list[tuple[int, int]], content: bytes) -> bytes:
    """Return an old GNU sparse file (type ``S``) with up to four pieces."""
    block = bytearray(header(name, len(content), b"S", magic=b"ustar  \0"))
    block[345:500] = b"\0" * 155
    at = 386
    for offset, length in pieces[:4]:
        block[at : at + 24] = base256(offset, 12) + base256(length, 12)
        at += 24
    block[483:495] = base256(real_size, 12)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + padded(content)
