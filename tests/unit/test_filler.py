"""The thread that makes ahead: what closes it, wherever that comes from, and what an error in it leaves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pytest

from sandbox.api.filler import Filler

if TYPE_CHECKING:
    from sandbox.api.house import Way
    from sandbox.api.prepare import Prepared

OWED = cast("tuple[Prepared, Way]", (None, None))


class _Collected:
    """A lock with the collector of garbage at its worst: it closes in the moment after the lock was taken, or before it is let go."""

    def __init__(self, lock: threading.RLock, close: object, *, leaving: bool) -> None:  # type: ignore[valid-type]
        self._lock, self._close, self._leaving = lock, close, leaving

    def __enter__(self) -> None:
        self._lock.__enter__()  # type: ignore[attr-defined]
        if not self._leaving:
            self._once()

    def __exit__(self, *error: object) -> None:
        if self._leaving:
            self._once()
        self._lock.__exit__(*error)  # type: ignore[attr-defined]

    def _once(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()  # type: ignore[operator]


@pytest.mark.parametrize("leaving", [False, True])
def test_it_may_be_closed_by_who_has_just_taken_it(leaving: bool) -> None:
    """From Python 3.12 on the collector runs between any two instructions; with a lock that is not reentrant this thread waits for itself."""
    closed: list[bool] = []
    filler = Filler(lambda *_: None, lambda: False)
    filler._working = cast("threading.RLock", _Collected(filler._working, lambda: filler.close(lambda: closed.append(True)), leaving=leaving))  # type: ignore[assignment]
    thread = threading.Thread(target=filler.pay, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and closed == [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_in_the_thread_does_not_end_the_making_for_good() -> None:
    begun = threading.Semaphore(0)
    failed: list[int] = []

    def fill(*_: object) -> None:
        begun.release()
        if not failed:
            failed.append(1)
            raise MemoryError

    filler = Filler(fill, lambda: False)
    filler.owe(*OWED)
    assert begun.acquire(timeout=60)
    while filler._running:
        with filler._turn:
            filler._turn.wait(0.001)
    filler.owe(*OWED)
    assert begun.acquire(timeout=60), "nothing is made any more"
    filler.close(lambda: None)
