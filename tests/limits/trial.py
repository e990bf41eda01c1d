"""One trial: a way past a limit, in a sandbox with that limit or with it lifted, while the host is watched. What came of it is a row of the table.

Only the modules of this directory import this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from escape.support import Run, run_payload

from sandbox.cgroup.find import explain_backend
from sandbox.errors import UnsupportedError

HERE = Path(__file__).resolve().parent
RECORD = "SANDBOX_LIMITS_RECORD"
"""The variable that names a file to which each trial under its limit adds a line, for `table.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit and how it is attacked.

    `bound` and `ask` are in `unit`; `under` are the limits of the run that must hold, `lifted` those of the control. `verdicts` are the right ones for a run
    that was ended; one that went on to its end must have got no more than `bound`. `settle_ms` is how long a way holds what it got when only
    sampling can find it. `exact` limits allow not the least beyond them. `controller` is the cgroup controller without which a run is refused.
    """

    name: str
    unit: str
    bound: int
    ask: int
    under: Mapping[str, object]
    lifted: Mapping[str, object]
    verdicts: frozenset[str] = frozenset()
    settle_ms: int = 50
    exact: bool = True
    controller: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way past a limit.

    `word` is its name in the payload `source`; `words` tell what it does. `policy` is the narrowest shipped one that does not stop it by refusing a call.
    `weak` is why the fallback cannot hold it, empty when it can; `bounded` is what bounds it then. `unheld` says why no backend holds it, which is then a
    line of SECURITY.md. Where it differs from its kind: `ask`, `more` (limits of both runs), `under` (of the limited one), `changes` (of the profile).
    """

    limit: str
    name: str
    source: str
    word: str
    words: str
    policy: str = "strict"
    weak: str = ""
    bounded: str = ""
    ask: int | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    under: Mapping[str, object] = field(default_factory=dict)
    unheld: str = ""

    @property
    def key(self) -> str:
        """The way's name with its limit's."""
        return f"{self.limit}: {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a trial: how much it got, in its limit's unit, and what the host saw."""

    run: Run
    got: float
    tasks: int
    memory_bytes: int
    memory_source: str
    wall_ns: int
    left: tuple[int, ...]

    @property
    def backend(self) -> str:
        """``cgroup1``, ``cgroup2`` or ``fallback``: what held memory, or counted CPU time where that was not limited."""
        found = {entry.what: entry.how for entry in self.run.result.enforced}
        word = (found.get("memory") or found["cpu-time accounting"]).split()[0]
        return word if word.startswith("cgroup") else "fallback"


class Watch:
    """`watch.py`, beside this process."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(HERE / "watch.py"), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lock = threading.Lock()

    def begin(self) -> None:
        """Begin to watch."""
        self._say(b"b")

    def end(self) -> dict[str, Any]:
        """End it and return what was seen."""
        found: dict[str, Any] = json.loads(self._say(b"e"))
        return found

    def _say(self, word: bytes) -> bytes:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(word)
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the program."""
        self._process.communicate()


def furthest(run: Run) -> float:
    """Return the largest `got` that the payload said; several of its processes may have spoken at once."""
    words = [line[4:] for line in run.out.splitlines() if line.startswith(b"got=")]
    return max((float(word) for word in words if word.isdigit()), default=0.0)


def attempt(limit: Limit, way: Way, watch: Watch, *, lifted: bool = False, times: int = 1) -> Outcome:
    """Run a way with its limit, or `lifted`.

    Args:
        limit: the limit.
        way: the way past it.
        watch: looks at the host meanwhile.
        lifted: without it.
        times: how often what the register says is asked for; where trials are recorded, once.

    Raises:
        UnsupportedError: the limit needs a controller that there is none of.
    """
    hold_ms = 50 if lifted or way.weak else limit.settle_ms
    asked = (way.ask or limit.ask) * (1 if RECORD in os.environ else times)
    limits = {**(limit.lifted if lifted else {**limit.under, **way.under}), **way.more}
    with watch.lock:
        watch.begin()
        began = time.monotonic_ns()
        try:
            run = run_payload(
                way.source, way.word, str(asked), str(hold_ms), policy=way.policy, limits=limits, audit=False, profile_changes=dict(way.changes)
            )  # fmt: skip
        except UnsupportedError:
            if not lifted and (path := os.environ.get(RECORD)):
                record(path, explain_backend().backend or "fallback", way, "unsupported", 0, "0", "0", "", "0", "")
            raise
        finally:
            seen = watch.end()
    wall_ns = time.monotonic_ns() - began
    got = measure(limit, run)
    outcome = Outcome(
        run=run, got=got, tasks=seen["tasks"], memory_bytes=seen["memory"], memory_source=seen["source"], wall_ns=wall_ns, left=tuple(seen["left"])
    )  # fmt: skip
    if not lifted and (path := os.environ.get(RECORD)):
        usage, facts = run.result.usage, run.facts
        what = (outcome.memory_bytes, outcome.memory_source, outcome.tasks, facts.get("errno", ""))
        record(path, outcome.backend, way, run.result.verdict, got, usage.memory_peak_bytes or 0, *what)
    return outcome


def measure(limit: Limit, run: Run) -> float:
    """Return how far a run came, in its limit's unit."""
    usage = run.result.usage
    match limit.name:
        case "output":
            return (len(run.out) + len(run.err)) / 1024
        case "wall":
            return usage.wall_ns / 1e6
        case "idle":
            # Or as it was judged: the end of a run takes time, but CPU time, too, on every processor.
            judged = (fact.value for fact in run.result.evidence if fact.limit == "idle")
            return max(usage.wall_ns - usage.cpu_ns, *judged, 0) / 1e6
        case "cpu":
            return max(furthest(run), usage.cpu_ns / 1e6)
        case "cpus":
            return 100 * usage.cpu_ns / usage.wall_ns
        case _:
            return furthest(run)


def record(path: str, backend: str, way: Way, verdict: str, got: float, *others: object) -> None:
    """Add the trial to the file that `table.py` reads."""
    who = "root" if os.geteuid() == 0 else "user"
    fields = (f"{backend.replace('none', 'fallback')}-{who}", way.limit, way.name, verdict, f"{got:g}", *others)
    with open(path, "a") as file:
        file.write("\t".join(map(str, fields)) + "\n")
