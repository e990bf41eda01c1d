"""CPU time that the kernel adds to nobody: of processes that ended while their parent ignored SIGCHLD, or had SA_NOCLDWAIT. Pure; `none` feeds it.

What a sample saw of a process that is gone by the next was used; if all that anybody has waited for is less than that, nobody waited. That is a proof: of
honest programs, whose parents wait, it is never true. From then on what has ended counts with what was seen of it and half of the time until it was missed;
where it was seen once only, others came and went like it, and the whole time counts: a program chooses how long its processes live, not when they are seen.
"""

from __future__ import annotations

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST_STEP_NS = 100_000_000
"""A sampler that was itself kept waiting for longer than that knows nothing of the time between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A process in one sample.

    Attributes:
        start: when it was started, in the kernel's ticks; tells it from another one with the same number.
        cpu_ns: CPU time of its own.
        waited_ns: of children that it waited for, rounded down.
        waited_faults: page faults of those; every process has some.
        runs: it ran or waited for a processor, or has threads that may have.
    """

    start: int
    cpu_ns: int
    waited_ns: int
    waited_faults: int
    runs: bool


class Unheeded:
    """Finds out whether CPU time gets lost in a tree of processes, and how much about.

    Args:
        tick_ns: in which `Seen.waited_ns` is told; it is a sum of two such figures.
        cpus: how many processors there are.
    """

    def __init__(self, tick_ns: int, cpus: int) -> None:
        self._slack_ns = 2 * tick_ns
        self._cpus = cpus
        self._at_ns = 0
        self._living: dict[int, Seen] = {}
        self._older: frozenset[int] = frozenset()  # of the living, those that the sample before had as well
        self._first_faults: dict[int, int] = {}
        self._ended_ns = 0
        self._before_ns = 0  # `_ended_ns` as of the sample before the last
        self.proved = False
        self.ended_ns = 0
        """What the processes used, about, that ended between samples."""
        self.vanishing = False
        """Whether something ended between the last two samples."""

    @property
    def total_ns(self) -> int:
        """CPU time of the living as of the last sample, and of the ended, about."""
        return self.ended_ns + sum(each.cpu_ns for each in self._living.values())

    def take(self, now_ns: int, seen: dict[int, Seen], look: Callable[[int], Seen | None]) -> None:
        """Take a sample.

        Args:
            now_ns: CLOCK_MONOTONIC.
            seen: the processes that it found, by number; taken.
            look: looks at one again: a process that moves in the tree while that is walked may be missed.
        """
        ended: dict[int, Seen] = {}
        for pid, old in self._living.items():
            new = seen.get(pid)
            if new is None and (new := look(pid)) is not None and new.start == old.start:
                seen[pid] = new
            if new is None or new.start != old.start:
                ended[pid] = old
                self._first_faults.pop(pid, None)
        self._prove(seen, [*ended.values()])
        self._ended_ns += sum(each.cpu_ns for each in ended.values())
        self._estimate(min(now_ns - self._at_ns, _LONGEST_STEP_NS), ended)
        self._older = frozenset(self._living) & seen.keys()
        self._living, self._at_ns, self.vanishing = seen, now_ns, bool(ended)

    def _estimate(self, gap_ns: int, ended: Mapping[int, Seen]) -> None:
        known = {pid for pid in ended if pid in self._older}
        halves = sum(ended[pid].runs for pid in known)
        wholes = sum(each.runs for pid, each in ended.items() if pid not in known)
        self.ended_ns += sum(ended[pid].cpu_ns for pid in known) + gap_ns * min(halves, self._cpus) // 2 + gap_ns * min(wholes, self._cpus)

    def _prove(self, seen: Mapping[int, Seen], ended: list[Seen]) -> None:
        """Compare what was seen of processes that had ended by the sample before last with what is waited for by now.

        Who waited may have ended meanwhile, and handed it on to who waited for that one, or will when it is read next: what it had counts as well.
        """
        for pid, each in seen.items():
            self._first_faults.setdefault(pid, each.waited_faults)
        hide = sum(each.waited_faults != self._first_faults[pid] for pid, each in seen.items())
        waited = sum(each.waited_ns for each in (*seen.values(), *ended))
        self.proved = self.proved or self._before_ns > waited + self._slack_ns * (1 + hide + len(ended))
        self._before_ns = self._ended_ns


__all__ = ["Seen", "Unheeded"]
