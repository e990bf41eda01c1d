"""What may grow while sandboxes come and go, looked at while none runs, and whether it does: a line through the second half of the samples."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Sample = Mapping[str, float]
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_COUNT_RISE = 1.5
"""A count that rises by more than this along the fitted line, and by more than thrice what it is off that line at a look, grows: a pool has a few descriptors
more once it has looked after those that are next."""

_BYTES_RISE = 1.5 * 2**20
_BYTES_SHARE = 0.04
"""Memory that rises by more than both of these grows: allocators keep some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The line through one figure's second half of samples."""

    name: str
    first: float
    middle: float
    last: float
    rise: float
    per_thousand: float
    grows: bool


def take_sample(directories: Mapping[str, Path]) -> dict[str, float]:
    """Return figures of this process, of all below it, and of directories; bytes end in ``bytes``, all else is a count.

    Args:
        directories: by the name of the figure, what is to be counted, with everything below.
    """
    below = _descendants(os.getpid())
    found: dict[str, float] = {
        "client fds": len(os.listdir("/proc/self/fd")),
        "client threads": len(os.listdir("/proc/self/task")),
        "client mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "client rss bytes": _resident(os.getpid()),
        "client pss bytes": _proportional(os.getpid()),
        "processes": len(below),
        "zombies": sum(_state(pid) == "Z" for pid in below),
    }
    fds = mounts = resident = proportional = 0.0
    namespaces: set[str] = set()
    for pid in below:
        resident += _resident(pid)
        proportional += _proportional(pid)
        fds += len(_list(f"/proc/{pid}/fd"))
        try:
            mounts += len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
        except OSError:
            pass
        for kind in _NAMESPACES:
            try:
                namespaces.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            except OSError:
                pass
    found |= {
        "others rss bytes": resident, "others pss bytes": proportional, "others fds": fds, "others mounts": mounts, "namespaces": len(namespaces),
        "cgroups": _cgroups(),
    }  # fmt: skip
    for name, directory in directories.items():
        found[name] = sum(len(names) + len(files) for _, names, files in os.walk(directory))
    return found


def judge(runs: Sequence[int], samples: Sequence[Sample]) -> list[Growth]:
    """Fit a line through the second half of every figure, against the number of runs."""
    if len(samples) < 4:
        return []
    half = len(samples) // 2
    x = runs[half:]
    found = []
    for name in samples[-1]:
        values = [sample.get(name, 0.0) for sample in samples]
        y = values[half:]
        slope = _slope(x, y)
        rise = slope * (x[-1] - x[0])
        bound = max(_BYTES_RISE, _BYTES_SHARE * values[half]) if name.endswith("bytes") else max(_COUNT_RISE, 3 * _deviation(x, y, slope))
        found.append(
            Growth(name=name, first=values[0], middle=values[half], last=values[-1], rise=rise, per_thousand=1000 * slope, grows=rise > bound)
        )
    return found


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the median of the slopes between all pairs (Theil and Sen): single looks at which something was just ending do not turn it."""
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x)) if x[j] > x[i]]
    return statistics.median(slopes) if slopes else 0.0


def _deviation(x: Sequence[float], y: Sequence[float], slope: float) -> float:
    """Return the median of what the values are off the line."""
    level = [value - slope * at for at, value in zip(x, y, strict=True)]
    middle = statistics.median(level)
    return statistics.median(abs(value - middle) for value in level)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in _list("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(text[text.rindex(")") + 2 :].split()[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _cgroups() -> int:
    """Return how many cgroups of this user's runs there are."""
    found = [os.path.join(root, name) for root, names, _ in os.walk("/sys/fs/cgroup") for name in names if "sandbox" in name]
    return sum(os.path.exists(path) and os.stat(path).st_uid == os.geteuid() for path in found)


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # gone, or not ours to look at
        return []


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text[text.rindex(")") + 2]


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0.0


def _proportional(pid: int) -> float:
    """Return the PSS, 0 where it may not be read."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("Pss:")), 0.0)
