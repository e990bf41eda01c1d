"""Runs for many inputs, several at a time, their results in the order of the inputs. Only `session` imports it."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.api.background import BackgroundRun
    from sandbox.result import Result

_Input = TypeVar("_Input")


class Many(Generic[_Input]):
    """To be iterated over once, by one thread; closing the iterator, or an error, ends what still runs.

    Args:
        start: starts the run of an input.
        inputs: taken as they are needed.
        workers: how many runs at a time; None is one for each processor that this process may use.

    Raises:
        ValueError: not even one run at a time.
    """

    def __init__(self, start: Callable[[_Input], BackgroundRun], inputs: Iterator[_Input], workers: int | None) -> None:
        self._start = start
        self._inputs = inputs
        self._workers = workers if workers is not None else len(os.sched_getaffinity(0)) or 1
        if self._workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._waiting: deque[BackgroundRun] = deque()
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """End it, from another thread."""
        self._given_up.set()
        for run in self._waiting.copy():
            run.kill()

    def __iter__(self) -> Iterator[Result]:
        waiting, workers = self._waiting, self._workers
        turn = threading.Condition()
        running = 0

        def on_end() -> None:
            nonlocal running
            with turn:
                running -= 1
                turn.notify()

        def may_start() -> bool:
            # As many results may wait for a slow one before them as there are workers.
            return more and running < workers and len(waiting) < 2 * workers

        def is_turn() -> bool:
            return may_start() or (bool(waiting) and waiting[0].ended)

        more = True
        failure: Exception | None = None
        try:
            while more or waiting:
                with turn:
                    turn.wait_for(is_turn)
                    if self._given_up.is_set():
                        return
                    start = may_start()
                    running += start
                if start:
                    try:
                        waiting.append(self._start(next(self._inputs)))
                    except Exception as error:  # raised when its turn comes: the results before it are good
                        more = False
                        failure = None if isinstance(error, StopIteration) else error
                        continue
                    waiting[-1].call_at_end(on_end)
                    if self._given_up.is_set():
                        return
                elif waiting[0].ended:
                    yield waiting.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for run in waiting:
                run.kill()
            for run in waiting:
                run.join()
