"""Calling functions of the author's: what they come to is heard, and whoever waits for one that never returns can leave it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.judge.task_call import Calls, Left


@pytest.fixture
def calls() -> Iterator[Calls]:
    made = Calls()
    yield made
    made.close()


def test_values_and_exceptions_come_back(calls: Calls) -> None:
    assert calls(lambda: 7) == 7
    for kind in (ValueError, SystemExit, KeyboardInterrupt):

        def fails(kind: type[BaseException] = kind) -> None:
            raise kind("why")

        with pytest.raises(kind, match="why"):
            calls(fails)


def test_calls_one_after_the_other_are_in_one_thread_which_ends_with_them() -> None:
    calls = Calls()
    threads = {calls(threading.current_thread) for _ in range(5)}
    (thread,) = threads
    assert thread is not threading.current_thread() and thread.daemon
    calls.close()
    assert not thread.is_alive()


def test_calls_at_a_time_do_not_wait_for_each_other(calls: Calls) -> None:
    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        assert len({each.ident for each in pool.map(lambda _: calls(lambda: (together.wait(60), threading.current_thread())[1]), range(4))}) == 4


def test_a_function_that_never_returns_is_left_and_lets_go_by_itself() -> None:
    calls = Calls()
    begun, go_on, let_go = threading.Event(), threading.Event(), threading.Event()
    closed: list[threading.Thread] = []

    def stands() -> None:
        begun.set()
        go_on.wait()

    def if_left() -> None:
        closed.append(threading.current_thread())
        let_go.set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(calls, stands, if_left)
        assert begun.wait(60)
        calls.end()
        with pytest.raises(Left):
            waiting.result(60)
    calls.close()  # which does not wait for it either
    assert not closed, "closed under a function that uses it"
    go_on.set()
    assert let_go.wait(60) and closed[0].name == "author"
    closed[0].join(60)
    assert not closed[0].is_alive()


def test_nothing_is_called_after_the_end(calls: Calls) -> None:
    calls.end()
    called: list[str] = []
    with pytest.raises(Left):
        calls(lambda: called.append("function"), lambda: called.append("if left"))
    assert called == ["if left"]


def test_nothing_is_called_that_the_end_overtakes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, begin = Calls(), threading.Thread.start
    called: list[str] = []
    over = threading.Event()

    def start_late(thread: threading.Thread) -> None:
        begin(thread)
        calls.end()

    monkeypatch.setattr(threading.Thread, "start", start_late)
    with pytest.raises(Left):
        calls(lambda: called.append("function"), over.set)
    assert over.wait(60) and not called
    calls.close()


def test_where_there_is_no_thread_to_be_had_it_is_called_all_the_same(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert calls(threading.current_thread) is threading.current_thread()
