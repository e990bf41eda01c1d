"""One party while it plays: its run, its ends of pipes, and how it has ended."""

from __future__ import annotations

import os
from typing import NamedTuple

from sandbox.api.direct import DirectRun
from sandbox.judge.interactive.graph import Party, Pipe
from sandbox.judge.interactive.played import Ended, Ending
from sandbox.judge.interactive.relay import Channel
from sandbox.judge.interactive.waits import Look, look_at
from sandbox.judge.model import RunLimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.judge.running import Runner
    from sandbox.result import Result


class Used(NamedTuple):
    """CPU time of a party and what the clocks have charged to it, in nanoseconds."""

    cpu_ns: int
    own_ns: int
    idle_ns: int


class Seat:
    """A party at the table.

    Attributes:
        out: carries what it writes.
        into: carries what it reads, where that comes from another party.
        place: in the order of ends, -1 before its end has begun.
        ending: who ended it.
        meanwhile: what all waited for when it was ended, where that could be a deadlock.
        told: whether it was told of another's end before its own.
        unheard_at: when it is to have come to its end, because it ends with its reader and that has gone; None for never.
        over: whether everything of it is dead.
        at_word: what it had used when the referee ended the game before its own end; None where it did not.
    """

    def __init__(self, party: Party, runner: Runner) -> None:
        self.party = party
        self.name = party.name
        self.out: Channel | None = None
        self.into: Channel | None = None
        self.place = -1
        self.ending = Ending.ITSELF
        self.meanwhile = ""
        self.told = False
        self.unheard_at: int | None = None
        self.over = False
        self.at_word: Used | None = None
        self.result: Result | None = None
        self._runner = runner
        self._direct: DirectRun | None = None
        self._graph: frozenset[str] = frozenset()

    # ---- the start -----------------------------------------------------------------------------------------

    def connect(self, writer: int, reader: int) -> None:
        """Take notice of the pipes whose other ends are its standard input and output; both are borrowed."""
        self._graph = frozenset(f"pipe:[{os.fstat(fd).st_ino}]" for fd in (writer, reader))

    def begin(self, stdin: int, stdout: int, wall_ns: int, on_end: Callable[[], object]) -> None:
        """Start its run.

        Args:
            stdin: the end for reading, borrowed until this returns.
            stdout: the end for writing, likewise.
            wall_ns: when its sandbox ends it whatever it waits for.
            on_end: called in another thread when everything of it is dead.
        """
        limits, party = self.party.limits, self.party
        self._direct = self._runner.direct(
            RunLimits(
                cpu_ns=limits.cpu_ns, cpu_cut_ns=limits.cpu_ns, wall_ns=wall_ns, memory_bytes=limits.memory_bytes,
                output_bytes=limits.output_bytes, processes=limits.processes,
            ),
            stdin=stdin, stdout=stdout, args=party.args, files=party.files or None, collect=party.collect, collect_bytes=party.collect_bytes,
            home_bytes=party.home_bytes,
        )  # fmt: skip
        self._direct.run.call_at_end(on_end)

    def wait_for_start(self) -> None:
        """Wait until its program is about to be executed; raises what it failed with."""
        assert self._direct is not None
        self._direct.wait_for_start()

    def feed(self, writer: int) -> Channel:
        """Return the channel that brings it the input that comes from no party; takes the descriptor."""
        channel = Channel(Pipe(source="", sink=self.name), -1, writer, 0, data=self.party.stdin)
        return channel

    def open_out(self, pipe: Pipe | None, reader: int, writer: int) -> Channel:
        """Return the channel of what it writes, kept where it goes to no party; takes both descriptors."""
        return Channel(pipe or Pipe(source=self.name, sink=""), reader, writer, self.party.limits.output_bytes)

    # ---- meanwhile -----------------------------------------------------------------------------------------

    @property
    def payload_pid(self) -> int:
        """Its program's number on this host."""
        return self._direct.run.payload_pid if self._direct is not None else 0

    def cpu_ns(self) -> int:
        """CPU time of its processes so far."""
        return self._direct.run.cpu_ns() if self._direct is not None else 0

    def look(self) -> Look:
        """See what its threads do."""
        return look_at(self._direct.run.pids() if self._direct is not None else [], self._graph)

    def stderr_waiting(self) -> int:
        """Bytes of its standard error that are on their way to us."""
        return self._direct.stderr_waiting() if self._direct is not None else 0

    # ---- the end -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it; nothing happens when it is over."""
        if self._direct is not None and not self.over:
            self._direct.run.kill()

    def take_result(self) -> Result:
        """Return what came of it, or raise what its sandbox failed with."""
        assert self._direct is not None
        self.result = self._direct.run.result()
        return self.result

    def ended(self, own_ns: int, idle_ns: int) -> Ended:
        """Return how it ended, with what is left in its pipe; its result was taken.

        Args:
            own_ns: wall time that the clocks have charged to it.
            idle_ns: of that, with none of its threads running.
        """
        assert self.result is not None and self.out is not None
        self.out.drain()
        cpu_ns = self.result.usage.cpu_ns
        counted = Used(cpu_ns, own_ns, idle_ns) if self.at_word is None else self.at_word
        return Ended(
            name=self.name,
            result=self.result,
            place=self.place,
            ending=self.ending,
            meanwhile=self.meanwhile,
            told=self.told,
            cpu_ns=min(cpu_ns, counted.cpu_ns),
            own_ns=counted.own_ns,
            idle_ns=counted.idle_ns,
            sent_bytes=self.out.came,
            lost_bytes=self.out.lost,
            received_bytes=self.into.moved if self.into is not None else len(self.party.stdin),
            stdout=bytes(self.out.kept),
        )

    def close(self) -> None:
        """Wait for its end, and let go of what is ours."""
        if self._direct is not None:
            self._direct.run.join()
            self._direct.close()
