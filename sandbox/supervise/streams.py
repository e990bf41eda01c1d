"""The pumps of one run in the supervisor's poll: who waits for what, and how much output there was.

`pump` moves bytes; this keeps the interest up to date with the pumps' and counts what comes against the output limit.
"""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.supervise.pump import Pump


class StreamSet:
    """All pumps of a run.

    Args:
        poll: borrowed; only descriptors of pumps are put there or taken out by this object.
        pumps: the list may grow while the run goes on.
        limit: bytes of output allowed, None for any number.

    `limit` may change while nothing has come. `output_bytes` is what was read of the counted streams; `exceeded` becomes true with the first byte past
    the limit.
    """

    def __init__(self, poll: select.poll, pumps: list[Pump], limit: int | None) -> None:
        self._poll = poll
        self._interest: dict[int, int] = {}
        self.limit = limit
        self.pumps = pumps
        self.output_bytes = 0
        self.exceeded = False

    @property
    def waiting(self) -> bool:
        """Whether there is any descriptor to wait for."""
        return bool(self._interest)

    def arm(self) -> None:
        """Bring the interest up to date. A regular file is always ready, so pumps on one take turns with everything else."""
        wanted: dict[int, int] = {}
        for pump in self.pumps:
            if (fd := pump.read_fd()) >= 0:
                wanted[fd] = wanted.get(fd, 0) | select.POLLIN
            elif (fd := pump.write_fd()) >= 0:
                wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
        if wanted == self._interest:
            return
        for fd in self._interest:
            if fd not in wanted:
                self._poll.unregister(fd)
        for fd, events in wanted.items():
            self._poll.register(fd, events)
        self._interest = wanted

    def on_ready(self, fd: int) -> None:
        """Move what can be moved on a descriptor that poll named."""
        for pump in self.pumps:
            if fd in (pump.read_fd(), pump.write_fd()):
                self.move(pump)

    def move(self, pump: Pump) -> None:
        """Move once."""
        before = {pump.source, pump.destination}
        if pump.write_fd() >= 0:
            pump.flush()
        else:
            self._take(pump)
        for fd in before - {pump.source, pump.destination}:
            # Closed, or the caller's own and at its end, which poll would tell again and again; the number may be another file's at the next look.
            if self._interest.pop(fd, None) is not None:
                self._poll.unregister(fd)

    def _take(self, pump: Pump) -> int:
        limit = self.limit if pump.count else None
        allowance = None if limit is None else max(0, limit - self.output_bytes)
        got = pump.fill(allowance)
        if pump.count:
            self.output_bytes += got
        if allowance is not None and got > allowance:
            self.exceeded = True
        return got

    def empty_sources(self) -> bool:
        """Everything is dead: take what is left in the pipes, to where they are empty; return whether all of it was moved.

        The end of a file is not waited for: a fork of the caller's may hold the other end.
        """
        for pump in self.pumps:
            if not pump.count:
                pump.close()
            while pump.read_fd() >= 0:
                if not self._take(pump):
                    pump.end_source()
        return all(pump.ended for pump in self.pumps)

    def cut(self) -> None:
        """Give up what is not moved yet."""
        for pump in self.pumps:
            pump.cut()

    def close(self) -> None:
        """Close what is ours."""
        for pump in self.pumps:
            pump.close()
