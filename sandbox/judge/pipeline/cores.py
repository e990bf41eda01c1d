"""How many programs may be measured at a time without sharing a core, and whether more than that want one now."""

from __future__ import annotations

import os

_BUSY = 1.5


def count_cores(root: str = "/sys/devices/system/cpu") -> int:
    """Return the physical cores that this process may use, at least 1; two threads of one core slow each other down and count once.

    Args:
        root: where the kernel describes processors; what it does not tell apart counts as a core each.
    """
    cores = set()
    for number in os.sched_getaffinity(0):
        try:
            cores.add(tuple(_read(f"{root}/cpu{number}/topology/{name}") for name in ("physical_package_id", "core_id")))
        except OSError:
            cores.add((str(number), "unknown"))
    return max(1, len(cores))


def is_busy() -> bool:
    """Whether more programs want a processor than there are, which makes wall times longer."""
    try:
        return os.getloadavg()[0] > _BUSY * len(os.sched_getaffinity(0))
    except OSError:
        return False


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


__all__ = ["count_cores", "is_busy"]
