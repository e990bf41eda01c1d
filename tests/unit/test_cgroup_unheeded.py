"""CPU time that nobody is told of: when that is proved, about how much it was, and that honest parents are never taken for others."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cgroup.unheeded import Seen, Unheeded

MS = 1_000_000
TICK = 10 * MS
INIT, PARENT = 1, 2


def seen(cpu_ms: float = 0, *, waited_ms: int = 0, faults: int = 0, start: int = 1, runs: bool = True) -> Seen:
    return Seen(start=start, cpu_ns=int(cpu_ms * MS), waited_ns=waited_ms * MS, waited_faults=faults, runs=runs)


def play(samples: Iterable[dict[int, Seen]], *, cpus: int = 2, step_ms: int = 20) -> Unheeded:
    found = Unheeded(TICK, cpus)
    for number, sample in enumerate(samples):
        found.take(number * step_ms * MS, dict(sample), lambda pid: None)
    return found


def short(count: int, cpu_ms: float = 1, *, heeded: bool) -> Iterable[dict[int, Seen]]:
    """Yield samples of a parent with one child after another, each seen once."""
    for number in range(count):
        waited = int(number * 20) // 10 * 10 if heeded else 0
        yield {INIT: seen(), PARENT: seen(waited_ms=waited, faults=number * heeded, runs=False), 100 + number: seen(cpu_ms)}


def test_children_that_nobody_waits_for_are_proved_by_what_was_seen_of_them() -> None:
    found = play(short(100, heeded=False))
    assert found.proved
    # Nineteen twentieths of the time some child ran: it counts whole, for others came and went between two looks.
    assert found.ended_ns == pytest.approx(99 * 20 * MS)
    assert not play(short(100, heeded=True)).proved


def test_one_that_was_seen_growing_counts_with_what_was_seen() -> None:
    samples = [{PARENT: seen(), 7: seen(20 * number)} for number in range(6)] + [{PARENT: seen()}] * 3
    found = play(samples)
    assert found.proved and found.ended_ns == 100 * MS + 10 * MS


def test_what_is_seen_of_one_more_process_than_there_are_processors_counts_once_for_each() -> None:
    samples = [{PARENT: seen(), **{100 * number + each: seen(5) for each in range(8)}} for number in range(1, 20)]
    assert play(samples).ended_ns == 18 * 2 * 20 * MS


def test_a_process_that_was_missed_while_the_tree_was_walked_has_not_ended() -> None:
    found = Unheeded(TICK, 2)
    moving = seen(900)
    for number in range(8):
        sample = {PARENT: seen()} | ({} if number % 2 else {7: moving})
        found.take(number * MS, sample, lambda pid: moving if pid == 7 else None)
    assert not found.proved and not found.ended_ns


def test_a_number_that_is_used_again_is_another_process() -> None:
    samples = [{PARENT: seen(), 7: seen(30, start=number)} for number in range(6)]
    assert play(samples).proved


def test_a_parent_that_ends_hands_on_what_it_has_waited_for() -> None:
    """Its own parent was read before it ended, and is told of it in the next sample only."""
    family = [{INIT: seen(), PARENT: seen(waited_ms=0), 7: seen(500)}] * 2
    orphaned = [{INIT: seen(), PARENT: seen(waited_ms=500, faults=9)}, {INIT: seen()}, {INIT: seen(waited_ms=500, faults=10)}]
    assert not play([*family, *orphaned, *orphaned[-1:] * 3]).proved
    # The control: nobody is told.
    assert play([*family, {INIT: seen()}, {INIT: seen()}, {INIT: seen()}]).proved


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 60), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 4),
)
def test_who_waits_is_never_accused(lives: list[tuple[int, float, bool]], parents: int) -> None:
    """Parents with children of any length, waited for at once or a sample later, the kernel's figures rounded down as it does."""
    waited = [0.0] * parents
    faults = [0] * parents
    found = Unheeded(TICK, 2)
    late: list[tuple[int, float]] = []
    for number, (parent, cpu_ms, at_once) in enumerate(lives):
        parent %= parents
        for which, more in late:
            waited[which] += more
            faults[which] += 1
        late = []
        sample = {10 + each: seen(waited_ms=int(waited[each]) // 10 * 10, faults=faults[each]) for each in range(parents)}
        sample[1000 + number] = seen(cpu_ms)
        found.take(2 * number * MS, sample, lambda pid: None)
        if at_once:
            waited[parent] += cpu_ms
            faults[parent] += 1
        else:
            late.append((parent, cpu_ms))
        assert not found.proved
