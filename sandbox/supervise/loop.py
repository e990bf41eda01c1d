"""What the supervisor waits for: descriptors, each with what to do about it, and one moment. No limit and no run is known here."""

from __future__ import annotations

import select
import time

from sandbox.supervise.deadlines import Alarm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MS = 1_000_000
_EXACT_NS = 2 * _MS  # from here on a timer rings to the nanosecond; a timeout of poll(2) is counted in whole milliseconds
_LONGEST_MS = 1_000_000


class Loop:
    """A poll(2) set. Nothing is made in the kernel for a run that ends before a moment comes near.

    Attributes:
        poll: for `StreamSet`, which puts its own descriptors there.
    """

    def __init__(self) -> None:
        self.poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._alarm: Alarm | None = None

    def add(self, fd: int, handler: Callable[[], object], events: int = select.POLLIN) -> None:
        """Call `handler` when a descriptor is ready, until `remove`."""
        self.poll.register(fd, events)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Wait for that descriptor no more; harmless when it was not waited for."""
        if self._handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def wait(self, at_ns: int | None, soft_ns: int | None = None) -> list[tuple[int, int]]:
        """Return the ready descriptors, or none: when a moment has come, and sometimes up to 2 ms before it.

        Args:
            at_ns: of CLOCK_MONOTONIC; None waits for descriptors only, the past does not wait.
            soft_ns: another moment, for which a millisecond too late is soon enough.
        """
        if soft_ns is not None and (at_ns is None or soft_ns < at_ns):
            late = (soft_ns - time.monotonic_ns() + _MS) // _MS
            if at_ns is None or soft_ns + 2 * _MS < at_ns:
                return self.poll.poll(min(_LONGEST_MS, max(0, late)))
            at_ns = soft_ns
        if at_ns is None:
            return self.poll.poll()
        left = at_ns - time.monotonic_ns()
        if left <= 0:
            return self.poll.poll(0)
        if left >= _EXACT_NS:
            return self.poll.poll(min(_LONGEST_MS, (left - _MS // 2) // _MS))
        alarm = self._alarm
        if alarm is None:
            alarm = self._alarm = Alarm()
        alarm.set(at_ns)
        self.poll.register(alarm.fd, select.POLLIN)
        try:
            return self.poll.poll()
        finally:
            self.poll.unregister(alarm.fd)

    def handle(self, fd: int) -> bool:
        """Call the handler of a descriptor; False where it has none."""
        handler = self._handlers.get(fd)
        if handler is None:
            return False
        handler()
        return True

    def close(self) -> None:
        """Let go of the timer and the handlers, which lead back to whoever has this; idempotent."""
        self._handlers.clear()
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.close()
