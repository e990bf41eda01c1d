"""Turns: every contender in each round, in an order shuffled anew, so that a slow or busy moment of the machine hits all alike."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from beside.contender import Contender, Program
from beside.host import Failed, settle

Found = dict[str, Any]
"""One measure as it goes into the file: by row, one list a round."""


@dataclass(slots=True, kw_only=True)
class Session:
    """What all measures share.

    Attributes:
        rounds: how many turns each row has.
        batch: launches a turn.
        quiet: seconds to wait at most for a quiet machine before each turn.
        order: of the rows within a round.
        failures: what went wrong, by row; a row that failed once in a measure takes no further part in it.
    """

    rounds: int
    batch: int
    quiet: float
    order: random.Random
    failures: dict[str, list[str]] = field(default_factory=dict)
    busy: list[float] = field(default_factory=list)

    def turns(self, title: str, rows: Sequence[Contender], rounds: int | None = None) -> Iterator[tuple[int, Contender]]:
        """Yield a round's number and a row, and print how far it is; rows that have failed in this measure are left out."""
        rounds = self.rounds if rounds is None else rounds
        began = shown = time.monotonic()
        for number in range(rounds):
            for row in self.order.sample(list(rows), len(rows)):
                if title not in self.failed(row):
                    self.busy.append(round(settle(self.quiet), 2))
                    yield number, row
            now = time.monotonic()
            if now - shown > 5 or number + 1 == rounds:
                shown = now
                say(f"{title}: round {number + 1} of {rounds}, {now - began:.0f} s")

    def ready(self, title: str, rows: Sequence[Contender], program: Program) -> list[Contender]:
        """Return the rows that can run this program, prepared."""
        return [row for row in rows if self.attempt(title, row, partial(row.prepare, program)) is not None]

    def attempt(self, title: str, row: Contender, action: Callable[[], Any]) -> Any:
        """Return what the action returns, True for None; or None after noting its failure."""
        try:
            answer = action()
        except (Failed, OSError) as error:
            self.failures.setdefault(row.name, []).append(f"{title}: {error}")
            say(f"{title}: {row.name} failed: {str(error)[:200]}")
            return None
        return True if answer is None else answer

    def failed(self, row: Contender) -> list[str]:
        """Return the measures in which a row has failed."""
        return [text.split(":", 1)[0] for text in self.failures.get(row.name, [])]


def say(text: str) -> None:
    """Tell the person at the terminal how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)
