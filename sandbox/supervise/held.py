"""The pumps of a run that waits for its command: nothing is fed to it, and what it prints is looked at and thrown away, until it is let go."""

from __future__ import annotations

import os

from sandbox.supervise.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_READS = 64  # of what was printed before: a program that goes on printing is not waited for


class HeldFeed(Pump):
    """Standard input that is open and empty until `release`.

    Args:
        destination: the writing end of its pipe; taken.
    """

    def __init__(self, destination: int) -> None:
        self._held = True
        super().__init__(-1, destination, close_destination=True)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to move, nor will be."""
        return not self._held and super().ended

    def release(self, data: bytes, source: int = -1) -> None:
        """Feed these bytes, then what can be read from `source` (borrowed)."""
        self._held = False
        self._close_source = False
        self.source = source
        self._pending = memoryview(data)
        self.flush()

    def abandon(self) -> None:
        """Forget what is pending and close what is ours."""
        self._held = False
        super().abandon()


class HeldOutput(Pump):
    """An output whose bytes are only shown, until `release`.

    Args:
        source: the reading end of its pipe; taken.
        show: is given what came; nothing at the end of the stream.
    """

    def __init__(self, source: int, show: Callable[[bytes], None]) -> None:
        self._show: Callable[[bytes], None] | None = show
        super().__init__(source, -1)

    def fill(self, allowance: int | None) -> int:
        """Read once, see `Pump.fill`."""
        before = self.source
        got = super().fill(allowance)
        show = self._show
        if show is not None and (got or self.source != before):
            data = self.captured
            self.forget()
            show(data)
        return got

    def keep_open(self) -> None:
        """Have a writer of our own, see `Pump`: its destination will be nobody but us."""
        if self.writer < 0 and self.source >= 0:
            try:
                self.writer = os.open(f"/proc/self/fd/{self.source}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                pass  # then the payload's exit wakes us once more

    def release(self, destination: int) -> None:
        """Keep what comes from now on, or pass it on to a descriptor (borrowed; -1 keeps it)."""
        if destination >= 0 and self.writer >= 0:
            writer, self.writer = self.writer, -1
            os.close(writer)
        self._show = None
        for _ in range(_MOST_READS):
            if not super().fill(None):
                break
        self.forget()
        self.moved = 0
        self.count = True
        if destination >= 0:
            self._open_destination(destination)
