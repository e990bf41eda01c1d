"""Where generators take their decisions from: the bytes of a fuzzer, or hypothesis. One generator serves both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from hypothesis import strategies as st

T = TypeVar("T")


class Chooser(Protocol):
    """A source of decisions; the first choice is the simplest, so that exhausted or shrunk inputs give small things."""

    def integer(self, low: int, high: int) -> int:
        """Return a number of a range that includes both ends."""
        ...

    def pick(self, items: Sequence[T]) -> T:
        """Return one of several things."""
        ...

    def odds(self, one_in: int) -> bool:
        """Return True once in so many times, never when there is nothing left to decide from."""
        ...


class _Common:
    def integer(self, low: int, high: int) -> int:
        raise NotImplementedError

    def pick(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def odds(self, one_in: int) -> bool:
        return self.integer(0, one_in - 1) == one_in - 1


class Bytes(_Common):
    """Decisions read off a byte string, front to back; zeros when it has ended."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def integer(self, low: int, high: int) -> int:
        """See `Chooser`."""
        span = high - low + 1
        size = ((span - 1).bit_length() + 7) // 8
        piece = self.data[self.at : self.at + size]
        self.at += size
        return low + int.from_bytes(piece, "little") % span

    def rest(self) -> bytes:
        """Return what has not been used."""
        return self.data[self.at :]


class Drawn(_Common):
    """Decisions drawn by hypothesis, which shrinks them."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def integer(self, low: int, high: int) -> int:
        """See `Chooser`."""
        from hypothesis import strategies

        return self.data.draw(strategies.integers(low, high))
