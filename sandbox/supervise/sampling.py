"""Looking at the run from time to time, where nothing tells by itself: the tree by /proc, at most a twentieth of one processor.

Decides nothing; `over_memory` says that the run is past a limit which only sampling enforces.
"""

from __future__ import annotations

import time

from sandbox.cgroup.none import TreeSampler
from sandbox.policy.profile import Limits
from sandbox.supervise.records import Collected

_INTERVAL_NS = 20_000_000
_SHARE = 20  # of the time between two looks, at most one in this many goes into looking


class Sampling:
    """Samples of one run, into its facts.

    Args:
        init_pid: root of the tree.
        limits: what was asked for.
        enforced: the limits that sampling enforces.
        facts: where peaks are kept.
    """

    def __init__(self, init_pid: int, limits: Limits, enforced: frozenset[str], facts: Collected) -> None:
        self._tree = TreeSampler(init_pid)
        self._limits = limits
        self._enforced = enforced
        self._facts = facts
        self.over_memory = False
        self.next_ns: int | None = time.monotonic_ns() + _INTERVAL_NS // 4 if enforced else None

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree, in nanoseconds."""
        used = self._tree.sample().cpu_ns
        self._facts.sampled_cpu_ns = max(self._facts.sampled_cpu_ns, used)
        return used

    def look(self, now: int) -> None:
        """Take one sample and set the time of the next."""
        sample = self._tree.sample()
        facts, limit = self._facts, self._limits.memory_bytes
        facts.samples += 1
        facts.sampled_cpu_ns = max(facts.sampled_cpu_ns, sample.cpu_ns)
        facts.sampled_processes = max(facts.sampled_processes, sample.threads)
        memory = sample.rss_bytes
        if limit is not None and memory > limit and "memory" in self._enforced:
            memory = min(memory, self._tree.proportional_bytes())
            self.over_memory = memory > limit or sample.truncated
        facts.sampled_memory_bytes = max(facts.sampled_memory_bytes, memory)
        self.next_ns = now + max(_INTERVAL_NS, _SHARE * (time.monotonic_ns() - now))
