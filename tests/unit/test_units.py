"""Sizes and durations: what is accepted, what it means, and that nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import PolicyError
from sandbox.units import format_duration, format_size, parse_duration, parse_size

LARGEST = (1 << 63) - 1


@pytest.mark.parametrize(("text", "size"), [
    (0, 0), (4096, 4096), (LARGEST, LARGEST), ("0", 0), ("4096", 4096), ("64K", 65536), ("64k", 65536), ("64M", 64 << 20), ("2G", 2 << 30),
    ("1T", 1 << 40), ("1KiB", 1024), ("1kb", 1024), ("10B", 10), (" 1.5 GiB ", 3 << 29), ("0.5K", 512), ("9223372036854775807", LARGEST),
    ("8388607T", 8388607 << 40),
])  # fmt: skip
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [
    "", " ", "M", "-1", -1, "1.M", ".5M", "1e3", "0x10", "1,5M", "1 M B", "64MM", "64P", "٤K", "１", True, False, None, 1.5, b"1", [1], 1 << 63,
    "9223372036854775808", "8388608T", "99999999999999999999999999G", "nan", "inf", "1\n2", "64M\x00",
])  # fmt: skip
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_size(text, where="profile.toml:3")
    assert caught.value.origin == "profile.toml:3"


@pytest.mark.parametrize(("text", "ns"), [
    (0, 0), (10, 10_000_000_000), (1.5, 1_500_000_000), ("10", 10_000_000_000), ("1.5s", 1_500_000_000), ("200ms", 200_000_000), ("5us", 5000),
    ("7ns", 7), ("2m", 120_000_000_000), ("1h", 3_600_000_000_000), (" 3 s ", 3_000_000_000), ("0.25", 250_000_000),
])  # fmt: skip
def test_durations(text: object, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", [
    "", "s", "-1", -1, -0.1, "1d", "1S", "1 0", "1.s", "1e3", "٣s", True, None, float("nan"), float("inf"), "inf", "nan", b"1", 1e10, "99999999999h",
])  # fmt: skip
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_duration(text, where="option")
    assert caught.value.origin == "option"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (512, "512 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (3 << 50, "3072 TiB")]
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0 us"), (12_345, "12 us"), (340_000_000, "340 ms"), (1_250_000_000, "1.25 s"), (90_000_000_000, "90.00 s")]
)
def test_durations_in_words(ns: int, text: str) -> None:
    assert format_duration(ns) == text


@given(st.integers(0, LARGEST))
def test_every_size_is_its_own_text(size: int) -> None:
    assert parse_size(str(size)) == parse_size(size) == parse_size(f"{size} B") == size


@given(st.integers(0, LARGEST))
def test_every_duration_in_nanoseconds(ns: int) -> None:
    assert parse_duration(f"{ns}ns") == ns


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.binary()))
def test_anything_else_is_a_policy_error(value: object) -> None:
    for parse in (parse_size, parse_duration):
        try:
            assert 0 <= parse(value) <= LARGEST
        except PolicyError:
            pass
