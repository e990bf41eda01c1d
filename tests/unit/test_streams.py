"""The pumps in the supervisor's poll: what is not to be waited for any more is not told any more."""

from __future__ import annotations

import os
import select

import pytest

from sandbox.api.streams import Streams, _open_streams
from sandbox.supervise.pump import Pump
from sandbox.supervise.streams import StreamSet


def test_the_callers_input_at_its_end_wakes_nobody() -> None:
    """It stays open, for it is borrowed; left in the poll it would be told at every turn, and the supervisor would never sleep again."""
    source_r, source_w = os.pipe()
    target_r, target_w = os.pipe()
    poll = select.poll()
    streams = StreamSet(poll, [Pump(source_r, target_w, close_source=False, close_destination=True)], None)
    os.write(source_w, b"x")
    os.close(source_w)
    for _ in range(3):
        streams.arm()
        for fd, _ in poll.poll(0):
            streams.on_ready(fd)
    assert os.read(target_r, 10) == b"x"
    assert streams.pumps[0].ended
    streams.arm()
    assert poll.poll(0) == []
    os.close(source_r)
    os.close(target_r)


def test_an_interrupt_while_streams_are_made_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pump of no input closes its end at once; a KeyboardInterrupt just then came back as EBADF, and closed what another thread might have opened."""

    def settle(pump: Pump) -> None:
        real(pump)
        raise KeyboardInterrupt

    real = Pump._settle
    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pump, "_settle", settle)
        _open_streams(Streams())
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_was_kept_is_given_away_without_a_copy() -> None:
    """A payload may print as much as its limit allows, and that is held once."""
    reader, writer = os.pipe()
    pump = Pump(reader, -1)
    os.write(writer, b"x" * 5000)
    os.close(writer)
    while not pump.ended:
        pump.fill(None)
    assert pump.captured == b"x" * 5000
    assert pump.captured is pump.captured
