"""Records: no text of the payload can forge one, attack a terminal or grow without bound."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.audit.events import MAX_LINE_BYTES, Denial, Event, LogFull, Suppressed, escape_untrusted, render_json_line

DENIAL = Denial(
    time_ns=1_763_935_200_123_456_789,
    run="r1",
    syscall="clock_settime",
    number=227,
    arch="x86_64",
    args=(0, 0x7FFF_0000_1000, 2, 3, 4, 2**64 - 1),
    decoded=("clockid=CLOCK_REALTIME", "tp=0x7fff00001000"),
    pid=4242,
    comm=b"python3",
    errno="EPERM",
    rule_file="/etc/policies/strict.toml",
    rule_line=41,
    reason="the clock is not namespaced",
)

UNSAVED = settings(database=None)  # the checkout may belong to another user

text = st.one_of(st.binary(max_size=600), st.text(max_size=600), st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=600))
strings = st.one_of(st.text(max_size=600), st.text('"\\\x1b\n', min_size=500, max_size=600))
integers = st.integers(min_value=-(2**70), max_value=2**70)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"python3", "python3"),
        (b"a\nFORGED\x1b[2J", r"a\x0aFORGED\x1b[2J"),
        (b"\x7f\x00\\", "\\x7f\\x00\\\\"),
        (b"\xff\xc2", r"\xff\xc2"),
        ("caf\u00e9", r"caf\u00e9"),
        (b"\xc2\x9b2J", r"\u009b2J"),  # C1 CSI, which some terminals obey
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\U0001f600", r"\U0001f600"),
        ("\udcff\ud800", r"\xff\ud800"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),  # a surrogate is not UTF-8
    ],
)
def test_escape(value: bytes | str, expected: str) -> None:
    assert escape_untrusted(value) == expected


@UNSAVED
@given(text, st.integers(min_value=3, max_value=300))
def test_escaped_text_is_printable_ascii_within_the_limit(value: bytes | str, limit: int) -> None:
    escaped = escape_untrusted(value, limit)
    assert len(escaped) <= limit
    assert re.fullmatch(r"[ -~]*", escaped)


@UNSAVED
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_escape_is_injective(one: bytes, other: bytes) -> None:
    assert (escape_untrusted(one, 1000) == escape_untrusted(other, 1000)) == (one == other)


@pytest.mark.parametrize("limit", range(3, 12))
def test_truncation_never_cuts_an_escape(limit: int) -> None:
    escaped = escape_untrusted(b"\x1b" * 10, limit)
    assert re.fullmatch(r"(\\x1b)*\.\.\.", escaped)


def test_denial_line() -> None:
    assert json.loads(render_json_line(DENIAL)) == {
        "event": "denial",
        "time": "2025-11-23T22:00:00.123456789Z",
        "run": "r1",
        "syscall": "clock_settime",
        "number": 227,
        "arch": "x86_64",
        "args": ["0x0", "0x7fff00001000", "0x2", "0x3", "0x4", "0xffffffffffffffff"],
        "decoded": ["clockid=CLOCK_REALTIME", "tp=0x7fff00001000"],
        "pid": 4242,
        "comm": "python3",
        "errno": "EPERM",
        "rule": {"file": "/etc/policies/strict.toml", "line": 41},
        "reason": "the clock is not namespaced",
    }


def test_suppressed_line_names_the_most_frequent_and_sums_the_rest() -> None:
    counts = tuple((f"call{index}", 1000 - index) for index in range(100))
    line = json.loads(render_json_line(Suppressed(time_ns=0, run="r", counts=counts)))
    assert line["total"] == sum(count for _, count in counts)
    assert line["counts"][0] == ["call0", 1000]
    assert line["unnamed"] == line["total"] - sum(count for _, count in line["counts"]) > 0


events = st.one_of(
    st.builds(
        Denial,
        time_ns=integers,
        run=strings,
        syscall=strings,
        number=integers,
        arch=strings,
        args=st.tuples(*[integers] * 6),
        decoded=st.lists(strings, max_size=8).map(tuple),
        pid=integers,
        comm=st.one_of(st.binary(max_size=600), st.just(b'"' * 200), st.just(b"\\" * 200)),
        errno=strings,
        rule_file=strings,
        rule_line=integers,
        reason=strings,
    ),
    st.builds(Suppressed, time_ns=integers, run=strings, counts=st.lists(st.tuples(strings, integers), max_size=30).map(tuple)),
    st.builds(LogFull, time_ns=integers, run=strings, limit_bytes=integers),
)


@UNSAVED
@given(events)
def test_every_event_is_one_bounded_json_line(event: Event) -> None:
    line = render_json_line(event)
    assert len(line) <= MAX_LINE_BYTES
    assert re.fullmatch(rb"[ -~]+\n", line)
    values: list[object] = [json.loads(line)]
    while values:  # harmless also after JSON is undone
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str):
            assert re.fullmatch(r"[ -~]*", value)


def test_the_longest_record_fits() -> None:
    worst = '"\\' * 400
    line = render_json_line(
        Denial(
            time_ns=-(2**80),
            run=worst,
            syscall=worst,
            number=-(2**63),
            arch=worst,
            args=(2**64 - 1,) * 6,
            decoded=('"' * 400,) * 6,
            pid=-(2**63),
            comm=b'"' * 400,
            errno=worst,
            rule_file='"' * 400,
            rule_line=-(2**63),
            reason='"' * 400,
        )
    )
    assert 3000 < len(line) <= MAX_LINE_BYTES
    assert json.loads(line)["event"] == "denial"
