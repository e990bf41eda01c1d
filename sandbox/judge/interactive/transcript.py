"""What was said, when, and how much of it: bounded in memory however long a dialogue is. Pure.

The beginning and the end of a dialogue are kept, and the first bytes of each message. What the programs wrote is untrusted: it is shown escaped.
"""

from __future__ import annotations

from collections import deque

from sandbox.record import dataclass

_FIRST, _LAST = 200, 200
_SHOWN_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event: `size` bytes went from `source` to `sink`, which began with `head`; or something else, in words (`event`)."""

    at_ns: int
    source: str
    sink: str = ""
    size: int = 0
    head: bytes = b""
    event: str = ""

    def __str__(self) -> str:
        stamp = f"{self.at_ns / 1e9:.6f}"
        if self.event:
            return f"{stamp} {self.source} {self.event}"
        more = "…" if self.size > len(self.head) else ""
        return f"{stamp} {self.source} > {self.sink} {self.size} B {show(self.head)}{more}"


def show(data: bytes) -> str:
    """Return bytes of a program as one line of ASCII, quoted."""
    return repr(data)[1:]


class Transcript:
    """Entries in the order of their times; between the first and the last ones only their number is kept."""

    def __init__(self) -> None:
        self._first: list[Entry] = []
        self._last: deque[Entry] = deque(maxlen=_LAST)
        self.count = 0

    def moved(self, at_ns: int, source: str, sink: str, data: bytes) -> None:
        """Note that bytes came from `source` for `sink`."""
        self._add(Entry(at_ns=at_ns, source=source, sink=sink, size=len(data), head=data[:_SHOWN_BYTES]))

    def happened(self, at_ns: int, who: str, event: str) -> None:
        """Note something else, in words after the name of whom it is about."""
        self._add(Entry(at_ns=at_ns, source=who, event=event))

    def _add(self, entry: Entry) -> None:
        self.count += 1
        if len(self._first) < _FIRST:
            self._first.append(entry)
        else:
            self._last.append(entry)

    def entries(self) -> tuple[Entry, ...]:
        """Return the entries that were kept."""
        return (*self._first, *self._last)

    def lines(self) -> tuple[str, ...]:
        """Return it as lines of ASCII, times in seconds from the start, with a line that says what was left out."""
        left_out = self.count - len(self._first) - len(self._last)
        between = (f"… {left_out} entries left out …",) if left_out else ()
        return (*map(str, self._first), *between, *map(str, self._last))
