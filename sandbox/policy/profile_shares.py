"""Converters of the limits that say how much of processors and disks a run gets: cpus, cpuset, io-priority, io.

Pure. Only `profile_fields` imports this module.
"""

from __future__ import annotations

import re

from sandbox.policy.nearest import suggest
from sandbox.policy.profile import IoClass, IoLimit, IoPriority
from sandbox.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.places import Where

_MOST_PROCESSORS = 8192  # NR_CPUS of the largest kernels
_CPUS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?")
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_RATES = {"read": "read_bytes", "write": "write_bytes", "read-iops": "read_operations", "write-iops": "write_operations"}


def convert_cpus(value: object, where: Where) -> int:
    """Return millionths of a processor. The kernel takes no quota under 1 ms in its period of 100 ms."""
    text = str(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else ""
    if _CPUS.fullmatch(text) is None:
        where.fail(f"`{where.key}` must be a number of processors such as 1.5, not `{value!r}`")
    whole, _, part = text.partition(".")
    millionths = int(whole) * 1_000_000 + int((part + "000000")[:6])
    if not 10_000 <= millionths <= _MOST_PROCESSORS * 1_000_000:
        where.fail(f"`{where.key}` must be 0.01 to {_MOST_PROCESSORS}, not {text}")
    return millionths


def convert_cpuset(value: object, where: Where) -> tuple[int, ...]:
    """Return processors, ascending, of ``0-3,5``, a number or a list of numbers; ``none`` is all of them."""
    if value == "none":
        return ()
    numbers = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    found: set[int] = set()
    if isinstance(numbers, list) and numbers and all(isinstance(item, int) and not isinstance(item, bool) for item in numbers):
        found.update(numbers)
    elif isinstance(numbers, str):
        for part in numbers.split(","):
            match = _RANGE.fullmatch(part.strip())
            if match is None:
                where.fail(f"`{where.key}` has `{part}`, which is no processor", hint='write `"0-3,5"` or `[0, 1, 2, 3, 5]`')
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                where.fail(f"`{where.key}` has `{part}`, which runs backwards", hint=f"write `{last}-{first}`")
            found.update(range(first, min(last, _MOST_PROCESSORS) + 1))
    else:
        where.fail(f"`{where.key}` must name processors, not `{value!r}`", hint='write `"0-3,5"` or `[0, 1, 2, 3, 5]`')
    if not 0 <= min(found) <= max(found) < _MOST_PROCESSORS:
        where.fail(f"`{where.key}` must name processors 0 to {_MOST_PROCESSORS - 1}")
    return tuple(sorted(found))


def convert_io_priority(value: object, where: Where) -> IoPriority:
    """Return class and level of ``idle``, ``best-effort`` or ``best-effort:0`` to ``best-effort:7``."""
    kind, colon, level = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == IoClass.IDLE and not colon:
        return IoPriority(kind=IoClass.IDLE, level=7)
    if kind == IoClass.BEST_EFFORT and (not colon or (len(level) == 1 and level in "01234567")):
        return IoPriority(kind=IoClass.BEST_EFFORT, level=int(level or 4))
    where.fail(f"`{where.key}` must be `idle`, or `best-effort` with a level such as `best-effort:7` (0 first, 7 last), not `{value}`")


def convert_io(value: object, where: Where) -> tuple[IoLimit, ...]:
    """Return the limits of one table, a list of tables, or a text ``DEVICE,read=10M,write=5M,read-iops=100;DEVICE,…``."""
    if value == "none":
        return ()
    if isinstance(value, str):
        tables = [_table(text, where) for text in value.split(";")]
    elif isinstance(value, dict):
        tables = [value]
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        tables = value
    else:
        where.fail(
            f"`{where.key}` must be a table or a list of tables, not `{value!r}`",
            hint='{ device = "/dev/sda", read = "10M", write-iops = 100 }',
        )
    limits = tuple(_io_limit(table, where) for table in tables)
    devices = [limit.device for limit in limits]
    for device in devices:
        if devices.count(device) > 1:
            where.fail(f"`{where.key}` has the device `{device}` twice")
    return limits


def _table(text: str, where: Where) -> dict[str, object]:
    device, *pairs = text.strip().split(",")
    table: dict[str, object] = {"device": device}
    for pair in pairs:
        key, equals, value = pair.strip().partition("=")
        if not equals or key in table:
            where.fail(
                f"`{where.key}` has `{pair}`, which is not KEY=VALUE, or there twice",
                hint="for example `io=/dev/sda,read=10M,write-iops=100`",
            )
        table[key] = int(value) if value.isascii() and value.isdecimal() and len(value) <= 20 else value
    return table


def _io_limit(table: dict[str, object], where: Where) -> IoLimit:
    known = ("device", *_RATES)
    for key in table:
        if key not in known:
            where.fail(f"unknown key `{where.key}.{key}`", hint=suggest(key, known))
    device = table.get("device")
    if not isinstance(device, str) or not device or any(character in device for character in "\0\n"):
        where.fail(
            f"`{where.key}` needs a `device`", hint="a block device, MAJOR:MINOR, or a path: then it is the disk below its file system"
        )
    rates: dict[str, int] = {}
    for key, attribute in _RATES.items():
        if key not in table:
            continue
        value = table[key]
        if key.endswith("iops"):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 0xFFFFFFFF:
                where.fail(f"`{where.key}.{key}` must be 1 to 4294967295 operations a second, not `{value}`")
            rates[attribute] = value
        else:
            rates[attribute] = parse_size(value, where=f"{where.origin}, {where.key}.{key}")
            if rates[attribute] < 4096:
                where.fail(f"`{where.key}.{key}` must be at least 4096 bytes a second, not `{value}`")
    if not rates:
        where.fail(f"`{where.key}` limits nothing of `{device}`", hint=f"one of {', '.join(_RATES)}")
    return IoLimit(device=device, **rates)
