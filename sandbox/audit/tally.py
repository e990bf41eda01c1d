"""Counting denials, and choosing which of them are worth a record.

Pure: time comes in as an argument. `supervise.notify` owns one `Tally` per run.

The payload decides how many denials there are, of which numbers and how fast. So every call is counted, but records are
rationed by a token bucket per system call and one over all, and the number of counters itself is bounded: a program that makes
2**32 different unknown calls gets one shared counter.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.audit.summary import DenialSummary

_SECOND_NS = 1_000_000_000
OTHERS = "other system calls"


class TokenBucket:
    """At most `burst` at once and `rate_per_s` a second in the long run.

    Args:
        burst: how many tokens there are at first and at most.
        rate_per_s: how many come back each second.
        now_ns: any clock that does not jump; the same one later.
    """

    __slots__ = ("_burst", "_rate", "_stamp_ns", "tokens")

    def __init__(self, burst: int, rate_per_s: float, now_ns: int) -> None:
        self.tokens = float(burst)
        self._burst = burst
        self._rate = rate_per_s / _SECOND_NS
        self._stamp_ns = now_ns

    def refill(self, now_ns: int) -> float:
        """Add what has come back since the last time and return the tokens that there are now."""
        if now_ns > self._stamp_ns:
            self.tokens = min(self._burst, self.tokens + (now_ns - self._stamp_ns) * self._rate)
            self._stamp_ns = now_ns
        return self.tokens

    def take(self, now_ns: int) -> bool:
        """Take one token; False when there is none."""
        if self.tokens < 1 and self.refill(now_ns) < 1:
            return False
        self.tokens -= 1
        return True


class Counter:
    """The denials of one system call and what is said about the first of them."""

    __slots__ = ("bucket", "count", "errno", "name", "reason", "reported", "rule_file", "rule_line", "suppressed")

    def __init__(self, *, name: str, errno: str, rule_file: str, rule_line: int, reason: str, bucket: TokenBucket) -> None:
        self.name = name
        self.errno = errno
        self.rule_file = rule_file
        self.rule_line = rule_line
        self.reason = reason
        self.bucket = bucket
        self.count = 0
        self.suppressed = 0
        self.reported = 0  # how many of `suppressed` a periodic record has told already


class Tally:
    """Counters by key and the ration of records.

    Args:
        now_ns: the present on the clock that later calls use.
        burst: records per system call at once.
        rate_per_s: records per system call and second in the long run.
        total_burst: records of all system calls at once.
        total_rate_per_s: records of all system calls a second in the long run.
        max_counters: how many system calls are told apart.
    """

    def __init__(
        self,
        now_ns: int,
        *,
        burst: int = 20,
        rate_per_s: float = 2.0,
        total_burst: int = 1000,
        total_rate_per_s: float = 50.0,
        max_counters: int = 1024,
    ) -> None:
        self._burst = burst
        self._rate_per_s = rate_per_s
        self._total = TokenBucket(total_burst, total_rate_per_s, now_ns)
        self._max_counters = max_counters
        self._counters: dict[int, Counter] = {}
        self._others: Counter | None = None

    def find(self, key: int) -> Counter | None:
        """Return the counter of a system call, or None when `open` has not made it."""
        return self._counters.get(key)

    def open(self, key: int, now_ns: int, *, name: str, errno: str, rule_file: str, rule_line: int, reason: str) -> Counter:
        """Make the counter of a system call seen for the first time; beyond the bound it is a shared one.

        Args:
            key: the system call's number.
            now_ns: the present.
            name: how the call is named in records and in the summary.
            errno: name of the errno that it gets.
            rule_file: the file of the rule that decided first; empty for none.
            rule_line: its line.
            reason: its reason.
        """
        if len(self._counters) >= self._max_counters:
            if self._others is None:
                bucket = TokenBucket(self._burst, self._rate_per_s, now_ns)
                self._others = Counter(name=OTHERS, errno=errno, rule_file=rule_file, rule_line=rule_line, reason=reason, bucket=bucket)
            return self._others
        bucket = TokenBucket(self._burst, self._rate_per_s, now_ns)
        counter = Counter(name=name, errno=errno, rule_file=rule_file, rule_line=rule_line, reason=reason, bucket=bucket)
        self._counters[key] = counter
        return counter

    def count(self, counter: Counter, now_ns: int) -> bool:
        """Count one denial and tell whether it gets a record.

        Args:
            counter: from `find` or `open`.
            now_ns: the present.
        """
        counter.count += 1
        if counter.bucket.take(now_ns) and self._total.take(now_ns):
            return True
        counter.suppressed += 1
        return False

    def take_suppressed(self) -> tuple[tuple[str, int], ...]:
        """Return what was suppressed since the last time, most first; empty when there was nothing."""
        fresh: list[tuple[str, int]] = []
        for counter in self._all():
            if counter.suppressed > counter.reported:
                fresh.append((counter.name, counter.suppressed - counter.reported))
                counter.reported = counter.suppressed
        return tuple(sorted(fresh, key=lambda pair: (-pair[1], pair[0])))

    def summarize(self, *, mismatches: int = 0, interrupted: int = 0) -> DenialSummary:
        """Return the counts as a value, in the order in which the system calls were first seen."""
        from sandbox.audit.summary import DenialCount, DenialSummary

        return DenialSummary(
            counts=tuple(
                DenialCount(
                    syscall=counter.name,
                    count=counter.count,
                    suppressed=counter.suppressed,
                    errno=counter.errno,
                    rule_file=counter.rule_file,
                    rule_line=counter.rule_line,
                    reason=counter.reason,
                )
                for counter in self._all()
            ),
            mismatches=mismatches,
            interrupted=interrupted,
        )

    def _all(self) -> list[Counter]:
        counters = list(self._counters.values())
        return counters if self._others is None else [*counters, self._others]
