"""A table's text on a terminal of so many columns: names are shortened in their middle, other lines go on below. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

_COLOURED = re.compile(r"((?:\x1b\[[0-9]+m)?)(.*?)((?:\x1b\[0m)?)", re.DOTALL)
_INDENT = 2
_DOTS = "..."  # ASCII, as all of a report


def shorten(text: str, width: int) -> str:
    """Return a text of at most `width` characters; of a longer one more of the end stays, where a path has its name."""
    if len(text) <= width:
        return text
    end = (2 * width) // 3
    return f"{text[: width - end - len(_DOTS)]}{_DOTS}{text[len(text) - end :]}"


def cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters, of a longer one its beginning."""
    return text if len(text) <= width else text[: width - len(_DOTS)] + _DOTS


def shrink(widths: Sequence[int], least: Sequence[int], excess: int) -> list[int]:
    """Return widths of columns that are less by `excess` together, as far as `least` lets them; the widest give first.

    Args:
        widths: as they would have to be.
        least: below which a column is not made narrower; one that is narrower anyway stays.
        excess: how much too wide all of them are.
    """
    found = list(widths)
    for _ in range(max(0, excess)):
        most = max(range(len(found)), key=lambda index: found[index] - least[index])
        if found[most] <= least[most]:
            break
        found[most] -= 1
    return found


def wrap(text: str, width: int) -> str:
    """Return lines, coloured as a whole or not at all, that go on below where they are too long, further to the right."""
    return "\n".join(part for line in text.split("\n") for part in _wrap(line, width))


def _wrap(line: str, width: int) -> list[str]:
    found = _COLOURED.fullmatch(line)
    assert found is not None
    begin, inner, end = found.groups()
    if len(inner) <= width or "\x1b" in inner:
        return [line]
    indent = " " * (len(inner) - len(inner.lstrip(" ")) + _INDENT)
    parts = textwrap.wrap(inner, max(width, len(indent) + 20), subsequent_indent=indent, break_on_hyphens=False, replace_whitespace=False)
    return [f"{begin}{part}{end}" for part in parts]


__all__ = ["cut", "shorten", "shrink", "wrap"]
