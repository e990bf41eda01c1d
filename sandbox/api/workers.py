"""Threads that are kept for the next run: starting one costs as much as a third of a run's own Python.

They are daemons: a run that is lost at the interpreter's exit is ended by its janitor or keeper. An idle one ends by itself after a while.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

_IDLE_S = 5.0
_IDLE_NAME = "idle (sandbox)"


class _Worker(threading.Thread):
    """One thread; `turn` is held by us while it has nothing to do."""

    def __init__(self, call: Callable[[], None], name: str, processors: frozenset[int]) -> None:
        super().__init__(name=name, daemon=True)
        self.call: Callable[[], None] | None = call
        self.processors = processors
        self.turn = threading.Lock()
        self.turn.acquire()

    def run(self) -> None:
        while self.call is not None:
            self._move()
            self.call()
            self.call = None  # it holds on to the run
            self.name = _IDLE_NAME
            with _lock:
                _idle.append(self)
            if not self.turn.acquire(timeout=_IDLE_S):
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                self.turn.acquire()  # somebody was just about to give us something

    def _move(self) -> None:
        """Be where the caller is, as a thread that it had made would be: its processors are the run's."""
        try:
            if os.sched_getaffinity(0) != self.processors:
                os.sched_setaffinity(0, self.processors)
        except OSError:
            pass  # the caller's own are gone meanwhile


_lock = threading.Lock()
_idle: list[_Worker] = []


def start(call: Callable[[], None], name: str) -> None:
    """Call something in a thread of its own, which must not raise; the one that became idle last is the next to be used.

    Args:
        call: what to do.
        name: of the thread, meanwhile.

    Raises:
        RuntimeError: no thread can be started.
    """
    processors = frozenset(os.sched_getaffinity(0))
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None:
        _Worker(call, name, processors).start()
        return
    worker.name = name
    worker.processors = processors
    worker.call = call
    worker.turn.release()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _idle.clear()  # a fork has only the thread that forked


os.register_at_fork(after_in_child=_after_fork)
