"""Whose time it is: each party is charged only for time in which it does not wait for another. Pure: times are given.

While bytes move, it is the turn of whoever was given some and has not written since; the time between two writes of one that was given nothing is its own.
When it is quiet, a look at the threads says who waits. Where all wait, all but the patient are charged: somebody is to move, and it is not the referee.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.judge.interactive.waits import Look

_LATE_NS = 20_000_000


class Clocks:
    """Own and idle time of every party, in nanoseconds.

    Args:
        names: the parties.
        patient: those that are not charged where all wait.
        now: when it begins.
    """

    def __init__(self, names: Iterable[str], patient: Iterable[str], now: int) -> None:
        self._turn = dict.fromkeys(names, True)
        self._patient = frozenset(patient)
        self._at = now
        self._looks: Mapping[str, Look] | None = None
        self._spent = 0  # what was anybody's to be charged for
        self._spoke: dict[str, tuple[int, int, int, int]] = {}
        self.own_ns = dict.fromkeys(self._turn, 0)
        self.idle_ns = dict.fromkeys(self._turn, 0)

    def begin(self, now: int) -> None:
        """Everybody has started: what was before is nobody's."""
        self._at = now

    def said(self, name: str, to: str = "", *, blocked: bool = False) -> None:
        """A party has written something.

        Who writes twice and was given nothing in between was not waiting: that time is its own, and not of whoever is to read it. So nobody makes the other
        late by a byte now and then.

        Args:
            name: who.
            to: who reads it.
            blocked: whether that one is behind with reading; then the next write may have had to wait for it.
        """
        before = self._spoke.pop(name, None)
        if before is not None and to in self.own_ns:
            at, mine, theirs, idle = before
            self.own_ns[name] = max(self.own_ns[name], mine + self._spent - at)
            self.own_ns[to], self.idle_ns[to] = min(self.own_ns[to], theirs), min(self.idle_ns[to], idle)
        if not blocked and to in self.own_ns:
            self._spoke[name] = self._spent, self.own_ns[name], self.own_ns[to], self.idle_ns[to]
        self._turn[name], self._looks = False, None

    def given(self, name: str) -> None:
        """A party was given something, or told that nothing more comes."""
        self._spoke.pop(name, None)
        self._turn[name], self._looks = True, None

    def looked(self, looks: Mapping[str, Look]) -> None:
        """What they do now that it is quiet; holds until something moves."""
        self._looks = looks

    def advance(self, now: int, live: Iterable[str], planned_ns: int | None = None) -> None:
        """Charge the time since the last call to the parties whose it was.

        Args:
            now: CLOCK_MONOTONIC nanoseconds.
            live: who has not ended.
            planned_ns: how long whoever calls meant to wait at most. Much more than that means that it was kept from looking by a busy host, and the parties
                with it: the rest is nobody's.
        """
        spent, self._at = now - self._at, now
        if planned_ns is not None:
            spent = min(spent, planned_ns + _LATE_NS)
        self._spent += spent
        names = list(live)
        looks = self._looks
        waiting = [name for name in names if (looks[name].waits_for_others if looks is not None and name in looks else not self._turn[name])]
        for name in names:
            if len(waiting) == len(names):
                charged = looks is not None and name not in self._patient
            else:
                charged = name not in waiting
            if charged:
                self.own_ns[name] += spent
                if looks is not None and name in looks and not looks[name].runs:
                    self.idle_ns[name] += spent
