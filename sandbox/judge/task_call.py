"""Calling an author's functions so that whoever waits for one can leave it: Python ends no thread, and a checker that never returns must not keep ^C from it.

A function runs in a daemon thread of ours, for which no exit of the interpreter waits. `task_work` has the `Calls`, what judges gets only `Caller`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

_Value = TypeVar("_Value")


class Left(Exception):
    """The grading was ended while a function of the author's ran; it runs on, and nobody hears what it comes to."""


class Caller(Protocol):
    """Calls a function and returns its value, or raises what it raised, or `Left`."""

    def __call__(self, function: Callable[[], _Value], if_left: Callable[[], object] = ...) -> _Value:
        """Call it; `if_left` is called after it by its own thread where it was left: it closes what nobody else may close under it."""


def _nothing() -> None:
    """Nobody has to be let go."""


def call_here(function: Callable[[], _Value], if_left: Callable[[], object] = _nothing) -> _Value:
    """Call it in this thread, which nobody can leave."""
    return function()


class _Call:
    """One call: `left` and `done` are guarded by the lock of its `Calls`."""

    def __init__(self, function: Callable[[], Any], if_left: Callable[[], object]) -> None:
        self.function = function
        self.if_left = if_left
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.left = False


class Calls:
    """The threads in which functions of the author's run, kept from one call to the next: as many as there are calls at a time."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._ended = False
        self._idle: list[tuple[threading.Thread, SimpleQueue[_Call | None]]] = []

    def __call__(self, function: Callable[[], _Value], if_left: Callable[[], object] = _nothing) -> _Value:
        """See `Caller`. Where no thread is to be had, other submissions may have used them up, it is called in this one."""
        with self._turn:
            ended = self._ended
            helper = self._idle.pop() if self._idle and not ended else None
        if ended:
            if_left()
            raise Left
        if helper is None:
            todo: SimpleQueue[_Call | None] = SimpleQueue()
            helper = threading.Thread(target=self._work, args=(todo,), name="author", daemon=True), todo
            try:
                helper[0].start()
            except RuntimeError:
                return function()
        call = _Call(function, if_left)
        helper[1].put(call)
        with self._turn:
            self._turn.wait_for(lambda: call.done or self._ended)
            if not call.done:
                call.left = True
                helper[1].put(None)
                raise Left
            self._idle.append(helper)
        try:
            if call.error is not None:
                raise call.error
        finally:
            call.error = None  # its traceback has this frame in it
        value: _Value = call.value
        return value

    def end(self) -> None:
        """Leave every function that runs; none is called from now on."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()

    def close(self) -> None:
        """Leave what runs, and wait for the threads in which nothing does."""
        self.end()
        with self._turn:
            idle, self._idle = self._idle, []
        for thread, todo in idle:
            todo.put(None)
            thread.join()

    def _work(self, todo: SimpleQueue[_Call | None]) -> None:
        while (call := todo.get()) is not None:
            if self._may_begin(call):
                try:
                    call.value = call.function()
                except BaseException as error:
                    call.error = error
                with self._turn:
                    call.done = True
                    self._turn.notify_all()
            if call.left:  # set only before it was done
                call.if_left()
            del call

    def _may_begin(self, call: _Call) -> bool:
        """Leave it if the end has come since it was given to a thread; whoever waits for it does, too."""
        with self._turn:
            call.left = self._ended
            return not call.left


__all__ = ["Caller", "Calls", "Left", "call_here"]
