"""Counting and rationing: every call counts, few are recorded, nothing grows without bound."""

from __future__ import annotations

import errno

from sandbox.audit.sinks import SinkReport
from sandbox.audit.summary import DenialCount, DenialSummary, summary_lines
from sandbox.audit.tally import OTHERS, Counter, Tally, TokenBucket

SECOND = 1_000_000_000


def counter_of(tally: Tally, key: int, now_ns: int = 0) -> Counter:
    return tally.find(key) or tally.open(key, now_ns, name=f"call{key}", errno="EPERM", rule_file="f.toml", rule_line=key, reason="why")


def test_bucket_gives_a_burst_then_a_rate() -> None:
    bucket = TokenBucket(3, 2.0, 0)
    assert [bucket.take(0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(SECOND) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000 * SECOND) for _ in range(4)] == [True, True, True, False]


def test_bucket_ignores_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(1, 1.0, 10 * SECOND)
    assert bucket.take(10 * SECOND)
    assert not bucket.take(5 * SECOND)
    assert not bucket.take(10 * SECOND)
    assert bucket.take(11 * SECOND)


def test_a_flood_of_one_call_leaves_records_for_another() -> None:
    tally = Tally(0, burst=5, rate_per_s=1.0, total_burst=100, total_rate_per_s=1.0)
    assert sum(tally.count(counter_of(tally, 1), 0) for _ in range(10_000)) == 5
    assert tally.count(counter_of(tally, 2), 0)
    summary = tally.summarize()
    assert summary.by_syscall() == {"call1": 10_000, "call2": 1}
    assert (summary.total, summary.suppressed) == (10_001, 9_995)


def test_all_calls_together_are_rationed() -> None:
    tally = Tally(0, burst=5, rate_per_s=1.0, total_burst=12, total_rate_per_s=1.0)
    assert sum(tally.count(counter_of(tally, key), 0) for key in range(100) for _ in range(5)) == 12
    assert tally.summarize().total == 500


def test_counters_are_bounded() -> None:
    tally = Tally(0, max_counters=10)
    for key in range(100_000):
        tally.count(counter_of(tally, key), 0)
    summary = tally.summarize()
    assert len(summary.counts) == 11
    assert summary.counts[-1].syscall == OTHERS and summary.counts[-1].count == 99_990


def test_suppressed_counts_are_told_once_and_most_first() -> None:
    tally = Tally(0, burst=1, rate_per_s=0.001, total_burst=100)
    assert tally.take_suppressed() == ()
    for key, times in ((1, 3), (2, 6)):
        for _ in range(times):
            tally.count(counter_of(tally, key), 0)
    assert tally.take_suppressed() == (("call2", 5), ("call1", 2))
    assert tally.take_suppressed() == ()
    tally.count(counter_of(tally, 1), 0)
    assert tally.take_suppressed() == (("call1", 1),)


CLOCK = DenialCount(
    syscall="clock_settime",
    count=1,
    errno="EPERM",
    rule_file="/usr/share/policies/strict.toml",
    rule_line=41,
    reason="the clock is not namespaced",
)


def test_summary_line() -> None:
    assert summary_lines(DenialSummary(counts=(CLOCK,))) == ["denied clock_settime (1): strict.toml:41 the clock is not namespaced"]


def test_no_denials_no_lines() -> None:
    assert summary_lines(DenialSummary()) == []


def test_without_rule_or_reason_the_errno_is_named() -> None:
    summary = DenialSummary(counts=(DenialCount(syscall="#1021", count=2, errno="ENOSYS"),))
    assert summary_lines(summary) == ["denied #1021 (2): ENOSYS"]


def test_summary_is_short_and_counts_what_it_leaves_out() -> None:
    counts = tuple(DenialCount(syscall=f"c{index}", count=index + 1, suppressed=1, errno="EPERM") for index in range(30))
    report = SinkReport(dropped=7, lost=2, error=errno.ENOSPC)
    lines = summary_lines(DenialSummary(counts=counts, mismatches=3), report, maximum=6)
    assert lines == [
        "denied c29 (30): EPERM",
        "denied c28 (29): EPERM",
        "denied c27 (28): EPERM",
        f"denied 27 more system calls ({sum(range(1, 28))})",
        "bug: 3 refused calls that the policy allows or cannot judge; please report the policy",
        "audit log: 30 denials are counted but not recorded; 7 records are missing: the log is full; "
        "2 records are lost: No space left on device (ENOSPC)",
    ]


def test_summary_lines_are_safe_for_a_terminal() -> None:
    hostile = DenialCount(syscall="a\nb", count=1, rule_file="/x/\x1b[2J.toml", rule_line=1, reason="\x9b2J\n")
    (line,) = summary_lines(DenialSummary(counts=(hostile,)))
    assert line == r"denied a\x0ab (1): \x1b[2J.toml:1 \u009b2J\x0a"
