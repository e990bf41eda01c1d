"""How running sandboxes are shown: short texts for figures, columns, cutting to a width. Pure; `ps` and `top` share it.

A command's words and a profile's name are text of somebody else's: nothing of them reaches a terminal unescaped, so that everything here is ASCII.
"""

from __future__ import annotations

from sandbox.audit.events import escape_untrusted
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.api.run_stats import RunStats
    from sandbox.api.running import Running

_UNITS = ("B", "K", "M", "G", "T", "P", "E")
_COMMAND_LENGTH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; `rank` says which goes first where the terminal is narrow (the highest), 0 never. `width` is the least it takes, so that it does not jump."""

    title: str
    width: int = 0
    right: bool = False
    rank: int = 0


def short_size(count: int | None) -> str:
    """Return ``12.3M`` for bytes, three digits at most; ``-`` for None."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.0f}{_UNITS[unit]}" if unit == 0 or value >= 99.95 or value == int(value) else f"{value:.1f}{_UNITS[unit]}"


def short_time(ns: int | None) -> str:
    """Return ``0.42s``, ``12.3s``, ``4m05s``, ``3h07m`` or ``5d02h`` for nanoseconds; ``-`` for None."""
    if ns is None:
        return "-"
    seconds = ns / 1e9
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def short_count(count: int | None) -> str:
    """Return the number, or ``-`` for None."""
    return "-" if count is None else str(count)


def of_limit(used: str, limit: str) -> str:
    """Return ``used/limit``, or the first alone where there is no limit."""
    return used if limit == "-" else f"{used}/{limit}"


def shown_command(run: Running) -> str:
    """Return the command on one line, harmless for a terminal."""
    return " ".join(_quote(escape_untrusted(word, _COMMAND_LENGTH)) for word in run.argv)


def shown_name(text: str) -> str:
    """Return somebody's word, harmless for a terminal; ``-`` for an empty one."""
    return escape_untrusted(text, 64) or "-"


def memory_share(stats: RunStats) -> float | None:
    """Return how much of its memory limit a run uses, 0 to 1; None where one of the two is not known."""
    if stats.memory_bytes is None or not stats.memory_limit_bytes:
        return None
    return min(1.0, stats.memory_bytes / stats.memory_limit_bytes)


def cut(text: str, width: int) -> str:
    """Return the text in at most so many characters, its end marked where something is missing."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 3)] + "..."[: max(0, width)]


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return a header and lines with aligned columns; the last column takes what is left and is cut.

    Args:
        columns: of which those of the highest rank go where `width` is too small.
        rows: a text for each column.
        width: cells of a line; None leaves the last column whole.
    """
    shown = list(range(len(columns)))
    widths = [max([column.width, len(column.title), *(len(row[index]) for row in rows)]) for index, column in enumerate(columns)]

    def needed() -> int:
        return sum(widths[index] + 2 for index in shown[:-1]) + min(widths[shown[-1]], 12)

    while width is not None and needed() > width:
        droppable = [index for index in shown if columns[index].rank]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda index: columns[index].rank))
    lines = []
    for row in ([column.title for column in columns], *rows):
        parts = []
        for index in shown[:-1]:
            space = " " * (widths[index] - len(row[index]))
            parts.append(space + row[index] if columns[index].right else row[index] + space)
        line = "  ".join([*parts, row[shown[-1]]])
        lines.append(line.rstrip() if width is None else cut(line.rstrip(), width))
    return lines


def _quote(word: str) -> str:
    if word and not any(one in " \t'\"\\$`;&|<>()*?[]{}~#!" for one in word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"
