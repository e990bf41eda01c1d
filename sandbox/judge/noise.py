"""A bounded probe: how far the CPU time of one fixed piece of work spreads on this host, alone and with every worker busy.

The work runs as submissions do, each time in a fresh sandbox under their profile, and is measured by the same counters. Only `judge environment` uses it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sandbox.judge.host import Tree, read_ticks, steal_share
from sandbox.judge.repeat import Spread, measure_spread
from sandbox.record import dataclass

WORK = ("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done")
"""The fixed piece of work: any host has it, it needs no file and no memory to speak of. Programs that touch much memory vary more."""

QUIET_RATIO = 1.05
NOISY_RATIO = 1.15
LEAST_RUNS = 5
MOST_RUNS = 40
_WALL = "20s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One run of the work, in nanoseconds."""

    cpu_ns: int
    wall_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What the probe measured.

    Attributes:
        alone: CPU times of the work, one run at a time.
        busy: with `workers` of them at a time.
        wall_alone: wall times, likewise.
        wall_busy: likewise.
        workers: how many ran at a time.
        steal: share of the wanted time that a virtual machine's host took meanwhile, None where it is not known.
        cpu_source: what counted CPU time; `memory_source` what would have counted memory, None for nothing.
        weaker: what the sandbox could not enforce as asked, in words.
    """

    alone: Spread
    busy: Spread
    wall_alone: Spread
    wall_busy: Spread
    workers: int
    steal: float | None = None
    cpu_source: str = ""
    memory_source: str | None = None
    weaker: tuple[str, ...] = ()

    @property
    def slowdown(self) -> float:
        """How many times as much CPU time the work takes with all workers busy."""
        return self.busy.median / self.alone.median if self.alone.median else 1.0

    @property
    def worst(self) -> float:
        """The slowest run as a multiple of the fastest: what a time limit must leave room for, at least."""
        fastest = min(self.alone.minimum, self.busy.minimum)
        return max(self.alone.maximum, self.busy.maximum) / fastest if fastest else 1.0

    @property
    def judgement(self) -> str:
        """In one sentence, what the figures mean for time limits."""
        ratio = max(self.alone.ratio, self.busy.ratio)
        word = "quiet" if ratio < QUIET_RATIO else "usable" if ratio < NOISY_RATIO else "noisy"
        return f"{word}: the same work took up to {self.worst:.2f} times as long; a limit that is no further from a right solution's time is chance"

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {
            "work": list(WORK), "workers": self.workers,
            "cpu_alone_ns": self.alone.to_dict(), "cpu_busy_ns": self.busy.to_dict(),
            "wall_alone_ns": self.wall_alone.to_dict(), "wall_busy_ns": self.wall_busy.to_dict(),
            "slowdown": round(self.slowdown, 4), "worst": round(self.worst, 4), "steal": None if self.steal is None else round(self.steal, 6),
            "cpu_source": self.cpu_source, "memory_source": self.memory_source, "weaker": list(self.weaker), "judgement": self.judgement,
        }  # fmt: skip


def measure_noise(
    workers: int, budget_ns: int, run: Callable[[], Timing], *, tree: Tree | None = None, clock: Callable[[], int] = time.monotonic_ns
) -> Noise:
    """Run the work alone and then beside itself, and return the figures.

    Args:
        workers: how many at a time in the second half, at least 1.
        budget_ns: when to begin no more runs, half for each part; at least `LEAST_RUNS` and at most `MOST_RUNS` a worker are made.
        run: does the work once and returns its times.
        tree: where ``/proc/stat`` is.
        clock: the time.

    Raises:
        SandboxError: the work could not be run.
    """
    tree = tree or Tree()
    before = read_ticks(tree)
    run()  # what the first run finds is cold
    alone = _repeat(run, clock() + budget_ns // 2, clock)
    end = clock() + budget_ns // 2
    found: list[Timing] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            found.extend(_repeat(run, end, clock))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, name=f"noise-{number}") for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Noise(
        alone=measure_spread(each.cpu_ns for each in alone),
        busy=measure_spread(each.cpu_ns for each in found),
        wall_alone=measure_spread(each.wall_ns for each in alone),
        wall_busy=measure_spread(each.wall_ns for each in found),
        workers=workers,
        steal=steal_share(before, read_ticks(tree)),
    )


def _repeat(run: Callable[[], Timing], end: int, clock: Callable[[], int]) -> list[Timing]:
    found: list[Timing] = []
    while len(found) < LEAST_RUNS or (len(found) < MOST_RUNS and clock() < end):
        found.append(run())
    return found


def probe_noise(workers: int, budget_ns: int, profile: str = "judge") -> Noise:
    """Measure in sandboxes.

    Args:
        workers: as for `measure_noise`.
        budget_ns: likewise.
        profile: under which the work runs.

    Raises:
        SandboxError: the sandbox failed, or the work did not end well.
    """
    from sandbox.api import RunFailed
    from sandbox.api.session import Sandbox
    from sandbox.record import replace

    with Sandbox(profile, limits={"wall": _WALL, "cpu": _WALL, "processes": 4}) as box:

        def run() -> Timing:
            result = box.run(WORK)
            if not result.ok:
                raise RunFailed(result)
            seen.append(
                (result.usage.cpu_source, result.usage.memory_source, tuple(each.weaker for each in result.enforced if each.weaker))
            )
            return Timing(cpu_ns=result.usage.cpu_ns, wall_ns=result.usage.wall_ns)

        seen: list[tuple[str, str | None, tuple[str, ...]]] = []
        noise = measure_noise(workers, budget_ns, run)
    cpu_source, memory_source, weaker = seen[-1]
    return replace(noise, cpu_source=cpu_source, memory_source=memory_source, weaker=weaker)
