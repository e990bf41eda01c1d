"""What the clock asks for while a run goes on: when the supervisor must look up, and what is to be done then.

Moments are values of `deadlines`, looks those of `sampling` and of the machine view; here is which of them comes first and which limit it says is
passed. Whoever asked kills. While a run is paused its clock stands.
"""

from __future__ import annotations

import time

from sandbox.kernel.calls import set_slice
from sandbox.result import Verdict
from sandbox.supervise.deadlines import PATIENCE_NS, Deadlines, StopWatch, count_processors, earliest
from sandbox.supervise.sampling import Sampling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.supervise.records import Collected, Snapshot
    from sandbox.supervise.reins import Reins
    from sandbox.supervise.watched import Watched

_SETTLE_NS = 1_500_000  # after the start: a run that is over by then needs none of it
_SLICE_NS = 100_000  # the supervisor and init act in microseconds, and what they act against spins on every processor


class RunClock:
    """The clock of one run. It begins when the payload is let go; until then only the set-up is timed.

    Args:
        watched: the run's limits, what of them is sampled, and what is done at which time.
        reins: by which it is stopped.
        facts: where times and peaks are kept.
    """

    def __init__(self, watched: Watched, reins: Reins, facts: Collected) -> None:
        self._watched = watched
        self._reins = reins
        self._facts = facts
        self._due = Deadlines(watched.limits, count_processors())
        self._sampling: Sampling | None = None
        self._stop_watch = StopWatch()
        self._settle_ns: int | None = None
        self._reminder: tuple[int, Callable[[], object]] | None = None
        self._short = False

    # ---- what happens to the run ---------------------------------------------------------------------------

    def take_limits(self) -> None:
        """Its limits are others than it was made with."""
        self._due = Deadlines(self._watched.limits, count_processors())

    def prepare(self, payload_pid: int) -> None:
        """The payload, which is that process, is about to be let go: what was used until now is not its own."""
        watched = self._watched
        self._sampling = Sampling(self._reins.init_pid, payload_pid, watched.limits, watched.sample, self._facts, watched.cgroup)

    def begin(self) -> None:
        """The payload is let go, or was killed while it waited for that."""
        now = time.monotonic_ns()
        self._due.begin(now)
        if self._sampling is not None:
            self._settle_ns = now + _SETTLE_NS
            if self._watched.machine is not None:
                self._watched.machine.begin(now, self._sampling)

    def hold(self) -> None:
        """The run was stopped: nothing of it is due until `go_on`."""
        now = time.monotonic_ns()
        self._due.hold(now)
        if self._sampling is not None:
            self._stop_watch.begin(now, self._sampling.cpu_ns())

    def go_on(self) -> None:
        """It was let go on."""
        self._due.go_on(time.monotonic_ns())

    def doom(self) -> None:
        """It is being killed: nothing but that is waited for."""
        self._due.doom(time.monotonic_ns())

    def note_end(self, at_ns: int) -> None:
        """The payload came to its end, at that moment of CLOCK_MONOTONIC."""
        self._facts.wall_ns = self._due.lived_ns(at_ns)
        self._facts.paused_ns = self._due.paused_ns
        if self._sampling is not None:
            self._sampling.finish(at_ns)

    def wait_on(self, until_ns: int) -> None:
        """Its set-up may take until that moment of CLOCK_MONOTONIC."""
        self._due.setup_at = until_ns

    def remind(self, at_ns: int, callback: Callable[[], object]) -> None:
        """Call back once, at that moment of CLOCK_MONOTONIC or soon after it."""
        self._reminder = (at_ns, callback)

    # ---- what is known of it -------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the payload was let go."""
        return self._due.begun

    @property
    def phase(self) -> str:
        """``starting``, ``running``, ``paused`` or ``ending``, which is when it is being killed; that it is dead the clock does not see."""
        return self._due.phase

    def lived_ns(self, now: int) -> int:
        """How long the payload has had, pauses taken off."""
        return self._due.lived_ns(now)

    def stood_ns(self, now: int) -> int:
        """How long it was paused, with the present pause."""
        return self._due.stood_ns(now)

    def pids(self) -> list[int]:
        """Return every process of the run, nothing before `prepare`."""
        return self._sampling.pids() if self._sampling is not None else []

    def describe(self, at: Snapshot) -> Snapshot:
        """Return the snapshot with what the run uses now, as far as this host can tell."""
        return at if self._sampling is None else self._sampling.describe(at)

    # ---- what the loop asks --------------------------------------------------------------------------------

    def next_moments(self, resume_ns: int | None) -> tuple[int | None, int | None]:
        """Return when a limit may be passed, and when there is something to look at.

        Args:
            resume_ns: when denied calls, that are held up, may be answered again. In the past it says nothing: then the listener itself is waited for.
        """
        due = self._due.next_ns()
        if self._sampling is None:
            return due, resume_ns  # a payload that is executed ahead is denied calls, too
        phase = self._due.phase
        sample = self._sampling.next_ns if phase == "running" else None
        if phase == "paused" and not self._reins.frozen:
            sample = self._stop_watch.next_ns
        reminder = self._reminder[0] if self._reminder is not None else None
        if self._watched.sample:
            due, sample = earliest(due, sample), None  # a look may end the run
        view = self._watched.machine.next_ns if self._watched.machine is not None and phase == "running" else None
        if resume_ns is not None or self._settle_ns is not None or reminder is not None or view is not None:
            sample = earliest(sample, resume_ns, self._settle_ns, reminder, view)
        return due, sample

    def run_errands(self, now: int) -> None:
        """Do what was to be done at a time and ends no run."""
        if self._settle_ns is not None and now >= self._settle_ns:
            self._settle_ns = None
            if self._watched.meanwhile is not None:
                self._watched.meanwhile()
            self._short = set_slice(0, _SLICE_NS)
            set_slice(self._reins.init_pid, _SLICE_NS)
        if self._reminder is not None and now >= self._reminder[0]:
            (_, callback), self._reminder = self._reminder, None
            callback()

    def patience_is_over(self, now: int) -> bool:
        """Whether init, which was to kill everything, has not; then it has as long again."""
        if self._due.kill_at is None or now < self._due.kill_at:
            return False
        self._due.kill_at = now + PATIENCE_NS
        return True

    def judge(self, now: int) -> Verdict | None:
        """Look at what is to be looked at; return the limit that is passed, None where none is. A set-up that takes too long has failed."""
        due, sampling = self._due, self._sampling
        if due.setup_at is not None and now >= due.setup_at:
            due.setup_at = now + PATIENCE_NS
            return Verdict.SETUP_FAILED
        if sampling is None:
            return None
        phase = due.phase
        if phase != "running":
            return self._judge_stopped(sampling, now) if phase == "paused" and not self._reins.frozen else None
        if due.wall_at is not None and now >= due.wall_at:
            return Verdict.WALL_LIMIT
        if due.cpu_at is not None and now >= due.cpu_at and (passed := due.judge_cpu(now, used := sampling.cpu_ns())):
            self._facts.idle_ns = due.lived_ns(now) - used
            return Verdict.CPU_LIMIT if passed == "cpu" else Verdict.IDLE_LIMIT
        if sampling.next_ns is not None and now >= sampling.next_ns and not sampling.put_off(due.wall_at, now):
            sampling.look(now)
            return Verdict.MEMORY_LIMIT if sampling.over_memory else None
        machine = self._watched.machine
        if machine is not None and machine.next_ns is not None and now >= machine.next_ns:
            machine.look(now)
        return None

    def _judge_stopped(self, sampling: Sampling, now: int) -> Verdict | None:
        """Where what is stopped goes on by itself, its limits count, and it is stopped again."""
        if now < self._stop_watch.next_ns:
            return None
        used = sampling.cpu_ns()
        since = self._stop_watch.look(now, used)
        if since is None:
            return None
        self._reins.stop_again()
        cpu = self._watched.limits.cpu_ns
        if cpu is not None and used > cpu:
            return Verdict.CPU_LIMIT
        if self._due.count(since, now):
            return Verdict.WALL_LIMIT
        if self._watched.sample:
            sampling.look(now)
            if sampling.over_memory:
                return Verdict.MEMORY_LIMIT
        return None

    def close(self) -> None:
        """Take usual turns again; idempotent."""
        if self._short:
            self._short = False
            set_slice(0, 0)


__all__ = ["RunClock"]
