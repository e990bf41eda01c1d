"""Line numbers of a TOML policy's keys. tomli gives none, and an error without its line is half an error.

Works on text that tomli has already accepted, so it only has to know where strings, comments, arrays and tables begin and end. Pure;
imported by `load.py` and `profile_load.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]*?)\s*\]")
_KEY = re.compile(r"""\s*([A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')""", re.ASCII)


@dataclass(slots=True)
class TableLines:
    """Where one table stands: its header, its keys, and the strings inside each key's value, in order."""

    line: int
    name: str
    keys: dict[str, int] = field(default_factory=dict)
    strings: dict[str, list[int]] = field(default_factory=dict)

    def key(self, name: str) -> int:
        """Return the line of a key, or the table's own."""
        return self.keys.get(name, self.line)

    def item(self, name: str, index: int) -> int:
        """Return the line of the n-th string of an array, or the key's."""
        lines = self.strings.get(name, [])
        return lines[index] if index < len(lines) else self.key(name)


def _skip_string(text: str, at: int) -> int:
    """Return the position after the string that starts at `at`."""
    quote = text[at]
    if text.startswith(quote * 3, at):
        end = at + 3
        while end < len(text) and not text.startswith(quote * 3, end):
            end += 2 if quote == '"' and text[end] == "\\" else 1
        end += 3
        while end < len(text) and text[end] == quote:  # up to two quotes may precede the closing three
            end += 1
        return end
    end = at + 1
    while end < len(text) and text[end] != quote:
        end += 2 if quote == '"' and text[end] == "\\" else 1
    return end + 1


def scan_lines(text: str) -> list[TableLines]:
    """Return the tables of a TOML text in order; the first is the top level, at line 1.

    Args:
        text: valid TOML.
    """
    tables = [TableLines(line=1, name="")]
    at, line, size = 0, 1, len(text)
    while at < size:
        end = text.find("\n", at)
        end = size if end < 0 else end
        header = _HEADER.match(text, at, end)
        if header is not None:
            tables.append(TableLines(line=line, name=header[2].replace(" ", "")))
            at, line = end + 1, line + 1
            continue
        key = _KEY.match(text, at, end)
        if key is None:
            at, line = end + 1, line + 1
            continue
        name = key[1].strip("\"'")
        tables[-1].keys.setdefault(name, line)
        strings = tables[-1].strings.setdefault(name, [])
        at, level = key.end(), 0
        while at < size:
            character = text[at]
            if character in "\"'":
                strings.append(line)
                after = _skip_string(text, at)
                line += text.count("\n", at, after)
                at = after
                continue
            if character == "#":
                at = text.find("\n", at)
                at = size if at < 0 else at
                continue
            level += (character in "[{") - (character in "]}")
            at += 1
            if character == "\n":
                line += 1
                if level <= 0:
                    break
    return tables
