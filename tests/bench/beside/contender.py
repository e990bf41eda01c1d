"""What takes part: something that can run a program in its kind of sandbox, one after the other, several at once, or idle.

`Commands` are programs started anew for each launch; our own rows are servers (tiers.py). A contender raises `Failed` where it does not do what was asked.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from beside.host import Failed, descendants, wait_for_sleepers

NUMBER = "{number}"
"""A word of a command line that is another one for each launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is run inside.

    Attributes:
        name: as in tables.
        argv: the command; `{payload}` in it is where the shared directory is seen.
        slow: it takes so long by itself that one launch a turn is enough.
        shares: directories of the host that it needs at the same place besides /usr; our profile has them.
    """

    name: str
    argv: tuple[str, ...]
    slow: bool = False
    shares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """How many launches ended within a time, in seconds, and how many of them failed."""

    count: int
    wall: float
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The processes of idle sandboxes, payloads among them; `caller` is the program that uses our API, 0 for other rows. Pids."""

    caller: int
    others: frozenset[int]


class Contender(ABC):
    """A row of the tables.

    Attributes:
        name: as in tables.
        has: which walls it has, in the letters that report.py explains.
        note: what is unlike the other rows.
        line: how it is started, for the report.
        slow: a launch takes so long that one a round is enough.
    """

    def __init__(self, name: str, *, has: str, note: str = "", line: str = "", slow: bool = False) -> None:
        self.name = name
        self.has = has
        self.note = note
        self.line = line
        self.slow = slow

    @abstractmethod
    def prepare(self, program: Program) -> None:
        """Make what a launch of this program needs, once; not timed."""

    @abstractmethod
    def launch(self, program: Program, count: int) -> list[float]:
        """Run it so often, one after the other; return the microseconds of each, from the request to the known end."""

    @abstractmethod
    def sustain(self, program: Program, at_once: int, seconds: float) -> Sustained:
        """Run it over and over, so many at once, for a time."""

    @abstractmethod
    def output(self, program: Program) -> str:
        """Run it once and return what it prints."""

    @abstractmethod
    def hold(self, count: int) -> Held:
        """Have so many idle sandboxes in all, those that already are held among them."""

    @abstractmethod
    def close(self) -> None:
        """End everything that was started; idempotent."""


class Commands(Contender):
    """A program that is started for each launch.

    Args:
        words: from a program and a slot number below 8 to the command line.
        variables: the environment of all launches.
        opened: descriptors that the program gets, with the files behind them.
        before: a command line to run once for each slot, and one for the end.
    """

    def __init__(
        self,
        name: str,
        words: Callable[[Program, int], tuple[str, ...]],
        *,
        has: str,
        note: str = "",
        slow: bool = False,
        variables: Mapping[str, str],
        opened: Mapping[int, str] | None = None,
        before: Callable[[int], tuple[str, ...]] | None = None,
        after: Callable[[int], tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(name, has=has, note=note, slow=slow)
        self._words = words
        self._variables = dict(variables)
        self._opened = dict(opened or {})
        self._before = before
        self._after = after
        self._paths: dict[str, str] = {}
        self._slots: set[int] = set()
        self._held: list[int] = []
        self._known: set[int] = set()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._errors = os.memfd_create("errors", os.MFD_CLOEXEC)

    def prepare(self, program: Program) -> None:
        """Make the slots, and run the program once."""
        self._make_slots()
        if not self.line:
            shown = self._words(Program(name="", argv=("CMD",)), 0)
            self.line = " ".join([*shown, *(f"{fd}<{os.path.basename(path)}" for fd, path in self._opened.items())])
        self.launch(program, 1)

    def launch(self, program: Program, count: int) -> list[float]:
        """Spawn and wait."""
        words = self._words(program, 0)
        times = []
        for _ in range(count):
            began = time.perf_counter_ns()
            pid = self._start(words)
            _, status = os.waitpid(pid, 0)
            times.append((time.perf_counter_ns() - began) / 1000)
            self._check(pid, status)
        return times

    def sustain(self, program: Program, at_once: int, seconds: float) -> Sustained:
        """Keep so many children until the time is over, then wait for the last."""
        lines = [self._words(program, slot) for slot in range(at_once)]
        began = time.perf_counter()
        live = {self._start(lines[slot]): slot for slot in range(at_once)}
        count = failed = 0
        while live:
            pid, status = os.waitpid(-1, 0)
            if pid not in live:
                continue  # what another sandbox left to us
            slot = live.pop(pid)
            count += 1
            failed += status != 0
            if time.perf_counter() - began < seconds:
                live[self._start(lines[slot])] = slot
        return Sustained(count=count, wall=time.perf_counter() - began, failed=failed)

    def output(self, program: Program) -> str:
        """Run with standard output on a file."""
        words = self._words(program, 0)
        out = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            self._check(self._start(words, out))
            return os.pread(out, os.fstat(out).st_size, 0).decode(errors="replace")
        finally:
            os.close(out)

    def hold(self, count: int) -> Held:
        """Start what is missing of `sleep`; all new processes below this one are theirs."""
        self._make_slots()
        if not self._held:
            self._known = set(descendants(os.getpid()))
        for slot in range(len(self._held), count):
            self._held.append(self._start(self._words(Program(name="idle", argv=("/bin/sleep", "600")), slot)))
        wait_for_sleepers(count, self._new_processes)
        return Held(caller=0, others=frozenset(self._new_processes()))

    def close(self) -> None:
        """End what is held, and remove the slots."""
        for pid in self._new_processes() if self._held else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it is gone, or setuid: then its payload's end ends it
        for held in self._held:
            os.waitpid(held, 0)
        self._held.clear()
        for slot in sorted(self._slots) if self._after is not None else ():
            assert self._after is not None
            os.waitpid(self._start(self._after(slot)), 0)
        self._slots.clear()

    def _make_slots(self) -> None:
        for slot in range(8) if self._before is not None else ():
            if slot not in self._slots:
                assert self._before is not None
                self._slots.add(slot)
                self._check(self._start(self._before(slot)))

    def _new_processes(self) -> set[int]:
        return set(descendants(os.getpid())) - self._known

    def _start(self, words: tuple[str, ...], out: int = -1) -> int:
        os.ftruncate(self._errors, 0)
        os.lseek(self._errors, 0, os.SEEK_SET)
        if NUMBER in words:
            words = tuple(f"beside-{os.getpid()}-{time.monotonic_ns()}" if word == NUMBER else word for word in words)
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_DUP2, self._null if out < 0 else out, 1),
            (os.POSIX_SPAWN_DUP2, self._errors, 2),
        ]
        actions += [(os.POSIX_SPAWN_OPEN, fd, path, os.O_RDONLY, 0) for fd, path in self._opened.items()]
        if words[0] not in self._paths:  # posix_spawnp would look along our own PATH
            self._paths[words[0]] = shutil.which(words[0], path=self._variables["PATH"]) or words[0]
        return os.posix_spawn(self._paths[words[0]], words, self._variables, file_actions=actions)

    def _check(self, pid: int, status: int | None = None) -> None:
        if status is None:
            _, status = os.waitpid(pid, 0)
        if status:
            said = os.pread(self._errors, 4096, 0).decode(errors="replace").strip()
            raise Failed(f"exit code {os.waitstatus_to_exitcode(status)}: {said[-300:]}")
