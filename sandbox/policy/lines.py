"""Line numbers of a TOML policy's keys. tomli gives none, and an error without its line is half an error.

Works on text that tomli has already accepted, so it only has to know where strings, comments, arrays and tables begin and end. Pure;
imported by `load.py` and `profile_load.py`.
"""

from __future__ import annotations

import re

from sandbox.record import dataclass, field

# Blanks are taken off afterwards: a pattern that looks for the last ones takes hours for a name of a million.
_HEADER = re.compile(r"[ \t]*(\[\[?)([^\]\n]*)\]\]?")
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')""", re.ASCII)
# Strings first, so that nothing inside one is taken for structure; up to two quotes may stand before the closing three.
_TOKEN = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*"""+|'''
    r"""'''(?:[^']|'(?!''))*'''+|"""
    r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[\n\[\]{}]""",
    re.DOTALL,
)


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


def scan_lines(text: str) -> list[TableLines]:
    """Return the tables of a TOML text in order; the first is the top level, at line 1.

    Args:
        text: valid TOML, with Unix line ends.
    """
    tables = [TableLines(line=1, name="")]
    strings: list[int] = []
    line, level = 1, 0
    fresh = True  # at the beginning of a line that is no part of a value
    at = 0
    for match in _TOKEN.finditer(text):
        start = match.start()
        if start < at:
            continue
        if fresh:
            fresh = False
            header = _HEADER.match(text, at)
            key = None if header is not None else _KEY.match(text, at)
            if header is not None:
                tables.append(TableLines(line=line, name=header[2].replace(" ", "").replace("\t", "")))
                strings = []
                at = header.end()
                level = 0
            elif key is not None:
                name = key[1].strip("\"'")
                tables[-1].keys.setdefault(name, line)
                strings = tables[-1].strings.setdefault(name, [])
                at = key.end()
            if start < at:
                continue
        token = match[0]
        first = token[0]
        if first == "\n":
            line += 1
            if level <= 0:
                fresh, level, at = True, 0, match.end()
        elif first in "\"'":
            strings.append(line)
            line += token.count("\n")
        elif first in "[{":
            level += 1
        elif first in "]}":
            level -= 1
    return tables
