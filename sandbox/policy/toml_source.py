"""One TOML file as read: its bytes, its table, and the line on which each key stands.

tomli gives values without positions, and an error without a line is no help; so a small scanner finds the lines. It is
trusted for error texts only, never for values. The only importer of tomli besides `groups.py`. Only the policy floor may import this module.
"""

from __future__ import annotations

import os
import re
import stat

from sandbox.errors import PolicyError, describe_errno
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAXIMUM_BYTES = 1 << 20
_HEADER = re.compile(r"\s*\[(\[?)([^\[\]]+)\]")  # blanks are taken off afterwards, in linear time
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_SKIP = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}]|\n')
_LONG_NUMBER = re.compile(r"[0-9A-Fa-f][0-9A-Fa-f_]{16,}|[0-7][0-7_]{21,}|[01][01_]{64,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlSource:
    """What a file held; `lines` maps a dotted key path to its line, counted from 1."""

    path: str
    data: bytes
    table: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Return ``path:line`` for a dotted key path, falling back to the nearest table that has a line."""
        while key:
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
            key = key.rpartition("." if not key.endswith("]") else "[")[0]
        return self.path


def read_toml(path: str, *, origin: str | None = None) -> TomlSource:
    """Read and parse one TOML file.

    Args:
        path: an absolute path; anything but a regular file of at most 1 MiB is refused.
        origin: who names the file, for the error when it cannot be read; None when that is no file.

    Raises:
        PolicyError: it cannot be read, is no regular file, no UTF-8 or no TOML.
    """
    return parse_source(path, *read_text(path, origin=origin))


def parse_source(path: str, data: bytes, text: str) -> TomlSource:
    """Parse what `read_text` returned of a file.

    Raises:
        PolicyError: it is no TOML.
    """
    return TomlSource(path=path, data=data, table=parse_toml(text, path, f"parse `{path}`"), lines=key_lines(text))


def read_text(path: str, *, origin: str | None = None) -> tuple[bytes, str]:
    """Return what a file holds, as bytes and as text; see `read_toml`.

    Raises:
        PolicyError: it cannot be read, is no regular file of at most 1 MiB, or no UTF-8.
    """
    try:
        # O_NONBLOCK: a FIFO under a profile's name must not hang the launch.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise PolicyError(f"open `{path}`: {describe_errno(error.errno or 0)}", origin=origin) from None
    except ValueError:
        raise PolicyError("open a file: its path contains a null byte", origin=origin) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # before Python looks: it leaves the fd of a directory open
            raise PolicyError(f"read `{path}`: not a regular file", origin=origin)
        data = os.read(fd, _MAXIMUM_BYTES + 1)
        while len(data) <= _MAXIMUM_BYTES and (part := os.read(fd, _MAXIMUM_BYTES + 1 - len(data))):
            data += part
    finally:
        os.close(fd)
    if len(data) > _MAXIMUM_BYTES:
        raise PolicyError(f"read `{path}`: larger than {_MAXIMUM_BYTES} bytes", origin=origin or path)
    try:
        return data, data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"read `{path}`: not UTF-8", origin=f"{path}:{line}") from None


def parse_toml(text: str, path: str, what: str) -> dict[str, Any]:
    """Return the table that a TOML text holds, with numbers of at most 64 bits.

    Args:
        text: the text, with Unix line ends.
        path: what errors call its file.
        what: how errors begin.

    Raises:
        PolicyError: it is no TOML, or has a number that no key could take.
    """
    import tomli

    def fail(message: str, line: int) -> PolicyError:
        return PolicyError(f"{what}: {message[:1].lower()}{message[1:]}", origin=f"{path}:{line}")

    try:
        table = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise fail(error.msg, min(error.lineno, text.count("\n") + 1)) from None
    except RecursionError:
        raise PolicyError(f"{what}: nested too deeply", origin=path) from None
    except ValueError:
        # Python refuses to read or print decimal numbers of more than 4300 digits.
        long = re.search(r"[0-9][0-9_]{4299,}", text)
        raise fail("number of more than 64 bits", text.count("\n", 0, long.start() if long else 0) + 1) from None
    if _LONG_NUMBER.search(text):
        _check_numbers(table, "", text, fail)
    return table


def _check_numbers(value: object, key: str, text: str, fail: Callable[[str, int], PolicyError]) -> None:
    """Raise at the first number of more than 64 bits; TOML has no larger ones, and printing one can fail."""
    pending = [(value, key)]
    while pending:
        value, key = pending.pop()
        if isinstance(value, dict):
            pending += [(item, f"{key}.{name}" if key else name) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [(item, f"{key}[{index}]") for index, item in enumerate(value)]
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            lines = key_lines(text)
            while key and key not in lines:
                key = key.rpartition("." if not key.endswith("]") else "[")[0]
            raise fail("number of more than 64 bits", lines.get(key, 1))


def key_lines(text: str) -> dict[str, int]:
    """Return the line (from 1) of every table header and of every key that begins a line.

    Elements of an array of tables are ``name[0]``, ``name[1]``; so are the inline tables that begin a line of an array.
    Arguments that are not TOML give some mapping, never an error.
    """
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    key = ""
    element = 0
    number = 0
    depth = 0
    quote = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not depth and not quote:
            header = _HEADER.match(line)
            if header:
                table = _plain(header[2])
                lines.setdefault(table, number)
                if header[1]:
                    index = counts.get(table, 0)
                    counts[table] = index + 1
                    table = f"{table}[{index}]"
                    lines[table] = number
                continue
            match = _KEY.match(line)
            if match:
                key = (table + "." if table else "") + _plain(match[1])
                element = 0
                lines.setdefault(key, number)
        elif depth == 1 and not quote and line.lstrip().startswith("{"):
            lines[f"{key}[{element}]"] = number
            element += 1
        depth, quote = _scan(line, depth, quote)
    return lines


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Follow brackets and multi-line strings to the end of a line."""
    at = 0
    while at < len(line):
        if quote:
            end = line.find(quote, at)
            if end < 0:
                return depth, quote
            at, quote = end + 3, ""
            continue
        match = _SKIP.search(line, at)
        if match is None:
            break
        token = match[0]
        at = match.end()
        if token in ('"""', "'''"):
            quote = token
        elif token in "[{":
            depth += 1
        elif token in "]}":
            depth = max(0, depth - 1)
    return depth, quote
