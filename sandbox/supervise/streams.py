"""The pumps of one run in the supervisor's epoll: who waits for what, and how much output there was.

`pump` moves bytes; this keeps epoll's interest up to date with the pumps' and counts what comes against the output limit.
"""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.supervise.pump import Pump


_ALWAYS_READY = -1  # instead of an epoll mask: a regular file


class StreamSet:
    """All pumps of a run.

    Args:
        epoll: borrowed; only descriptors of pumps, and those of `extra`, are put there or taken out by this object.
        pumps: the list may grow while the run goes on.
        limit: bytes of output allowed, None for any number.

    `output_bytes` is what was read of the counted streams; `exceeded` becomes true with the first byte past the limit.
    """

    def __init__(self, epoll: select.epoll, pumps: list[Pump], limit: int | None) -> None:
        self._epoll = epoll
        self._interest: dict[int, int] = {}
        self._limit = limit
        self.pumps = pumps
        self.output_bytes = 0
        self.exceeded = False

    @property
    def waiting(self) -> bool:
        """Whether there is any descriptor to wait for."""
        return bool(self._interest)

    def arm(self, extra: int = -1) -> list[Pump]:
        """Bring epoll's interest up to date; return pumps on files that epoll does not take because they are always ready.

        Args:
            extra: one more descriptor to read from, while it is given.
        """
        wanted: dict[int, int] = {}
        for pump in self.pumps:
            if (fd := pump.read_fd()) >= 0:
                wanted[fd] = wanted.get(fd, 0) | select.EPOLLIN
            elif (fd := pump.write_fd()) >= 0:
                wanted[fd] = wanted.get(fd, 0) | select.EPOLLOUT
        if extra >= 0:
            wanted[extra] = select.EPOLLIN
        for fd in [fd for fd in self._interest if fd not in wanted]:
            del self._interest[fd]
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed meanwhile, or a regular file
        for fd, events in wanted.items():
            if self._interest.get(fd) not in (events, _ALWAYS_READY):
                self._interest[fd] = self._set(fd, events, known=fd in self._interest)
        return [pump for pump in self.pumps if self._interest.get(max(pump.read_fd(), pump.write_fd())) == _ALWAYS_READY]

    def _set(self, fd: int, events: int, *, known: bool) -> int:
        try:
            (self._epoll.modify if known else self._epoll.register)(fd, events)
        except PermissionError:  # a regular file
            return _ALWAYS_READY
        except FileNotFoundError:
            self._epoll.register(fd, events)
        except FileExistsError:
            self._epoll.modify(fd, events)
        return events

    def on_ready(self, fd: int) -> None:
        """Move what can be moved on a descriptor that epoll named."""
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
            # Closed, or the caller's own and at its end, which epoll would tell again and again; the number may be another file's at the next look.
            if self._interest.pop(fd, None) is not None:
                try:
                    self._epoll.unregister(fd)
                except OSError:
                    pass

    def _take(self, pump: Pump) -> int:
        limit = self._limit if pump.count else None
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
