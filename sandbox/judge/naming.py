"""How the runs of one judging are called: `sandbox ps` shows it, and an interruption ends what is called so and nothing else of the process.

The name is that of the context in which a `Runner` is made or a compiler started; new threads have none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LONGEST = 40
_OTHER = re.compile(r"[^a-z0-9]+", re.ASCII)
_name: ContextVar[str] = ContextVar("name of runs", default="")


def run_name() -> str:
    """Return what runs are called here, "" for nothing."""
    return _name.get()


def make_run_name(problem: str) -> str:
    """Return a name for the runs of a judging of a problem, which no other has."""
    return f"judge-{_OTHER.sub('-', problem.lower())[:_LONGEST].strip('-') or 'problem'}-{os.urandom(4).hex()}"


@contextmanager
def runs_named(name: str) -> Iterator[None]:
    """Have runs called so."""
    before = _name.set(name)
    try:
        yield
    finally:
        _name.reset(before)


__all__ = ["make_run_name", "run_name", "runs_named"]
