"""Unified differences between the original and what a run made of it, as `patch` reads them; bounded in bytes and in time. Only `api` imports it."""

from __future__ import annotations

import os
import stat

from sandbox.changes.files import look, open_directory, open_file
from sandbox.changes.model import Change, Kind, Type
from sandbox.changes.status import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.changes.keep import Opened

MAXIMUM_FILE_BYTES = 1 << 20
"""A larger file is named and not compared line by line."""
_MAXIMUM_LINES = 4000
"""What lies between the common beginning and end of two files; more is told as all taken out and all put in."""
_CONTEXT = 3
_HEAD = 8192


def difference(opened: Opened, change: Change) -> Iterator[str]:
    """Yield the lines of one change, each without its newline.

    What the original is now counts, not what it was. Names are quoted where they have characters that a line cannot.
    """
    name = quote(change.path)
    old, new = f"a/{name}", f"b/{name}"
    before, after = change.before, change.after
    if before is not None and after is not None and "mode" in change.what:
        yield f"mode of {name}: {before.mode:04o} -> {after.mode:04o}"
    if change.link and after is not None:
        yield f"{name} is another name of {quote(change.link)}"
        return
    if change.kind is Kind.MODIFIED and "content" not in change.what:
        if "xattrs" in change.what:
            yield f"attributes of {name} differ"
        return
    kinds = {facts.type for facts in (before, after) if facts is not None}
    if not kinds & {Type.FILE, Type.SYMLINK}:
        facts = after or before
        yield f"{change.kind} {facts.type if facts else 'file'} {name}"
        return
    one = _content(opened, change, original=True)
    other = _content(opened, change, original=False)
    for content in (one, other):
        if isinstance(content, str):
            yield f"{old} and {new} differ: {content}"
            return
    assert isinstance(one, bytes) and isinstance(other, bytes)
    if one == other and before is not None and after is not None and before.type is after.type:
        return
    if not one and not other:
        yield f"{change.kind} empty file {name}"  # a difference without lines is none
        return
    if _is_binary(one) or _is_binary(other):
        yield f"Binary files {old if before else '/dev/null'} and {new if after else '/dev/null'} differ"
        return
    yield f"--- {old if before is not None and before.type is not Type.DIRECTORY else '/dev/null'}"
    yield f"+++ {new if after is not None and after.type is not Type.DIRECTORY else '/dev/null'}"
    yield from _hunks(_lines(one), _lines(other))


def quote(path: str) -> str:
    r"""Return a path as git quotes it: in double quotes, with ``\n`` and octal bytes, where it has controls, quotes or bytes that are no text."""
    if all(one.isprintable() and one not in '"\\' for one in path):
        return path
    pieces = []
    for byte in os.fsencode(path):
        if byte in (0x22, 0x5C):
            pieces.append("\\" + chr(byte))
        elif 0x20 <= byte < 0x7F:
            pieces.append(chr(byte))
        else:
            pieces.append({9: "\\t", 10: "\\n", 13: "\\r"}.get(byte, f"\\{byte:03o}"))
    return f'"{"".join(pieces)}"'


def _content(opened: Opened, change: Change, *, original: bool) -> bytes | str:
    """Return a file's bytes, a link's text, nothing for what is not there, or why it is not compared."""
    facts = change.before if original else change.after
    if facts is None or facts.type not in (Type.FILE, Type.SYMLINK):
        return b""
    if facts.type is Type.SYMLINK:
        return os.fsencode(facts.target)
    if facts.size > MAXIMUM_FILE_BYTES:
        return f"larger than {MAXIMUM_FILE_BYTES >> 20} MiB"
    directory, _, name = change.path.rpartition("/")
    uppers, lowers = opened.layers(change.tree)
    try:
        parent = _parent_of_original(lowers, directory, name) if original else Source(uppers).parent(change.path, facts)
        try:
            fd = open_file(parent, name, force=not original)
        finally:
            os.close(parent)
        with open(fd, "rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return content if len(content) <= MAXIMUM_FILE_BYTES else f"larger than {MAXIMUM_FILE_BYTES >> 20} MiB"


def _parent_of_original(lowers: list[int], directory: str, name: str) -> int:
    for lower in lowers:
        try:
            fd = open_directory(lower, directory)
        except OSError:
            continue
        status = look(fd, name)
        if status is not None and stat.S_ISREG(status.st_mode):
            return fd
        os.close(fd)
    raise FileNotFoundError(2, os.strerror(2), name)


def _is_binary(content: bytes) -> bool:
    if b"\0" in content[:_HEAD]:
        return True
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8").split("\n")


def _hunks(one: list[str], other: list[str]) -> Iterator[str]:
    """Yield the hunks of two texts that were split at newlines: an empty last item says that the text ends with one."""
    ends = (one[-1] == "", other[-1] == "")
    old, new = one[: -1 if ends[0] else None], other[: -1 if ends[1] else None]
    # A last line without its newline is another line than the same with one.
    marked_old = [*old[:-1], old[-1] + "\n"] if old and not ends[0] else old
    marked_new = [*new[:-1], new[-1] + "\n"] if new and not ends[1] else new
    for group in _grouped(_opcodes(marked_old, marked_new)):
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@"
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                yield from (_mark(" ", line) for line in marked_old[i1:i2])
                continue
            yield from (_mark("-", line) for line in marked_old[i1:i2])
            yield from (_mark("+", line) for line in marked_new[j1:j2])


def _mark(sign: str, line: str) -> str:
    return f"{sign}{line[:-1]}\n\\ No newline at end of file" if line.endswith("\n") else sign + line


_Opcode = tuple[str, int, int, int, int]


def _opcodes(old: list[str], new: list[str]) -> list[_Opcode]:
    """Return how one list of lines becomes the other; where much differs without pattern, all of it is replaced, for a matcher's time is quadratic."""
    begin = 0
    while begin < min(len(old), len(new)) and old[begin] == new[begin]:
        begin += 1
    end = 0
    while end < min(len(old), len(new)) - begin and old[-1 - end] == new[-1 - end]:
        end += 1
    left, right = old[begin : len(old) - end], new[begin : len(new) - end]
    found: list[_Opcode] = [("equal", 0, begin, 0, begin)] if begin else []
    if left or right:
        if not left or not right or len(left) + len(right) > _MAXIMUM_LINES:
            found.append(("replace", begin, begin + len(left), begin, begin + len(right)))
        else:
            from difflib import SequenceMatcher

            for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right).get_opcodes():
                found.append((tag, i1 + begin, i2 + begin, j1 + begin, j2 + begin))
    if end:
        found.append(("equal", len(old) - end, len(old), len(new) - end, len(new)))
    return found


def _grouped(opcodes: list[_Opcode]) -> Iterator[list[_Opcode]]:
    """Yield hunks: changes with what is around them, joined where they are near each other."""
    group: list[_Opcode] = []
    for number, (tag, i1, i2, j1, j2) in enumerate(opcodes):
        if tag != "equal":
            group.append((tag, i1, i2, j1, j2))
            continue
        if number and i2 - i1 > 2 * _CONTEXT and group:
            group.append((tag, i1, i1 + _CONTEXT, j1, j1 + _CONTEXT))
            yield group
            group = []
        if number == 0:
            i1, j1 = max(i1, i2 - _CONTEXT), max(j1, j2 - _CONTEXT)
        if group:
            last = number == len(opcodes) - 1
            group.append((tag, i1, min(i2, i1 + _CONTEXT) if last else i2, j1, min(j2, j1 + _CONTEXT) if last else j2))
        elif number < len(opcodes) - 1:
            group = [(tag, max(i1, i2 - _CONTEXT), i2, max(j1, j2 - _CONTEXT), j2)]
    if any(item[0] != "equal" for item in group):
        yield group


def _range(start: int, stop: int) -> str:
    length = stop - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"


__all__ = ["MAXIMUM_FILE_BYTES", "difference", "quote"]
