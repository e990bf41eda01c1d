"""Whose time it is: each party is charged only for time in which it does not wait for another. Pure: times are given.

While bytes move, it is the turn of whoever was given some and has not written since. When it is quiet, a look at the threads says who waits. Where all wait,
all but the patient are charged: somebody is to move, and it is not the referee.
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
        self.own_ns = dict.fromkeys(self._turn, 0)
        self.idle_ns = dict.fromkeys(self._turn, 0)

    def begin(self, now: int) -> None:
        """Everybody has started: what was before is nobody's."""
        self._at = now

    def said(self, name: str) -> None:
        """A party has written something."""
        self._turn[name], self._looks = False, None

    def given(self, name: str) -> None:
        """A party was given something, or told that nothing more comes."""
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
