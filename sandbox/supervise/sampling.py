"""Looking at the run from time to time, where no counter keeps what is asked: at most a twentieth of one processor.

Kernels keep one peak of all memory together, page cache included; of anonymous, file and kernel memory apart there is only the present value. So
the cgroup is read every now and then, and the result says how far apart in time and in bytes these looks were. Without a cgroup the tree is
added up by /proc, and then sampling also enforces. Nothing is decided here; `over_memory` says that the run is past a limit that only sampling enforces.
"""

from __future__ import annotations

import time

from sandbox.cgroup.none import TreeSampler, process_cpu_ns
from sandbox.errors import SandboxError
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cgroup.model import CgroupNow, CgroupRun
    from sandbox.policy.profile import Limits
    from sandbox.supervise.records import Collected, Snapshot

_INTERVAL_NS = 20_000_000
_FIRST_NS = 5_000_000
_CLOSEST_NS = 2_000_000
_SHARE = 20  # of the time between two looks, at most one in this many goes into looking
_BYTES_A_NS = 4  # how fast a process can fill fresh pages, at most


class Sampling:
    """Samples of one run, into its facts. Made while the payload waits to be let go: what was used until then is not its own.

    Args:
        init_pid: root of the tree.
        payload_pid: the process that waits.
        limits: what was asked for.
        enforced: the limits that sampling enforces.
        facts: where peaks are kept.
        cgroup: the run's, where there is one.
    """

    def __init__(
        self, init_pid: int, payload_pid: int, limits: Limits, enforced: frozenset[str], facts: Collected, cgroup: CgroupRun | None
    ) -> None:
        self._init_pid = init_pid
        self._tree = TreeSampler(init_pid)
        self._limits = limits
        self._enforced = enforced
        self._facts = facts
        self._cgroup = cgroup
        self._looked_ns = time.monotonic_ns()
        self._before: int | None = None
        self.over_memory = False
        self.cost_ns = 0
        self.next_ns: int | None = self._looked_ns + _FIRST_NS if enforced or cgroup is not None else None
        facts.setup_init_ns = process_cpu_ns(init_pid)
        facts.setup_payload_ns = process_cpu_ns(payload_pid)
        facts.setup_cgroup_ns = cgroup.cpu_ns() if cgroup is not None else 0

    def pids(self) -> list[int]:
        """Return every process of the run, init first."""
        return self._tree.pids()

    def cpu_ns(self) -> int:
        """Return the CPU time of the payload so far, in nanoseconds: without what setting it up took, and without init's."""
        facts = self._facts
        init = process_cpu_ns(self._init_pid)
        if self._cgroup is not None:
            used = self._cgroup.cpu_ns() - facts.setup_cgroup_ns - max(0, init - facts.setup_init_ns)
        else:
            used = self._tree.cpu_ns() - init - facts.setup_payload_ns
        facts.sampled_cpu_ns = max(facts.sampled_cpu_ns, used)
        return facts.sampled_cpu_ns

    def look(self, now: int) -> None:
        """Take one sample and set the time of the next."""
        step = _INTERVAL_NS
        if self._enforced:
            step = self._look_at_tree()
        if self._cgroup is not None:
            self._look_at_cgroup(self._cgroup, now)
        after = time.monotonic_ns()
        self.cost_ns = after - now
        self._facts.sampling_ns += self.cost_ns
        if self.next_ns is not None:
            self.next_ns = after + max(step, _SHARE * self.cost_ns)

    def _look_at_tree(self) -> int:
        """Add up the tree; return how long its memory limit cannot be passed by much."""
        sample = self._tree.sample()
        facts, limit = self._facts, self._limits.memory_bytes
        facts.samples += 1
        facts.sampled_processes = max(facts.sampled_processes, sample.threads)
        facts.sampled_file_bytes = max(facts.sampled_file_bytes, sample.file_bytes)
        facts.sampled_table_bytes = max(facts.sampled_table_bytes, sample.table_bytes)
        memory = sample.rss_bytes
        # What ends between two looks may be lost to the account of CPU time: look as often as may be.
        longest = _CLOSEST_NS if self._tree.vanishing else _INTERVAL_NS
        if limit is None or "memory" not in self._enforced:
            return longest
        if memory > limit:
            memory = min(memory, self._tree.proportional_bytes())
            self.over_memory = memory > limit or sample.truncated
        facts.sampled_memory_bytes = max(facts.sampled_memory_bytes, memory)
        return max(_CLOSEST_NS, min(longest, (limit - memory) // _BYTES_A_NS))

    def _look_at_cgroup(self, cgroup: CgroupRun, now: int) -> None:
        seen = cgroup.current()
        facts = self._facts
        parts = (seen.memory_anon_bytes, seen.memory_file_bytes, seen.memory_kernel_bytes)
        if all(part is None for part in parts):
            if not self._enforced:
                self.next_ns = None  # this kernel keeps no such figures
            return
        facts.memory_peaks = tuple(_larger(peak, part) for peak, part in zip(facts.memory_peaks, parts, strict=True))
        facts.memory_samples += 1
        facts.memory_gap_ns = max(facts.memory_gap_ns, now - self._looked_ns)
        held = (seen.memory_anon_bytes or 0) + (seen.memory_kernel_bytes or 0)
        if self._before is not None:
            facts.memory_step_bytes = max(facts.memory_step_bytes, abs(held - self._before))
        self._before = held
        self._looked_ns = now

    def put_off(self, wall_at: int | None, now: int) -> bool:
        """Whether a look now would make the wall limit late; then it waits until after that, when it is of no use any more."""
        if wall_at is None or now + self.cost_ns < wall_at:
            return False
        self.next_ns = wall_at
        return True

    def finish(self, end_ns: int) -> None:
        """The run has ended: the time since the last look is a gap like any other."""
        if self._cgroup is None and self._tree.estimated_ns:
            used = self._tree.estimated_ns - self._facts.setup_init_ns - self._facts.setup_payload_ns
            self._facts.sampled_cpu_ns = max(self._facts.sampled_cpu_ns, used)
        if self._facts.memory_samples:
            self._facts.memory_gap_ns = max(self._facts.memory_gap_ns, end_ns - self._looked_ns)

    def describe(self, at: Snapshot) -> Snapshot:
        """Return the snapshot with what the run uses now."""
        try:
            at = replace(at, cpu_ns=self.cpu_ns())
            if self._cgroup is not None:
                now = self._cgroup.current()
                if now.memory_bytes is not None:
                    return _fill(at, now)
            sample = self._tree.sample()
            return replace(at, memory_bytes=sample.rss_bytes, processes=sample.threads)
        except SandboxError:
            return at  # it is about to end, or its cgroup is gone already


def _fill(at: Snapshot, now: CgroupNow) -> Snapshot:
    return replace(
        at,
        memory_bytes=now.memory_bytes,
        memory_anon_bytes=now.memory_anon_bytes,
        memory_file_bytes=now.memory_file_bytes,
        memory_kernel_bytes=now.memory_kernel_bytes,
        processes=now.processes,
    )


def _larger(peak: int | None, value: int | None) -> int | None:
    return value if peak is None else peak if value is None else max(peak, value)
