"""Tar archives, read in one pass: v7, ustar, GNU (long names, sparse files, numbers in base 256) and pax (extended attributes, sparse files).

Own code instead of `tarfile`, which reads a header of any length into memory, recurses once for each extended header, and decodes names. Decides nothing
of where a file goes; names are bytes as they stand in the archive. Source: POSIX pax(1); GNU tar manual, "Tar Internals"; what Go's archive/tar and tarfile
take for granted where those are silent. Pure but for the stream.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.images.bounds import Budget, ImageError
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from sandbox.images.packing import Stream

BLOCK = 512
_ZERO = bytes(BLOCK)
_MAXIMUM_SPANS = 1 << 16
_MAXIMUM_CHAIN = 16
_MAXIMUM_SIZE = 1 << 62
_MAXIMUM_ID = (1 << 32) - 2
_EARLIEST, _LATEST = -(1 << 31), (1 << 34) - 1  # seconds that ext4 and xfs keep


class Kind(StrEnum):
    """What an entry makes."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    LINK = "hard link"
    FIFO = "fifo"
    CHARACTER = "character device"
    BLOCK = "block device"


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE, b"1": Kind.LINK, b"2": Kind.SYMLINK, b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK, b"5": Kind.DIRECTORY, b"D": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Member:
    """One entry. `size` is the file's, holes included; `spans` are (offset, length) of what is not a hole, None for no sparse file."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes
    xattrs: dict[bytes, bytes]
    spans: tuple[tuple[int, int], ...] | None

    @property
    def shown(self) -> str:
        """The name for a message."""
        return self.name[:300].decode("utf-8", "backslashreplace")


class TarReader:
    """The entries of an archive, in order; the content of each is read before the next, or left out.

    Args:
        stream: borrowed; at the archive's beginning.
        budget: bounds what one header may take.
        name: of the archive, for messages.
        needs_end: refuse an archive without its end mark: nothing else tells that it is cut off.
    """

    def __init__(self, stream: Stream, budget: Budget, name: str, *, needs_end: bool = True) -> None:
        self._stream = stream
        self._budget = budget
        self._name = name
        self._needs_end = needs_end
        self._globals: dict[bytes, bytes] = {}
        self._left = 0  # content of the present entry that was not read
        self._padding = 0
        self._number = 0

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes of the present entry's content as it is stored (a sparse file's spans, one after the other); b"" at its end."""
        count = min(count, self._left)
        found = self._stream.read(count) if count else b""
        if len(found) != count:
            self._refuse("the archive ends in the middle of a file: it is cut off")
        self._left -= count
        return found

    def _next(self) -> Member | None:
        self._skip()
        extended: dict[bytes, bytes] = {}
        sparse: list[tuple[int, int]] = []
        long_name = long_target = None
        for _ in range(_MAXIMUM_CHAIN):
            block = self._stream.read(BLOCK)
            if len(block) < BLOCK:
                if block or self._needs_end or extended or long_name:
                    self._refuse("the archive has no end mark: it is cut off" if not block else "the archive ends in the middle of a header")
                return None
            if block == _ZERO and (extended or sparse or long_name is not None or long_target is not None):
                self._refuse("an extended header has no file")
            if block == _ZERO:
                after = self._stream.read(BLOCK)
                if after != _ZERO and (after or self._needs_end):
                    self._refuse("a header is empty")
                return None
            self._number += 1
            self._check(block)
            flag = block[156:157]
            if flag in (b"x", b"X"):
                self._read_records(block, extended, sparse)
            elif flag == b"g":
                self._read_records(block, self._globals, [])
            elif flag == b"L":
                long_name = self._read_text(block)
            elif flag == b"K":
                long_target = self._read_text(block)
            elif flag == b"V":
                self._left, self._padding = _padded(self._number_at(block, 124, 12, "size"))
                self._skip()
            else:
                return self._member(block, flag, self._globals | extended if self._globals else extended, sparse, long_name, long_target)
        self._refuse(f"more than {_MAXIMUM_CHAIN} headers for one file")

    def _skip(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            found = self._stream.read(min(left, 1 << 20))
            if not found:
                self._refuse("the archive ends in the middle of a file: it is cut off")
            left -= len(found)

    def _check(self, block: bytes) -> None:
        digits = block[148:156].strip(b" \0")
        said = int(digits, 8) if digits and not digits.strip(b"01234567") else -1
        plain = sum(block) - sum(block[148:156]) + 256
        if said != plain:
            signed = plain - 256 * sum(1 for byte in block[:148] + block[156:] if byte > 127)
            if said != signed:
                self._refuse("a header's checksum is wrong: this is no tar archive, or it is damaged")

    def _member(
        self, block: bytes, flag: bytes, records: dict[bytes, bytes], sparse: list[tuple[int, int]], name: bytes | None, target: bytes | None
    ) -> Member:
        kind = _KINDS.get(flag)
        if kind is None:
            self._refuse(f"type {flag!r} of an entry is unknown")
        if name is None:
            name = _text(block[:100])
            if block[257:263] == b"ustar\0" and block[345]:
                name = _text(block[345:500]) + b"/" + name
        if target is None:
            target = _text(block[157:257])
        name = records.get(b"GNU.sparse.name", records.get(b"path", name))
        target = records.get(b"linkpath", target)
        if flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY  # v7 has no other way to say it
        stored = self._number_in(records, b"size", lambda: self._number_at(block, 124, 12, "size"))
        if kind is not Kind.FILE:
            # Only D, GNU's incremental directories, and what is a file but for its name have content; the others may repeat a size that is not there.
            self._left, self._padding = _padded(stored if flag in (b"D", b"\0") else 0)
            stored = 0
        else:
            self._left, self._padding = _padded(stored)
        member = Member(
            name=name, kind=kind, mode=self._number_at(block, 100, 8, "mode") & 0o7777,
            uid=self._number_in(records, b"uid", lambda: self._number_at(block, 108, 8, "uid")),
            gid=self._number_in(records, b"gid", lambda: self._number_at(block, 116, 8, "gid")),
            mtime_ns=self._time(records.get(b"mtime"), block), size=stored, target=target if kind in (Kind.LINK, Kind.SYMLINK) else b"",
            xattrs={key[13:]: value for key, value in records.items() if key.startswith(b"SCHILY.xattr.")}, spans=None,
        )  # fmt: skip
        if member.uid > _MAXIMUM_ID or member.gid > _MAXIMUM_ID:
            self._refuse(f"the owner of `{member.shown}` is out of range")
        if kind is Kind.FILE:
            self._read_map(member, block, flag, records, sparse)
        return member

    def _read_map(self, member: Member, block: bytes, flag: bytes, records: dict[bytes, bytes], sparse: list[tuple[int, int]]) -> None:
        """Find out what of a sparse file is stored; the map of version 1.0 stands before the content."""
        if flag == b"S":
            spans, size = self._old_map(block), self._number_at(block, 483, 12, "real size")
        elif records.get(b"GNU.sparse.major") == b"1":
            size = self._number_in(records, b"GNU.sparse.realsize", lambda: self._refuse(f"`{member.shown}`: its real size is missing"))
            spans = self._map_in_content(member)
        elif b"GNU.sparse.map" in records:
            numbers = records[b"GNU.sparse.map"].split(b",", 2 * _MAXIMUM_SPANS + 1)
            spans = self._pairs([self._decimal(each, "sparse map") for each in numbers] if records[b"GNU.sparse.map"] else [])
            size = self._number_in(records, b"GNU.sparse.size", lambda: self._refuse(f"`{member.shown}`: its real size is missing"))
        elif sparse:
            spans = sparse
            size = self._number_in(records, b"GNU.sparse.size", lambda: self._refuse(f"`{member.shown}`: its real size is missing"))
        else:
            return
        end = stored = 0
        for offset, length in spans:
            if offset < end or length < 0:
                self._refuse(f"`{member.shown}`: its parts overlap")
            end, stored = offset + length, stored + length
        if end > size or stored != self._left:
            self._refuse(f"`{member.shown}`: its parts and its size contradict each other")
        member.size, member.spans = size, tuple(span for span in spans if span[1])

    def _old_map(self, block: bytes) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        at, count, more = 386, 4, block[482]
        while True:
            for _ in range(count):
                if block[at : at + 1] != b"\0":
                    found.append((self._number_at(block, at, 12, "offset"), self._number_at(block, at + 12, 12, "length")))
                at += 24
            if not more:
                return found
            if len(found) > _MAXIMUM_SPANS:
                self._refuse(f"a sparse file has more than {_MAXIMUM_SPANS} parts")
            block = self._stream.read(BLOCK)
            if len(block) < BLOCK:
                self._refuse("the archive ends in the middle of a header")
            at, count, more = 0, 21, block[504]

    def _map_in_content(self, member: Member) -> list[tuple[int, int]]:
        rest = b""

        def number() -> int:
            nonlocal rest
            while b"\n" not in rest:
                if len(rest) > 32 or self._left < BLOCK:
                    self._refuse(f"`{member.shown}`: its sparse map is damaged")
                rest += self.read(BLOCK)
            word, _, rest = rest.partition(b"\n")
            return self._decimal(word, "sparse map")

        count = number()
        if count > _MAXIMUM_SPANS:
            self._refuse(f"a sparse file has more than {_MAXIMUM_SPANS} parts")
        return self._pairs([number() for _ in range(2 * count)])

    def _pairs(self, numbers: list[int]) -> list[tuple[int, int]]:
        if len(numbers) % 2 or len(numbers) > 2 * _MAXIMUM_SPANS:
            self._refuse(f"a sparse file has a damaged map, or more than {_MAXIMUM_SPANS} parts")
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _read_header(self, block: bytes) -> bytes:
        """Return what an extended header holds."""
        size = self._number_at(block, 124, 12, "size")
        if size > self._budget.bounds.header_bytes:
            self._budget.refuse("header_bytes", f"a header of {size} bytes for one file")
        self._left, self._padding = _padded(size)
        content = self.read(size)
        self._skip()
        return content

    def _read_text(self, block: bytes) -> bytes:
        return _text(self._read_header(block))

    def _read_records(self, block: bytes, into: dict[bytes, bytes], sparse: list[tuple[int, int]]) -> None:
        """Read pax records, ``LENGTH KEY=VALUE\\n``; an empty value takes the key back."""
        content = self._read_header(block)
        at = 0
        offset = None
        while at < len(content):
            space = content.find(b" ", at, at + 12)
            length = self._decimal(content[at:space], "extended header") if space > 0 else 0
            key, equals, value = content[space + 1 : at + length - 1].partition(b"=")
            if not length or at + length > len(content) or content[at + length - 1 : at + length] != b"\n" or not key or not equals:
                self._refuse("an extended header is damaged")
            at += length
            if b"\0" in key or (b"\0" in value and not key.startswith(b"SCHILY.xattr.")):
                self._refuse(f"an extended header has a NUL in `{key[:60]!r}`")
            if key == b"GNU.sparse.offset":
                offset = self._decimal(value, "sparse map")
            elif key == b"GNU.sparse.numbytes" and offset is not None:
                sparse.append((offset, self._decimal(value, "sparse map")))
            elif value:
                into[key] = value
            else:
                into.pop(key, None)
        if sum(map(len, into)) + sum(map(len, into.values())) > self._budget.bounds.header_bytes:
            self._budget.refuse("header_bytes", "the headers of one file")

    def _number_at(self, block: bytes, at: int, width: int, what: str) -> int:
        field = block[at : at + width]
        if field[0] & 0x80:
            if field[0] != 0x80:
                if field[0] != 0xFF or what != "mtime":
                    self._refuse(f"{what} of a header is out of range")
                return int.from_bytes(field, "big", signed=True)
            number = int.from_bytes(field[1:], "big")
        else:
            digits = field.split(b"\0", 1)[0].strip(b" ")
            if digits and digits.strip(b"01234567"):
                self._refuse(f"{what} of a header is no number")
            number = int(digits, 8) if digits else 0
        if number > _MAXIMUM_SIZE:
            self._refuse(f"{what} of a header is out of range")
        return number

    def _number_in(self, records: dict[bytes, bytes], key: bytes, default: Callable[[], int]) -> int:
        value = records.get(key)
        if value is None:
            return default()
        return self._decimal(value, key.decode())

    def _decimal(self, word: bytes, what: str) -> int:
        if not 0 < len(word) <= 20 or word.strip(b"0123456789"):
            self._refuse(f"{what} of an extended header is no number")
        number = int(word)
        if number > _MAXIMUM_SIZE:
            self._refuse(f"{what} of an extended header is out of range")
        return number

    def _time(self, text: bytes | None, block: bytes) -> int:
        if text is None:
            seconds, nanoseconds = self._number_at(block, 136, 12, "mtime"), 0
        else:
            whole, _, part = text.partition(b".")
            negative = whole.startswith(b"-")
            digits = whole.lstrip(b"-")
            if not 0 < len(digits) <= 20 or digits.strip(b"0123456789") or part.strip(b"0123456789") or len(whole) - len(digits) > 1:
                self._refuse("mtime of an extended header is no number")
            seconds, nanoseconds = int(digits), int(part[:9].ljust(9, b"0"))
            if negative:
                seconds, nanoseconds = (-seconds - 1, 1_000_000_000 - nanoseconds) if nanoseconds else (-seconds, 0)
        return max(_EARLIEST, min(seconds, _LATEST)) * 1_000_000_000 + nanoseconds

    def _refuse(self, reason: str) -> NoReturn:
        raise ImageError(reason, origin=f"`{self._name}`, header {self._number}")


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _padded(size: int) -> tuple[int, int]:
    return size, -size % BLOCK


__all__ = ["BLOCK", "Kind", "Member", "TarReader"]
