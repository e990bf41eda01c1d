"""How the main thread waits for the workers of a judging."""

from __future__ import annotations

import os
import signal

from sandbox.judge.pipeline.workers import _woken_by_signals


def test_the_end_of_the_wait_does_not_need_the_pipes_end() -> None:
    """A process that a worker is just starting has a copy of the writer: what ended the judging must not be lost over that."""
    reason = KeyError("the reason")
    copy = -1
    try:
        with _woken_by_signals():
            writer = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            copy = os.dup(writer)
            raise reason
    except KeyError as caught:
        assert caught is reason
    finally:
        os.close(copy)
    assert signal.set_wakeup_fd(-1) == -1
