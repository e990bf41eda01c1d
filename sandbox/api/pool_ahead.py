"""Sandboxes made ahead: runs of a template that stand, confined, before their execve, and are told what to execute. Single use.

Nothing looks after one that waits: it is asked of the server, and what it reports stays in its socket until a run takes it. A run takes one when its own
table would have been the same, byte for byte, but for the command: profile, policy, shares and limits are those of the run, or there is none for it.
Made and used by `api.resident` only.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from itertools import islice

from sandbox.api.pool import PoolStats
from sandbox.api.recipe import hides_something
from sandbox.api.waiting import find_table
from sandbox.errors import PolicyError, SandboxError
from sandbox.plan.build import COMMAND_BYTES
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox.api.house import Way
    from sandbox.api.prepare import Prepared
    from sandbox.api.resident import Residents
    from sandbox.api.waiting import Waiting

_MOST = 256
_SECOND_NS = 1_000_000_000
_NEXT = 2  # are looked after while they wait; each has four descriptors more then


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """Sandboxes that a `Sandbox` makes ahead.

    Attributes:
        size: how many wait.
        max_age: seconds after which one is not used any more.
    """

    size: int
    max_age: float = 600.0


def parse_ahead(given: Ahead | Mapping[str, Any] | int | None) -> Ahead | None:
    """Return what the argument `pool` of a `Sandbox` means: None for no pool.

    Args:
        given: how many, the attributes of `Ahead` as a mapping, or one.

    Raises:
        PolicyError: a value is wrong.
    """
    if given is None or given is False or given == 0:
        return None
    if isinstance(given, int):
        given = Ahead(size=given)
    elif not isinstance(given, Ahead):
        unknown = sorted(set(given) - {"size", "max_age"})
        if unknown or "size" not in given:
            raise PolicyError(f"unknown key `{unknown[0]}` of `pool`" if unknown else "pool: `size` is missing", hint="size and max_age")
        given = Ahead(**given)
    if type(given.size) is not int or not 0 < given.size <= _MOST:
        raise PolicyError(f"pool: size must be a number from 1 to {_MOST}, not {given.size!r}")
    if type(given.max_age) not in (int, float) or not given.max_age > 0:
        raise PolicyError(f"pool: max_age must be a positive number of seconds, not {given.max_age!r}")
    return given


class Pool:
    """The sandboxes made ahead of one `Sandbox`; thread-safe."""

    def __init__(self, ahead: Ahead) -> None:
        self._ahead = ahead
        self._lock = threading.RLock()  # the collector of garbage may close it in any thread, one that holds the lock among them
        self.waiting: deque[Waiting] = deque()
        self._hits = self._misses = self._unfit = self._built = self._discarded = self._failed = 0
        self._failure = ""
        self._closed = False

    def take(self, prepared: Prepared, way: Way) -> Waiting | None:
        """Return one that is what this run would have got, as that run; None when there is none."""
        if not _may_wait(prepared, way):
            with self._lock:
                self._unfit += 1
            return None
        over: list[Waiting] = []
        found: Waiting | None = None
        oldest_ns = time.monotonic_ns() - round(self._ahead.max_age * _SECOND_NS)
        affinity = frozenset(os.sched_getaffinity(0))
        with self._lock:
            for one in list(self.waiting):
                if not one.is_like(prepared, way, affinity):
                    continue
                try:
                    self.waiting.remove(one)
                except ValueError:
                    break  # closed meanwhile
                if one.made_ns >= oldest_ns and one.alive:
                    found = one
                    break
                over.append(one)
                if one.made_ns < oldest_ns:
                    self._discarded += 1
                else:
                    self._fail("it ended while it waited")
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
        for one in over:
            one.close()
        if found is not None:
            try:
                found.take(prepared)
            except BaseException:
                found.close()
                raise
        return found

    def fill(self, prepared: Prepared, way: Way, residents: Residents) -> None:
        """Ask for as many as are missing, for runs like this one."""
        if not _may_wait(prepared, way):
            return
        affinity = frozenset(os.sched_getaffinity(0))
        added = False
        while True:
            with self._lock:
                if self._closed:
                    return
                old: Waiting | None = None
                if len(self.waiting) >= self._ahead.size:
                    if added or any(one.is_like(prepared, way, affinity) for one in self.waiting):
                        return
                    old = self.waiting.popleft()  # of another kind, and the oldest of those
                    self._discarded += 1
            if old is not None:
                old.close()
            added = self._add(prepared, way, residents)
            if not added:
                return

    def _add(self, prepared: Prepared, way: Way, residents: Residents) -> bool:
        one: Waiting | None = None
        try:
            one = residents.open_ahead(prepared, way)
            assert prepared.kept is not None
            plan, table = find_table(prepared, one.joins, one.moved)
            one.make(plan, table, prepared.kept.memory(("pool", one.joins, one.moved), table))
            with self._lock:
                kept = not self._closed and len(self.waiting) < self._ahead.size
                if kept:
                    self._built += 1
                    self.waiting.append(one)
            if kept:
                one = None
            return kept
        except (SandboxError, OSError) as error:
            with self._lock:
                self._fail(str(error).partition("\n")[0])
            return False
        finally:
            if one is not None:
                one.close()

    def settle(self) -> bool:
        """Read what those have reported that are taken next; return whether one of them is not at its place yet."""
        with self._lock:
            more = [one.settle() for one in islice(self.waiting, _NEXT)]
        return True in more

    def _fail(self, failure: str) -> None:
        self._failed += 1
        self._failure = failure

    def stats(self) -> PoolStats:
        """Return the figures of this moment."""
        with self._lock:
            return PoolStats(
                size=self._ahead.size, waiting=len(self.waiting), hits=self._hits, misses=self._misses, unfit=self._unfit, built=self._built,
                discarded=self._discarded, failed=self._failed, failure=self._failure,
            )  # fmt: skip

    def close(self) -> None:
        """End all that wait; idempotent."""
        with self._lock:
            self._closed = True
            over = list(self.waiting)
            self.waiting.clear()
        for one in over:
            one.close()

    def forget(self) -> None:
        """In a fork: begin anew, without the parent's."""
        self._lock = threading.RLock()  # the collector of garbage may close it in any thread, one that holds the lock among them
        while self.waiting:
            self.waiting.pop().forget()


def _may_wait(prepared: Prepared, way: Way) -> bool:
    """Whether a sandbox for this run can be one that waited."""
    kept = prepared.kept
    if not way.waits or kept is None:
        return False
    if kept.waits is None:
        files = bool(prepared.command.files) and prepared.as_root  # the payload's tmpfs has no id for root
        # Clocks begin at the command, so those of a time namespace would be wrong.
        kept.waits = not prepared.profile.time_namespace and not hides_something(prepared) and not files
        kept.environment_bytes = sum(len(name) + len(value) for name, value in prepared.environment)
    return kept.waits and kept.environment_bytes + sum(map(len, prepared.command.argv)) < COMMAND_BYTES // 16


__all__ = ["Ahead", "Pool", "parse_ahead"]
