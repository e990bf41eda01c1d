"""User-mode instructions of a whole run, counted by the processor where the host allows that.

The counter is opened on the payload while it waits to be let go, is inherited by every process that it makes, and starts with its execve.
"""

from __future__ import annotations

import os

from sandbox.errors import describe_errno
from sandbox.kernel.calls import perf_event_open, perf_event_read

EVENT = (0, 1)
"""PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS. Source: perf_event_open(2)."""

_HINTS = {
    "ENOENT": "the processor, or the virtual machine, offers no such counter",
    "EACCES": "sysctl kernel.perf_event_paranoid forbids it",
    "EPERM": "sysctl kernel.perf_event_paranoid forbids it",
    "ENOSYS": "this kernel was built without it",
}


class Instructions:
    """The counter of one run.

    Args:
        pid: the payload, before its execve.
        begun: it was executed already; the counter starts now.
    """

    def __init__(self, pid: int, *, begun: bool = False) -> None:
        self._fd = -1
        self.source = "perf instructions:u"
        try:
            self._fd = perf_event_open(pid, *EVENT, now=begun)
        except OSError as error:
            self.source = absence(error.errno or 0)

    def read(self) -> int | None:
        """Return how many there were so far, None where they cannot be counted; `source` then says why."""
        if self._fd < 0:
            return None
        value, enabled, running = perf_event_read(self._fd)
        if enabled and not running:
            self.source = "absent: the counter was never free"
            return None
        if running < enabled:
            self.source = "perf instructions:u, counted in a part of the time and scaled"
            return value * enabled // running
        return value

    def close(self) -> None:
        """Close the counter; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def absence(number: int) -> str:
    """Return why there is no count, from the errno of perf_event_open."""
    words = describe_errno(number)
    hint = next((text for name, text in _HINTS.items() if name in words), "")
    return f"absent: perf_event_open: {words}" + (f": {hint}" if hint else "")
