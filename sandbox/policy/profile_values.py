"""Converters that several groups of profile keys share: texts, booleans, sizes, paths inside.

Pure. `profile_fields`, the modules beside it, and `rootfs` import this module.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from sandbox.policy.places import Where
from sandbox.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

Converter: TypeAlias = Callable[[object, Where], object]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def string(value: object, where: Where) -> str:
    """Return a text without control characters."""
    if not isinstance(value, str):
        where.fail(f"`{where.key}` must be text, not `{value!r}`")
    if _CONTROL.search(value):
        where.fail(f"`{where.key}` contains a control character")
    return value


def boolean(value: object, where: Where) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        where.fail(f"`{where.key}` must be true or false, not `{value!r}`")
    return value


def size(low: int) -> Converter:
    """Return a converter of sizes from `low` bytes up."""

    def convert(value: object, where: Where) -> int:
        number = parse_size(value, where=f"{where.origin}, {where.key}")
        if number < low:
            where.fail(f"`{where.key}` must be at least {format_size(low)}, not `{value}`")
        return number

    return convert


def absolute_path(value: object, where: Where) -> str:
    """Return an absolute, normal path of the sandbox's view; anything else is refused with the normal form as the hint."""
    text = string(value, where)
    if not text.startswith("/"):
        where.fail(f"path `{text}` must be absolute")
    normal = posixpath.normpath("/" + text.lstrip("/"))
    if text != normal:
        where.fail(f"path `{text}` is not normal", hint=f"write `{normal}`")
    return text


def mount_target(value: object, where: Where) -> str:
    """Return a path that something may be mounted on inside the sandbox: not the root, not /proc, /dev or /sys or below."""
    path = absolute_path(value, where)
    if path == "/" or any(path == top or path.startswith(top + "/") for top in ("/proc", "/dev", "/sys")):
        where.fail(f"`{path}` cannot be a mount target: the sandbox makes it itself")
    return path
