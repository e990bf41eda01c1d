"""Threads that judge, and what orders them: a queue of submissions, help where one is left alone, silence for a run that is measured again.

A worker takes a submission and goes through its cases; nothing is run that may turn out not to be needed. When no submission is left to take, workers help
those that are under way with the cases ahead of them, whose results are thrown away where the submission was stopped before.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from sandbox.errors import SandboxError


class Stopped(Exception):
    """The judging was called off; no result of it counts."""


class Work(Protocol):
    """Something that one worker does and others may help with; `claim_ahead` is called with the board's lock held."""

    def claim_ahead(self) -> Callable[[], None] | None:
        """Return a piece of it that nobody does yet, None where there is none."""


class Gate:
    """Many runs side by side, or one alone. Whoever wants to be alone goes before those who want to begin."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._running = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run beside others."""
        with self._turn:
            self._turn.wait_for(lambda: not self._alone and not self._waiting)
            self._running += 1
        try:
            yield
        finally:
            with self._turn:
                self._running -= 1
                self._turn.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nothing runs, and keep everything from beginning meanwhile. Not for who is `beside`."""
        with self._turn:
            self._waiting += 1
            self._turn.wait_for(lambda: not self._alone and not self._running)
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._turn:
                self._alone = False
                self._turn.notify_all()


@contextmanager
def _woken_by_signals() -> Iterator[Callable[[int], object]]:
    """Yield what waits until a descriptor is readable, and lets handlers of signals run meanwhile, whichever thread the kernel gives a signal to.

    The wait of the main thread, where handlers run, goes on through a signal that another thread got, or that came just before it. A thread that may not
    handle signals merely waits. Whoever was told of signals before is told of those as well, afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda fd: select.select([fd], [], [])
        return
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    came = bytearray()

    def wait(fd: int) -> None:
        while fd not in select.select([fd, reader], [], [])[0]:
            came.extend(os.read(reader, 4096))

    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield wait
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        with suppress(BlockingIOError):  # there is no end yet where a worker is just starting a process, which has a copy until its execve
            came.extend(os.read(reader, 4096))
        os.close(reader)
        if before >= 0 and came:
            with suppress(OSError):
                os.write(before, came)


class Board:
    """What is to be done and who does it. Its lock, `turn`, guards the state of every piece of work as well.

    Args:
        jobs: how many threads, at least 1.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.gate = Gate()
        self.turn = threading.Condition()
        self._pending: deque[Work] = deque()
        self._active: list[Work] = []
        self._workers = 0
        self._failure: BaseException | None = None
        self._stopped = False

    def check(self) -> None:
        """Raise `Stopped` where the judging was called off, or a worker failed: what it was to bring will not come."""
        if self._stopped or self._failure is not None:
            raise Stopped

    def stop(self) -> None:
        """Have every worker end after what it does now; what runs in sandboxes is the caller's to end."""
        with self.turn:
            self._stopped = True
            self.turn.notify_all()

    def run(self, works: Sequence[Work], act: Callable[[Work], None]) -> None:
        """Do `act` for each, begun in their order, by as many workers as there are; return when all is done.

        Raises:
            Exception: the first that `act` raised, once all workers have ended.
            BaseException: what a signal's handler raised in this thread; the workers were told to stop and `join` waits for them.
        """
        over, end = os.pipe2(os.O_CLOEXEC)
        # No lock is taken here, nor `Thread.join` used: a signal's exception would leave the one locked, and the other believing that a thread has ended.
        self._pending = deque(works)
        self._failure = None
        self._workers = 1
        try:
            with _woken_by_signals() as wait:  # made before there is a worker that may get a signal: nothing of it is left half made
                try:
                    _begin("judge-start", self._start, act, end)
                except SandboxError:
                    os.close(end)
                    raise
                wait(over)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(over)
        if self._failure is not None:
            raise self._failure
        self.check()

    def _start(self, act: Callable[[Work], None], end: int) -> None:
        try:
            for number in range(self.jobs):
                with self.turn:
                    self._workers += 1
                _begin(f"judge-{number}", self._work, act, end)
        except BaseException as error:
            with self.turn:
                self._workers -= 1
                self._failure = self._failure or error
        finally:
            self._leave(end)

    def join(self, seconds: float) -> bool:
        """Wait until the workers of a call that was interrupted have ended; return whether they have."""
        until = time.monotonic() + seconds
        with self.turn:
            return self.turn.wait_for(lambda: not self._workers, max(0.0, until - time.monotonic()))

    def claim_ahead(self) -> Callable[[], None] | None:
        """Claim a piece of what is under way; the caller holds the lock."""
        for work in self._active:
            piece = work.claim_ahead()
            if piece is not None:
                return piece
        return None

    def _take(self) -> Work | Callable[[], None] | None:
        """Return what to do next, None where nothing is left."""
        with self.turn:
            while not self._stopped and self._failure is None:
                if self._pending:
                    work = self._pending.popleft()
                    self._active.append(work)
                    return work
                if not self._active:
                    return None
                piece = self.claim_ahead()
                if piece is not None:
                    return piece
                self.turn.wait()
            return None

    def _work(self, act: Callable[[Work], None], end: int) -> None:
        try:
            while (todo := self._take()) is not None:
                if callable(todo):
                    todo()
                    continue
                try:
                    act(todo)
                finally:
                    with self.turn:
                        self._active.remove(todo)
                        self.turn.notify_all()
        except Stopped:
            pass
        except BaseException as error:
            with self.turn:
                self._failure = self._failure or error
        finally:
            self._leave(end)

    def _leave(self, end: int) -> None:
        """Count a worker out; the last one wakes the caller."""
        with self.turn:
            self._workers -= 1
            self.turn.notify_all()
            if not self._workers:
                os.close(end)


def _begin(name: str, target: Callable[..., None], *args: object) -> None:
    try:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()
    except RuntimeError as error:
        raise SandboxError(f"start a worker: {error}", hint="the limit on processes and threads (`ulimit -u`) or on memory is reached") from None


__all__ = ["Board", "Gate", "Stopped", "Work"]
