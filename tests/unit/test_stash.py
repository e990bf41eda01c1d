"""Descriptors that are made ahead: each belongs to one taker, also while everything is being closed."""

from __future__ import annotations

import os

import pytest

from sandbox.launch import stash as room
from sandbox.launch.stash import Stash


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", ["pipe", "pair"])
def test_what_is_taken_during_a_close_stays_open(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that another thread begins in the middle of a close keeps its ends: closed under it, their numbers would soon be another file's."""
    monkeypatch.setattr(room, "_PAIRS", 3)
    stash = Stash()
    stash.refill()
    taken: list[int] = []
    close = os.close

    def close_and_begin(fd: int) -> None:
        close(fd)
        if not taken:
            taken.extend(getattr(stash, kind)())

    monkeypatch.setattr(room.os, "close", close_and_begin)
    stash.close()
    monkeypatch.undo()
    assert len(taken) == 2 and all(map(_is_open, taken))
    for fd in taken:
        os.close(fd)


def test_a_closed_stash_keeps_nothing() -> None:
    """What was ready is closed, what comes afterwards is made and closed at once."""
    stash = Stash()
    stash.refill()
    ready = [fd for ends in (*stash._pipes, *stash._pairs) for fd in ends]
    stash.close()
    assert ready and not any(map(_is_open, ready))
    ours, theirs = stash.pipe()
    for fd in (ours, theirs):
        assert _is_open(fd)
        stash.discard(fd)
        assert not _is_open(fd)
    stash.refill()
    assert not stash._pipes and not stash._pairs
