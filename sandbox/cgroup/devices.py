"""Which block device a profile means, and which processors: texts to numbers, with the host's answers.

`v1` and `v2` import it. Reads, never writes.
"""

from __future__ import annotations

import os
import re
import stat

from sandbox.errors import UnsupportedError
from sandbox.policy.profile import IoLimit

_NUMBERS = re.compile(r"([0-9]{1,4}):([0-9]{1,7})")


def resolve_device(text: str, *, sys: str = "/sys") -> str:
    """Return ``MAJOR:MINOR`` of the whole disk that is meant; the kernel limits nothing smaller.

    Args:
        text: ``MAJOR:MINOR``, a block device's path, or any path: then it is the disk below its file system.
        sys: where sysfs is mounted.

    Raises:
        UnsupportedError: there is no such disk: a file system of several disks, of the network, or of memory.
    """
    match = _NUMBERS.fullmatch(text)
    if match is not None:
        number = f"{int(match[1])}:{int(match[2])}"
    else:
        try:
            state = os.stat(text)
        except OSError as error:
            raise UnsupportedError(f"the block device `{text}`", "limits.io", reason=error.strerror) from None
        device = state.st_rdev if stat.S_ISBLK(state.st_mode) else state.st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
    place = os.path.realpath(f"{sys}/dev/block/{number}")
    if not os.path.isdir(place):
        raise UnsupportedError(
            f"a block device below `{text}`", "limits.io", reason=f"device {number} is no disk",
            hint="name the disk itself, as /dev/sda; a file system of several disks has no single one",
        )  # fmt: skip
    if os.path.exists(f"{place}/partition"):
        with open(f"{os.path.dirname(place)}/dev") as file:
            number = file.read().strip()
    return number


def io_rates(limit: IoLimit) -> tuple[tuple[str, int | None], ...]:
    """Return the four rates of a limit by the names that io.max has for them."""
    return (
        ("rbps", limit.read_bytes),
        ("wbps", limit.write_bytes),
        ("riops", limit.read_operations),
        ("wiops", limit.write_operations),
    )


def format_processors(numbers: tuple[int, ...]) -> str:
    """Return processors as the kernel writes them: ``0-2,5``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
