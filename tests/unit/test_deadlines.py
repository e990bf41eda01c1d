"""When the supervisor looks up: at the first moment at which a limit could be passed, and not before; a pause moves all of them."""

from __future__ import annotations

import select
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.policy.profile import Limits
from sandbox.supervise.deadlines import PATIENCE_NS, Alarm, Deadlines, earliest

MS, S = 1_000_000, 1_000_000_000
T = 1000 * S


def begun(limits: Limits, cpus: int = 2) -> Deadlines:
    """Return the deadlines of a run that began at T."""
    due = Deadlines(limits, cpus)
    due.begin(T)
    return due


def test_wall_limit_is_one_moment() -> None:
    due = begun(Limits(wall_ns=3 * S))
    assert (due.next_ns(), due.cpu_at) == (T + 3 * S, None)


@pytest.mark.parametrize(("limits", "cpus", "first"), [
    (Limits(cpu_ns=4 * S), 1, 4 * S), (Limits(cpu_ns=4 * S), 8, S // 2), (Limits(cpu_ns=4 * S, cpuset=(3, 5)), 8, 2 * S),
    (Limits(cpu_ns=4 * S, cpu_quota_ppm=500_000), 8, 7900 * MS), (Limits(cpu_ns=40 * MS, cpu_quota_ppm=500_000), 8, 5 * MS),
    (Limits(idle_ns=2 * S), 8, 2 * S), (Limits(idle_ns=2 * S, cpu_ns=4 * S), 8, S // 2),
])  # fmt: skip
def test_first_look_is_when_it_could_first_be_passed(limits: Limits, cpus: int, first: int) -> None:
    assert begun(limits, cpus).cpu_at == T + first + 1


@given(st.integers(1 * MS, 60 * S), st.integers(1, 64), st.lists(st.integers(0, 100), max_size=400))
def test_a_run_that_spins_is_looked_at_a_few_times_and_never_late(limit: int, cpus: int, shares: list[int]) -> None:
    """Whatever share of all processors it uses, it is caught within one step; looks come closer only as the limit does."""
    due, now, used, looks = begun(Limits(cpu_ns=limit), cpus), T, 0, 0
    for share in shares or [100]:
        assert due.cpu_at is not None
        used += (due.cpu_at - now) * cpus * share // 100
        now = due.cpu_at
        looks += 1
        if due.judge_cpu(now, used):
            assert limit < used <= limit + cpus * 4 * MS + cpus
            return
        assert used <= limit


def test_looks_at_a_spinning_process_are_few() -> None:
    due, now, used, looks = begun(Limits(cpu_ns=10 * S), 2), T, 0, 0
    while True:
        assert due.cpu_at is not None
        used, now, looks = used + due.cpu_at - now, due.cpu_at, looks + 1
        if due.judge_cpu(now, used):
            break
    assert looks < 20 and used < 10 * S + 2 * MS


def test_a_sleeper_close_to_its_limit_is_not_polled_every_millisecond() -> None:
    due, now, looks = begun(Limits(cpu_ns=S), 2), T, 0
    while now < T + S:
        assert due.cpu_at is not None
        now, looks = due.cpu_at, looks + 1
        assert due.judge_cpu(now, S - 1) == ""
    assert looks < 260


def test_idle_time_is_wall_less_cpu_time() -> None:
    due = begun(Limits(idle_ns=S))
    assert due.judge_cpu(T + S, 400 * MS) == ""
    assert due.cpu_at == T + S + 400 * MS + 1
    assert due.judge_cpu(T + S + 400 * MS, 400 * MS) == ""
    assert due.judge_cpu(T + S + 400 * MS + 1, 400 * MS) == "idle"
    assert due.judge_cpu(T + S, 3 * S) == "", "two processors at work make up for idle ones"


def test_a_pause_moves_everything() -> None:
    due = begun(Limits(wall_ns=3 * S, cpu_ns=2 * S, idle_ns=S), 2)
    due.hold(T + S // 2)
    assert due.next_ns() is None and due.lived_ns(T + 9 * S) == S // 2
    due.go_on(T + 9 * S)
    pause = 9 * S - S // 2
    assert (due.wall_at, due.cpu_at, due.paused_ns) == (T + 3 * S + pause, T + S + pause + 1, pause)
    assert due.lived_ns(T + 10 * S) == S + S // 2
    assert due.judge_cpu(T + 9 * S + 1, 0) == "", "the pause is no idle time"


def test_doomed_waits_for_the_kill_alone() -> None:
    due = begun(Limits(wall_ns=3 * S, cpu_ns=2 * S))
    due.hold(T + S)
    due.doom(T + 2 * S)
    assert (due.next_ns(), due.paused_ns) == (T + 2 * S + PATIENCE_NS, S)


def test_alarm_rings_at_its_moment_and_not_before() -> None:
    alarm = Alarm()
    try:
        alarm.set(time.monotonic_ns() + 300 * S)
        assert select.select([alarm.fd], [], [], 0)[0] == []
        at = time.monotonic_ns() + 3 * MS
        alarm.set(at)
        assert select.select([alarm.fd], [], [], 20)[0] and time.monotonic_ns() >= at
        alarm.set(None)
        assert select.select([alarm.fd], [], [], 0)[0] == []
        alarm.set(1)  # the past
        assert select.select([alarm.fd], [], [], 20)[0]
    finally:
        alarm.close()
        alarm.close()


def test_earliest() -> None:
    assert (earliest(None, 3, 2), earliest(None, None), earliest()) == (2, None, None)
