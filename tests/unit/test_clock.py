"""What the clock asks for, without a run: which moment comes first, what is done then, and which limit it says is passed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from sandbox.errors import InternalError, SandboxError
from sandbox.launch.spawn import Descriptors
from sandbox.plan import fds
from sandbox.policy.profile import Limits
from sandbox.result import Verdict
from sandbox.supervise import clock as clock_module
from sandbox.supervise.clock import RunClock
from sandbox.supervise.deadlines import PATIENCE_NS, SETUP_NS
from sandbox.supervise.records import Collected
from sandbox.supervise.reins import Reins
from sandbox.supervise.sampling import Sampling
from sandbox.supervise.watched import Watched

MS, S = 1_000_000, 1_000_000_000
T = 1000 * S


class Time:
    """The time of a run, of which this process is init and payload; it stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = T
        self.used = 0
        self.told, control = os.pipe2(os.O_NONBLOCK)
        self.ends = Descriptors(status=-1, go=-1, control=control, release=-1)
        self.reins = Reins(self.ends, None)
        self.reins.init_pid = os.getpid()
        self.facts = Collected()
        self.slices: list[tuple[int, int]] = []
        monkeypatch.setattr("time.monotonic_ns", lambda: self.now)
        monkeypatch.setattr(Sampling, "cpu_ns", lambda sampling: self.used)
        monkeypatch.setattr(clock_module, "set_slice", lambda pid, slice_ns: self.slices.append((pid, slice_ns)) or True)

    def clock(self, limits: Limits, meanwhile: Callable[[], None] | None = None) -> RunClock:
        """Return the clock of a run that is being made."""

        def explain(row: int, error: int) -> SandboxError:
            return InternalError(f"{row} {error}")

        watched = Watched(limits=limits, started=lambda pid: None, needs_word=False, explain=explain, pumps=[], meanwhile=meanwhile)
        return RunClock(watched, self.reins, self.facts)

    def begun(self, limits: Limits, meanwhile: Callable[[], None] | None = None) -> RunClock:
        """Return the clock of a run whose payload was let go now."""
        clock = self.clock(limits, meanwhile)
        clock.prepare(os.getpid())
        clock.begin()
        return clock

    def words(self) -> bytes:
        """Return what init was told since it was asked last."""
        try:
            return os.read(self.told, 100)
        except BlockingIOError:
            return b""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    made = Time(monkeypatch)
    yield made
    made.ends.close()
    os.close(made.told)


def test_a_set_up_that_takes_too_long_is_said_again_after_some_patience(at: Time) -> None:
    clock = at.clock(Limits(wall_ns=1))
    assert (clock.phase, clock.begun, clock.next_moments(None)) == ("starting", False, (T + SETUP_NS, None))
    assert clock.next_moments(T + 5 * MS) == (T + SETUP_NS, T + 5 * MS)  # it is executed ahead, and was denied too much for now
    late = T + SETUP_NS
    assert [clock.judge(now) for now in (late - 1, late, late + PATIENCE_NS - 1, late + PATIENCE_NS)] == [
        None, Verdict.SETUP_FAILED, None, Verdict.SETUP_FAILED,
    ]  # fmt: skip


def test_a_limit_is_passed_at_its_moment_and_a_pause_moves_it(at: Time) -> None:
    clock = at.begun(Limits(wall_ns=3 * S))
    assert clock.next_moments(None)[0] == T + 3 * S
    assert (clock.judge(T + 3 * S - 1), clock.judge(T + 3 * S)) == (None, Verdict.WALL_LIMIT)
    at.now = T + S
    clock.hold()
    assert (clock.phase, clock.next_moments(None)[0]) == ("paused", None)
    at.now = T + 5 * S
    assert clock.judge(at.now) is None and clock.stood_ns(at.now) == 4 * S
    clock.go_on()
    assert (clock.phase, clock.next_moments(None)[0]) == ("running", T + 7 * S)
    assert (clock.judge(T + 7 * S - 1), clock.judge(T + 7 * S)) == (None, Verdict.WALL_LIMIT)


def test_time_without_work_is_its_own_limit_and_how_much_is_kept(at: Time) -> None:
    clock = at.begun(Limits(cpu_ns=S, idle_ns=2 * S))
    at.used = S // 2
    assert clock.judge(T + 2 * S) is None
    assert clock.judge(T + 3 * S) is Verdict.IDLE_LIMIT and at.facts.idle_ns == 5 * S // 2
    at.used = S + 1
    assert clock.judge(T + 3 * S) is Verdict.CPU_LIMIT


def test_whoever_was_to_kill_everything_is_waited_for_a_while_and_again(at: Time) -> None:
    clock = at.begun(Limits(wall_ns=3 * S))
    assert not clock.patience_is_over(T + 10 * S)
    clock.doom()
    assert (clock.phase, clock.next_moments(None)[0]) == ("ending", T + PATIENCE_NS)
    assert [clock.patience_is_over(T + part * PATIENCE_NS // 2) for part in (1, 2, 3, 4)] == [False, True, False, True]
    assert clock.judge(T + 10 * S) is None


def test_errands_are_run_once_and_not_before_their_time(at: Time) -> None:
    done: list[str] = []
    clock = at.begun(Limits(), lambda: done.append("meanwhile"))
    clock.remind(T + 5 * MS, lambda: done.append("reminder"))
    settled = clock.next_moments(None)[1]
    assert settled is not None and T < settled < T + 5 * MS
    clock.run_errands(settled - 1)
    assert (done, at.slices) == ([], [])
    clock.run_errands(settled)
    assert (done, [pid for pid, _ in at.slices]) == (["meanwhile"], [0, os.getpid()])
    assert clock.next_moments(None)[1] == T + 5 * MS and clock.next_moments(T + 4 * MS)[1] == T + 4 * MS
    for _ in range(2):
        clock.run_errands(T + 5 * MS)
    assert done == ["meanwhile", "reminder"] and clock.next_moments(None)[1] is None
    clock.close()
    clock.close()
    assert at.slices[2:] == [(0, 0)]


def test_what_goes_on_by_itself_is_stopped_again_and_its_limits_count(at: Time) -> None:
    clock = at.begun(Limits(cpu_ns=S))
    at.reins.pause()
    clock.hold()
    assert at.words() == bytes([fds.HOLD, fds.STOP_ALL])
    clock.run_errands(T + 2 * MS)
    look = clock.next_moments(None)[1]
    assert look is not None
    assert clock.judge(look) is None and at.words() == b""  # it has not run
    at.used = 20 * MS
    look = clock.next_moments(None)[1]
    assert look is not None
    assert clock.judge(look - 1) is None and at.words() == b""
    assert clock.judge(look) is None and at.words() == bytes([fds.STOP_ALL])
    at.used = S + 1
    look = clock.next_moments(None)[1]
    assert look is not None
    assert clock.judge(look) is Verdict.CPU_LIMIT and at.words() == bytes([fds.STOP_ALL])


def test_out_of_a_freezer_nothing_comes_by_itself(at: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = at.begun(Limits(cpu_ns=S))
    clock.run_errands(T + 2 * MS)
    monkeypatch.setattr(at.reins, "_frozen", True)
    clock.hold()
    at.used = 2 * S
    assert clock.next_moments(None) == (None, None) and clock.judge(T + 10 * S) is None and at.words() == b""
