"""The moments at which the supervisor must look up from its descriptors: values, and the one timer that ends its wait.

`clock` looks at them. Nothing polls: each moment is the earliest at which a limit could be passed, so between two of them there is nothing to
look for. While a run is paused no moment of its limits comes: they are all moved by the length of the pause.
"""

from __future__ import annotations

import os
import time

from sandbox.kernel.calls import timerfd_create, timerfd_settime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.profile import Limits

SETUP_NS = 30_000_000_000
"""How long the set-up of a sandbox may take."""

PATIENCE_NS = 500_000_000
"""How long init may take to kill everything before it is killed itself, and what it would have told of usage is lost: many turns of a busy processor."""

_QUOTA_PERIOD_NS = 100_000_000
_STEP_NS = 1_000_000  # between two looks at CPU time
_LAZY_STEP_NS = 4_000_000  # the same, while the run hardly uses any
_SOON_NS, _LATE_NS = 20_000_000, 160_000_000  # between two looks at a pause without a freezer
_NOISE_NS = 1_000_000  # of CPU time, that the end of being stopped may take


class Deadlines:
    """When what is due, in CLOCK_MONOTONIC nanoseconds; None is never.

    Args:
        limits: wall, CPU and idle time allowed.
        cpus: processors of this host. Not those that the caller may use: a payload can widen its own affinity again, but no cpuset.
    """

    def __init__(self, limits: Limits, cpus: int) -> None:
        self._limits = limits
        self._cpus = len(limits.cpuset) or cpus
        self._began = 0
        self._looked = (0, 0)
        self._step = _STEP_NS
        self.setup_at: int | None = time.monotonic_ns() + SETUP_NS
        self.wall_at: int | None = None
        self.cpu_at: int | None = None
        self.kill_at: int | None = None
        self.paused_at: int | None = None
        self.paused_ns = 0

    def begin(self, now: int) -> None:
        """The payload was let go."""
        self._began = now
        self._looked = (now, 0)
        self.setup_at = None
        if self._limits.wall_ns is not None:
            self.wall_at = now + self._limits.wall_ns
        self.cpu_at = self._next_look(now, 0)

    @property
    def begun(self) -> bool:
        """Whether the payload was let go."""
        return self._began != 0

    @property
    def phase(self) -> str:
        """``starting``, ``running``, ``paused`` or, when it is being killed, ``ending``."""
        if self.kill_at is not None:
            return "ending"
        if not self._began:
            return "starting"
        return "running" if self.paused_at is None else "paused"

    def lived_ns(self, now: int) -> int:
        """How long the payload has had, pauses taken off."""
        return max(0, (now if self.paused_at is None else self.paused_at) - self._began - self.paused_ns) if self._began else 0

    def stood_ns(self, now: int) -> int:
        """How long all pauses were, with the present one."""
        return self.paused_ns + (now - self.paused_at if self.paused_at is not None else 0)

    def judge_cpu(self, now: int, used: int) -> str:
        """Return ``cpu`` or ``idle`` when that limit is passed, and nothing otherwise; then the time of the next look is set.

        Args:
            now: the time.
            used: CPU time of the run so far.
        """
        cpu, idle = self._limits.cpu_ns, self._limits.idle_ns
        if cpu is not None and used > cpu:
            return "cpu"
        if idle is not None and self.lived_ns(now) - used > idle:
            return "idle"
        # Close to the limit a run that sleeps would be looked at every millisecond for nothing; one that runs is, for it can pass at any.
        since, before = self._looked
        self._step = _STEP_NS if used - before > (now - since) // 4 else min(_LAZY_STEP_NS, 2 * self._step)
        self._looked = (now, used)
        self.cpu_at = self._next_look(now, used)
        return ""

    def _next_look(self, now: int, used: int) -> int | None:
        """Return when CPU time could first be passed, all processors working, or idle time, none working."""
        moments = []
        if self._limits.cpu_ns is not None:
            moments.append(self._soonest(self._limits.cpu_ns - used))
        if self._limits.idle_ns is not None:
            moments.append(self._limits.idle_ns - (self.lived_ns(now) - used))
        return now + max(self._step, min(moments) + 1) if moments else None

    def _soonest(self, cpu_ns: int) -> int:
        """Return in how much time the run can use that much CPU time at the earliest; a quota lets it use one period's worth at once."""
        soonest = cpu_ns // self._cpus
        if self._limits.cpu_quota_ppm is not None:
            at_once = self._limits.cpu_quota_ppm * _QUOTA_PERIOD_NS // 1_000_000
            soonest = max(soonest, (cpu_ns - at_once) * 1_000_000 // self._limits.cpu_quota_ppm)
        return soonest

    def hold(self, now: int) -> None:
        """The run is paused: nothing of it is due until `go_on`."""
        if self.paused_at is None:
            self.paused_at = now

    def go_on(self, now: int) -> None:
        """The pause is over: what was due is due as much later."""
        if self.paused_at is None:
            return
        pause = now - self.paused_at
        self.paused_at = None
        self.paused_ns += pause
        self._looked = (self._looked[0] + pause, self._looked[1])
        if self.wall_at is not None:
            self.wall_at += pause
        if self.cpu_at is not None:
            self.cpu_at += pause

    def count(self, since: int, now: int) -> bool:
        """Count a part of the pause after all, for the program ran in it; return whether the wall limit is passed."""
        self.go_on(since)
        self.hold(now)
        return self.wall_at is not None and self.wall_at <= now

    def doom(self, now: int) -> None:
        """The run is being killed: nothing but that is waited for."""
        self.go_on(now)
        self.setup_at = self.wall_at = self.cpu_at = None
        self.kill_at = now + PATIENCE_NS

    def next_ns(self) -> int | None:
        """Return the earliest moment of all."""
        return earliest(self.setup_at, self.kill_at, *(() if self.paused_at is not None else (self.wall_at, self.cpu_at)))


class StopWatch:
    """Whether what SIGSTOP has stopped goes on by itself, as by a SIGCONT of a timer: its CPU time is looked at, ever more rarely while nothing happens."""

    def __init__(self) -> None:
        self._looked = self._used = 0
        self._step = _SOON_NS

    def begin(self, now: int, used: int) -> None:
        """Everything has been told to stop."""
        self._looked, self._used, self._step = now, used, _SOON_NS

    @property
    def next_ns(self) -> int:
        """When to look."""
        return self._looked + self._step

    def look(self, now: int, used: int) -> int | None:
        """Return since when it may have run, None when it has not.

        Args:
            now: the time.
            used: its CPU time.
        """
        since = self._looked
        if used - self._used > _NOISE_NS:
            self.begin(now, used)
            return since
        self._looked, self._step = now, min(_LATE_NS, 2 * self._step)
        return None


class Alarm:
    """A timer whose descriptor becomes readable at a moment, to the nanosecond: poll's own timeout is in milliseconds."""

    def __init__(self) -> None:
        self.fd = timerfd_create()
        self._at: int | None = None

    def set(self, at_ns: int | None) -> None:
        """Ring at that moment of CLOCK_MONOTONIC, or never."""
        if at_ns != self._at:
            timerfd_settime(self.fd, at_ns)
            self._at = at_ns

    def close(self) -> None:
        """Close the timer; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def count_processors() -> int:
    """Return the processors of this host that are online; looked at anew once a second, for the C library reads a file."""
    global _processors
    now = time.monotonic_ns()
    if now >= _processors[1]:
        _processors = os.cpu_count() or 1, now + 1_000_000_000
    return _processors[0]


_processors = 1, 0


def earliest(*moments: int | None) -> int | None:
    """Return the first of several moments, None when none of them ever comes."""
    return min([moment for moment in moments if moment is not None], default=None)
