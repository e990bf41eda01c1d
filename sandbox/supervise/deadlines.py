"""The moments at which the supervisor must look up from its descriptors; values only, the monitor acts on them."""

from __future__ import annotations

import os
import time

from sandbox.policy.profile import Limits

SETUP_NS = 30_000_000_000
"""How long the set-up of a sandbox may take."""

PATIENCE_NS = 50_000_000
"""How long init may take to kill everything before it is killed itself."""

_CPU_STEP_NS = 1_000_000


class Deadlines:
    """When what is due, in CLOCK_MONOTONIC nanoseconds; None is never.

    Args:
        limits: the wall and CPU time allowed.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cpus = len(os.sched_getaffinity(0)) or 1
        self.setup_at: int | None = time.monotonic_ns() + SETUP_NS
        self.wall_at: int | None = None
        self.cpu_at: int | None = None
        self.kill_at: int | None = None

    def begin(self, now: int) -> None:
        """The payload was let go."""
        self.setup_at = None
        if self._limits.wall_ns is not None:
            self.wall_at = now + self._limits.wall_ns
        if self._limits.cpu_ns is not None:
            self.cpu_at = now + self._limits.cpu_ns // self._cpus

    def cpu_passed(self, now: int, used: int) -> bool:
        """Whether the CPU limit is passed; if not, look again when all processors together could first have used what is left."""
        limit = self._limits.cpu_ns
        if limit is None:
            return False
        self.cpu_at = now + max(_CPU_STEP_NS, (limit - used) // self._cpus)
        return used > limit

    def doomed(self, now: int) -> None:
        """The run is being killed: nothing but that is waited for."""
        self.setup_at = self.wall_at = self.cpu_at = None
        self.kill_at = now + PATIENCE_NS

    def next_ns(self, *others: int | None) -> int | None:
        """Return the earliest moment of all."""
        moments = (self.setup_at, self.wall_at, self.cpu_at, self.kill_at, *others)
        return min((moment for moment in moments if moment is not None), default=None)
