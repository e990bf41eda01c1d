"""Who makes ahead what runs have taken: a thread that works while nothing else does.

A run of a few hundred microseconds shares the processors with whatever is made during it, so nothing is: what a run owes is made once it is over, or goes on
for a while. Only `api.resident` makes a `Filler`.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.house import Way
    from sandbox.api.prepare import Prepared

_IDLE_S = 2.0
_SETTLE_S = 0.005


class Filler:
    """One thread at most, which ends when it has had nothing to do for a while; thread-safe.

    Args:
        fill: makes what is missing for runs like the given one.
        settle: looks after what was made; returns whether there is more to look after.
    """

    def __init__(self, fill: Callable[[Prepared, Way], object], settle: Callable[[], bool]) -> None:
        self._fill = fill
        self._settle = settle
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a fork: the thread is the parent's."""
        self._turn = threading.Condition()
        self._working = threading.RLock()  # the collector of garbage may close it between its taking and what says who has it
        self._owed: deque[tuple[Prepared, Way]] = deque(maxlen=8)
        self._by = 0
        self._after: Callable[[], object] | None = None
        self._running = self._idle = self._closed = False

    def owe(self, prepared: Prepared, way: Way) -> None:
        """Have it made ahead soon; returns at once."""
        with self._turn:
            if self._closed:
                return
            self._owed.append((prepared, way))
            if self._idle:
                self._turn.notify()
                return
            if self._running:
                return
            self._running = True
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:  # no more threads: the next run pays
            self._running = False

    def pay(self, settle: bool = False) -> bool:
        """Make what is owed, in the caller's thread, or wait for the thread that is at it.

        Args:
            settle: look after what was made; whether there is more to look after is returned.
        """
        more = False
        with self._working:
            self._by = _thread.get_ident()
            try:
                while self._owed:
                    try:
                        owed = self._owed.popleft()
                    except IndexError:
                        break
                    self._fill(*owed)
                if settle:
                    more = self._settle()
            finally:
                self._by = 0
        after, self._after = self._after, None
        if after is not None:
            after()
        return more

    def _work(self) -> None:
        while True:
            try:
                more = self.pay(settle=True)
            except BaseException:  # the next one that is owed begins another thread, or a run pays
                with self._turn:
                    self._running = False
                raise
            with self._turn:
                if self._owed:
                    continue
                if not self._closed:
                    self._idle = True
                    told = self._turn.wait(_SETTLE_S if more else _IDLE_S)
                    self._idle = False
                    if told or more or self._owed:
                        continue
                self._running = False
                return

    def close(self, after: Callable[[], object]) -> None:
        """Make nothing more, wait for what is being made, and call `after`; idempotent. The collector of garbage may call it in the very thread that makes.

        Args:
            after: is called then, in that case by that thread.
        """
        if self._by == _thread.get_ident():
            self._closed, self._after = True, after
            return
        with self._turn:
            self._closed = True
            self._owed.clear()
            self._turn.notify()
        with self._working:
            pass
        after()


__all__ = ["Filler"]
