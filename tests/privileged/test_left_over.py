"""Cgroup v1 as root, many times: runs back to back, and supervisors that are killed at random moments, leave nothing.

Slow; ``./dev test --slow tests/privileged/test_left_over.py -s`` prints the figures. SANDBOX_RUNS and SANDBOX_KILLS change the numbers.
"""

from __future__ import annotations

import glob
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

import sandbox
from sandbox.api import prepare as preparing
from sandbox.cgroup.mounts import read_hierarchies

pytestmark = [pytest.mark.cgroup1, pytest.mark.slow, pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

RUNS = int(os.environ.get("SANDBOX_RUNS", "1000"))
KILLS = int(os.environ.get("SANDBOX_KILLS", "500"))
MARK = f"left{os.getpid()}x"


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give our runs a name of their own: somebody else may be running sandboxes on this machine."""
    original = preparing.Prepared

    def prepared(**fields: object) -> preparing.Prepared:
        return original(**{**fields, "run_id": f"{MARK}-{os.urandom(4).hex()}"})  # type: ignore[arg-type]

    monkeypatch.setattr(preparing, "Prepared", prepared)


@pytest.fixture(autouse=True)
def alone(marked: None) -> Iterator[None]:
    """Leave out who was there before, such as the session's watcher of tests/limits."""
    others.update(processes())
    yield
    others.clear()


others: set[int] = set()


def cgroups() -> list[str]:
    return [path for hierarchy in read_hierarchies() for path in glob.glob(f"{hierarchy.point}/sandbox-{MARK}-*")]


def processes() -> list[int]:
    """Return our descendants but for zombies and `others`; this process is their subreaper, so that nobody is lost."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = [int(word) for word in file.read().split()]
    found = []
    for pid in children:
        try:
            with open(f"/proc/{pid}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state == "Z":
            os.waitpid(pid, 0)
        elif pid not in others:
            found.append(pid)
    return found


def until_nothing(seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while cgroups() or processes():
        assert time.monotonic() < end, (cgroups(), processes())
        select.select([], [], [], 0.005)


LIMITS = {"memory": "64M", "cpus": 1, "cpuset": "0", "wall": "900s"}


def test_runs_back_to_back() -> None:
    descriptors = os.listdir("/proc/self/fd")
    took = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        assert sandbox.run(["true"], profile="strict", limits=LIMITS, require_cgroup=True).ok
        took.append(time.perf_counter() - begin)
    assert cgroups() == [] and processes() == []
    assert os.listdir("/proc/self/fd") == descriptors
    took.sort()
    print(f"\n{RUNS} runs: median {took[RUNS // 2] * 1e3:.1f} ms, p99 {took[RUNS * 99 // 100] * 1e3:.1f} ms, nothing left")


def kill_at(moment: Callable[[], float], turn: int) -> tuple[str, float]:
    """Kill a supervisor at a moment, of every fourth when it has its cgroups already; turn 0 lets it end and says how long that took."""
    begin = time.monotonic()
    client = os.fork()
    if client == 0:
        try:
            sandbox.run(["sh", "-c", "sleep 900 & sleep 900" if turn else "true"], profile="strict", limits=LIMITS, require_cgroup=True)
        finally:
            os._exit(0)
    if turn == 0:
        os.waitpid(client, 0)
        return "end", time.monotonic() - begin
    end = time.monotonic() + 60
    while turn % 4 == 0 and not cgroups() and time.monotonic() < end:
        select.select([], [], [], 0.001)
    select.select([], [], [], moment())
    state = "run" if cgroups() else "before"
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    return state, 0.0


@pytest.mark.orphans
def test_supervisors_killed_at_random_moments() -> None:
    sandbox.run(["true"], profile="strict", limits=LIMITS)
    chosen = random.Random(5)
    _, span = kill_at(lambda: 0, 0)
    span *= 1.5
    counts = {"before": 0, "run": 0}
    for turn in range(1, KILLS + 1):
        state, _ = kill_at(lambda: chosen.uniform(0, span), turn)
        counts[state] += 1
        if turn % 25 == 0:
            until_nothing()
    until_nothing()
    print(f"\n{KILLS} kills within {span * 1e3:.0f} ms: {counts}, nothing left")
    assert counts["run"] >= KILLS // 10, "hardly one was killed while it had cgroups"
