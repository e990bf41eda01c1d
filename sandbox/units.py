"""Sizes and durations: the one place where text like ``64M`` or ``1.5s`` becomes a number.

Pure; anybody may import it.
"""

from __future__ import annotations

import re

from sandbox.errors import PolicyError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h)?", re.ASCII)
_SIZE_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_FACTOR = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
_MAXIMUM = (1 << 63) - 1
_MAXIMUM_TEXT = 64


def parse_size(value: object, *, where: str | None = None) -> int:
    """Return a byte count from an integer or from text such as ``4096``, ``64M`` or ``1.5 GiB``.

    Suffixes are binary (``K`` = 1024). Raises `PolicyError` for anything else, for negative numbers and above 2**63-1.

    Args:
        value: what the user wrote.
        where: file:line or option, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise PolicyError(f"size must be a number of bytes or text like `64M`, not `{value!r}`", origin=where)
    if isinstance(value, int):
        number = value
    else:
        # Thousands of digits are no number to Python.
        match = _SIZE.fullmatch(value.strip()) if len(value) <= _MAXIMUM_TEXT else None
        if match is None:
            raise PolicyError(f"size `{value}` is not a number with an optional suffix K, M, G or T", origin=where)
        number = (
            int(float(match[1]) * _SIZE_FACTOR[match[2].upper()]) if "." in match[1] else int(match[1]) * _SIZE_FACTOR[match[2].upper()]
        )
    if not 0 <= number <= _MAXIMUM:
        raise PolicyError(f"size `{value}` is out of range (0 to 2^63-1 bytes)", origin=where)
    return number


def parse_duration(value: object, *, where: str | None = None) -> int:
    """Return nanoseconds from a number of seconds or from text such as ``10``, ``1.5s``, ``200ms`` or ``2m``.

    Raises `PolicyError` for anything else, for negative numbers and above 2**63-1 ns.

    Args:
        value: what the user wrote; a bare number is seconds.
        where: file:line or option, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise PolicyError(f"duration must be seconds or text like `200ms`, not `{value!r}`", origin=where)
    if isinstance(value, (int, float)):
        if value != value or not 0 <= value <= _MAXIMUM / 1e9:
            raise PolicyError(f"duration `{value}` is out of range", origin=where)
        return int(value * 1_000_000_000)
    match = _DURATION.fullmatch(value.strip()) if len(value) <= _MAXIMUM_TEXT else None
    if match is None:
        raise PolicyError(f"duration `{value}` is not a number with an optional unit ns, us, ms, s, m or h", origin=where)
    factor = _DURATION_FACTOR[match[2] or "s"]
    number = int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
    if not 0 <= number <= _MAXIMUM:
        raise PolicyError(f"duration `{value}` is out of range", origin=where)
    return number


def format_size(count: int) -> str:
    """Return a short text for a byte count: ``64 MiB``, ``1.5 GiB``, ``512 B``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_duration(ns: int) -> str:
    """Return a short text for nanoseconds: ``1.25 s``, ``340 ms``, ``12 us``."""
    if ns >= 1_000_000_000:
        return f"{ns / 1e9:.2f} s"
    if ns >= 1_000_000:
        return f"{ns / 1e6:.0f} ms"
    return f"{ns / 1e3:.0f} us"
