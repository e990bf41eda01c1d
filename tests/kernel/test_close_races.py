"""A sandbox that one thread closes while others start and end runs in it: no run fails by a bug, and no cgroup is left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

import sandbox

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
