"""A sandbox that one thread closes while others start and end runs in it: no run fails by a bug, and no cgroup is left."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import sandbox
from sandbox.api import resident
from sandbox.api.house import House
from sandbox.api.served import Served

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns a thousand times as often, so that they meet in the middle of what they do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("started", [1, 2, 3])
def test_closing_while_runs_begin_and_end(started: int, often: None) -> None:
    """The runs are ended or refused. Without the locks of slots and servers this ends in `IndexError: pop from empty list` in one of ten rounds or so."""
    bugs: list[BaseException] = []

    def run(box: sandbox.Sandbox, begun: threading.Semaphore) -> None:
        begun.release()
        try:
            for _ in range(4):
                box.run(["/bin/true"], limits={"wall": 5})
        except (sandbox.SandboxError, ValueError):
            pass  # it was closed
        except BaseException as error:
            bugs.append(error)

    for _ in range(12):
        begun = threading.Semaphore(0)
        with sandbox.Sandbox("judge") as box:
            threads = [threading.Thread(target=run, args=(box, begun)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(started):
                begun.acquire()
        for thread in threads:
            thread.join()
    assert not bugs


def test_what_a_run_uses_stays_until_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that is closed while a run begins: descriptors of the run are closed by its own thread, and not while that may still use their numbers."""
    monkeypatch.setattr(resident, "_PATIENCE_S", 0.05)
    begun, closed = threading.Event(), threading.Event()
    houses: list[House] = []
    begin = Served.begin

    def begin_late(start: Served, *rest: Any) -> Any:
        houses.append(start.house)
        begun.set()
        assert closed.wait(120)
        return begin(start, *rest)

    box = sandbox.Sandbox("judge")
    box.run(["/bin/true"])
    monkeypatch.setattr(Served, "begin", begin_late)
    refused: list[str] = []

    def run() -> None:
        try:
            box.run(["/bin/sleep", "600"])
        except sandbox.SandboxError as error:
            refused.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(120)
    box.close()
    (house,) = houses
    directory = house._directory
    assert house.server is None and stat.S_ISDIR(os.fstat(directory).st_mode)
    closed.set()
    thread.join()
    assert house._directory == -1 and not house.running
    assert refused == ["start a run: this Sandbox was closed"], "begun again without a server, nothing would end it"
