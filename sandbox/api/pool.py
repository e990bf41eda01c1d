"""A pool: members made ahead, each for one run; who gets which, when the next is made, and figures of it.

What a member is and which runs fit it is not known here: `api.pool_python` does. A pool has no thread of its own; members have one each, and the one that ends
makes its successor where nobody else does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from sandbox.errors import SandboxError
from sandbox.record import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.pool_member import Member

_FAILURES = 3  # in a row; then nothing is made before somebody asks again


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What a pool did so far.

    Attributes:
        size: how many members it keeps.
        waiting: how many of them wait for a command now.
        building: how many are being made.
        hits: runs that found a member waiting.
        late: runs that got one which was still being made, and waited for it.
        misses: runs that none was left for; they started as if there were no pool.
        unfit: runs that no member of this pool could have taken.
        built: members that came to wait.
        discarded: members that were ended because what they were made of had changed, or because they were too old.
        failed: members that ended by themselves, or could not be made.
        failure: why the last of these did.
        build_ns: how long the last member took to be made.
        build_total_ns: all of them together.
        memory_bytes: what the waiting members hold, where that was measured.
    """

    size: int
    waiting: int = 0
    building: int = 0
    hits: int = 0
    late: int = 0
    misses: int = 0
    unfit: int = 0
    built: int = 0
    discarded: int = 0
    failed: int = 0
    failure: str = ""
    build_ns: int = 0
    build_total_ns: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a `Sandbox` keeps ahead, None for what it does not: sandboxes for any command, and warm interpreters."""

    pool: PoolStats | None = None
    python: PoolStats | None = None


@dataclass(slots=True, kw_only=True)
class _Counts:
    hits: int = 0
    late: int = 0
    misses: int = 0
    unfit: int = 0
    built: int = 0
    discarded: int = 0
    failed: int = 0
    failure: str = ""
    build_ns: int = 0
    build_total_ns: int = 0
    in_a_row: int = 0
    ended: deque[Member] = field(default_factory=deque)


class Pool:
    """Members of one kind; thread-safe.

    Args:
        size: how many to keep.
        memory_bytes: what all that wait may hold together; None for no bound but `size`.
        build: starts to make one, and returns at once.
    """

    def __init__(self, size: int, memory_bytes: int | None, build: Callable[[Callable[[Member], None], Callable[[Member], None]], Member]) -> None:
        self._size = size
        self._memory_bytes = memory_bytes
        self._build = build
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._members: deque[Member] = deque()
        self._counts = _Counts()
        self._closed = False

    def take(self) -> Member | None:
        """Return a member that nobody else gets, warm or being made; None when there is none left. `fill` afterwards."""
        with self._here():
            counts = self._counts
            for state in ("waiting", "building"):
                for member in self._members:
                    if member.state == state:
                        self._members.remove(member)
                        counts.late += 1  # until `found`
                        return member
            counts.misses += 1
            return None

    def found(self, *, at_once: bool) -> None:
        """The member that was taken has its command."""
        with self._here():
            if at_once:
                self._counts.late -= 1
                self._counts.hits += 1

    def lose(self, member: Member) -> None:
        """A member that was taken while it was made came to nothing: the run had none after all."""
        with self._here():
            self._counts.late -= 1
            self._counts.misses += 1
            self._fail(member.failure)

    def forsake(self, member: Member) -> None:
        """The run that took a member came to nothing before it had it: end it."""
        with self._here():
            self._counts.late -= 1
            self._counts.discarded += 1
            member.kill()
            member.discard()
            self._counts.ended.append(member)
            self._fill()

    def count_unfit(self) -> None:
        """A run could not have used any member."""
        with self._here():
            self._counts.unfit += 1

    def fill(self) -> None:
        """Make as many as are missing."""
        with self._here():
            self._counts.in_a_row = 0
            self._fill()

    def _fill(self) -> None:
        while not self._closed and len(self._members) < self._allowed() and self._counts.in_a_row < _FAILURES:
            try:
                self._members.append(self._build(self._on_warm, self._on_over))
            except (SandboxError, OSError, RuntimeError) as error:  # no thread, no descriptors: the run itself can go on
                self._fail(str(error).partition("\n")[0])

    def _allowed(self) -> int:
        """How many may be there: by number, and by what those that wait hold."""
        each = max((member.memory_bytes for member in self._members), default=0)
        if self._memory_bytes is None or not each:
            return self._size
        return max(1, min(self._size, self._memory_bytes // each))

    def renew(self) -> None:
        """What members are made of has changed: end those that nobody has. `fill` afterwards."""
        with self._here():
            members, self._members = self._members, deque()
            self._counts.discarded += len(members)
            for member in members:
                member.discard()
                self._counts.ended.append(member)

    def _on_warm(self, member: Member) -> None:
        with self._lock:
            counts = self._counts
            counts.built += 1
            counts.in_a_row = 0
            counts.build_ns = member.warm_ns - member.began_ns
            counts.build_total_ns += counts.build_ns
            while len(self._members) > self._allowed():
                extra = self._members.pop()
                counts.discarded += 1
                extra.discard()
                counts.ended.append(extra)

    def _on_over(self, member: Member) -> None:
        """A member that nobody had ended: it was too old, was killed, or could not be made."""
        with self._lock:
            if os.getpid() != self._owner or self._closed:
                return
            try:
                self._members.remove(member)
            except ValueError:
                return  # somebody had taken it, or it was discarded
            if member.expired:
                self._counts.discarded += 1
            else:
                self._fail(member.failure)
            self._fill()

    def _fail(self, failure: str) -> None:
        self._counts.failed += 1
        self._counts.in_a_row += 1
        self._counts.failure = failure

    def stats(self) -> PoolStats:
        """Return the figures of this moment."""
        with self._here():
            states = [member.state for member in self._members]
            counts = self._counts
            return PoolStats(
                size=self._size, waiting=states.count("waiting"), building=states.count("building"), hits=counts.hits, late=counts.late,
                misses=counts.misses, unfit=counts.unfit, built=counts.built, discarded=counts.discarded, failed=counts.failed,
                failure=counts.failure, build_ns=counts.build_ns, build_total_ns=counts.build_total_ns,
                memory_bytes=sum(member.memory_bytes for member in self._members),
            )  # fmt: skip

    def wait(self, timeout: float | None) -> bool:
        """Wait until every member waits for a command; return whether that is so."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._here():
                building = next((member for member in self._members if member.state == "building"), None)
                full = len(self._members) >= self._allowed()
            if building is None:
                return full
            building.settle(None if deadline is None else deadline - time.monotonic())
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def close(self, *, wait: bool = True) -> None:
        """End every member that nobody has; idempotent."""
        with self._here():
            self._closed = True
            members = [*self._members, *self._counts.ended]
            self._members.clear()
            self._counts.ended.clear()
        for member in members:
            member.discard()
        for member in members if wait else ():
            member.join()

    def _here(self) -> threading.RLock:
        """Return the lock; in a fork, where no member is ours, begin anew."""
        if os.getpid() != self._owner:
            self._owner = os.getpid()
            self._lock = threading.RLock()
            self._members = deque()
            self._counts = replace(self._counts, ended=deque())
        ended = self._counts.ended
        while ended and ended[0].ended:
            ended.popleft()
        return self._lock


__all__ = ["Pool", "PoolStats", "Stats"]
