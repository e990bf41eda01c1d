"""Playing a graph: every party in its sandbox, one loop over their pipes and ends, until nobody is left.

The loop moves bytes, looks at the threads when it has been quiet for a while, charges time to whom it belongs, and decides who is ended for what. It does not
judge: `blame` does, from what is told here.

The order of ends is one of causes, not of the moments at which we hear of them: nobody is told of an end (its input closed, itself ended) before that end has
its place. Descriptors of a process are closed only after the kernel has marked it as ending, so a closed pipe whose party is not ending was closed by choice.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque

from sandbox.judge.interactive.clocks import Clocks
from sandbox.judge.interactive.played import Ending, Played, Stuck
from sandbox.judge.interactive.seat import Seat, Used
from sandbox.judge.interactive.transcript import Transcript
from sandbox.judge.interactive.waits import Look, is_ending
from sandbox.result import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.interactive.graph import Graph
    from sandbox.judge.interactive.relay import Channel
    from sandbox.judge.running import Runner

_QUIET_NS = 25_000_000
"""How long nothing moves before somebody looks, and how long after one look the next is that may prove a deadlock."""

_LAZY_NS = 200_000_000
_HEARING_STEP_NS = 3_000_000
_HEARING_CPU_NS = 50_000_000
_HEARING_NS = 500_000_000
"""How much CPU and wall time a party that neither waits nor ends has after the referee's word, to come to an end of its own."""


def play(graph: Graph, runners: Mapping[str, Runner]) -> Played:
    """Play a graph to its end.

    Args:
        graph: who plays and who hears whom.
        runners: by party, open; what they keep is of use to the next game.

    Raises:
        SandboxError: one of the sandboxes could not be set up, or a program not be executed; every party is ended.
    """
    game = _Game(graph, runners)
    try:
        return game.run()
    finally:
        game.close()


class _Game:
    def __init__(self, graph: Graph, runners: Mapping[str, Runner]) -> None:
        self._graph = graph
        self._transcript = Transcript()
        self._poll = select.poll()
        self._interest: dict[int, int] = {}
        self._ended: deque[Seat] = deque()
        self._places = 0
        self._looks: Mapping[str, Look] | None = None
        self._look_at = 0
        self._step = _QUIET_NS
        self._linger_at: int | None = None
        self._hearing: tuple[int, dict[str, int]] | None = None  # until when, and the CPU time that each had used when it began
        self._deadlock: tuple[Stuck, ...] = ()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._seats = {party.name: Seat(party, runners[party.name]) for party in graph.parties}
        self._channels: list[Channel] = []
        self._began = time.monotonic_ns()
        self._clocks = Clocks(self._seats, (party.name for party in graph.parties if party.patient), self._began)

    def run(self) -> Played:
        """Play to the end."""
        self._start()
        self._poll.register(self._wake, select.POLLIN)
        now = time.monotonic_ns()
        self._clocks.begin(now)
        self._moved(now)
        while any(not seat.over for seat in self._seats.values()):
            self._arm()
            wait_ms = max(0, -(-(self._next_ns() - time.monotonic_ns()) // 1_000_000))
            ready = self._poll.poll(wait_ms)
            now = time.monotonic_ns()
            self._clocks.advance(now, (seat.name for seat in self._seats.values() if not seat.over), wait_ms * 1_000_000)
            for fd, events in ready:
                if fd == self._wake:
                    os.eventfd_read(fd)
                else:
                    self._on_pipe(fd, events, now)
            while self._ended:  # after the pipes: who is seen to end there comes first
                self._on_end(self._ended.popleft(), now)
            self._keep_limits(now)
            if self._hearing is not None:
                self._hear(now)
            elif not ready and now >= self._look_at:
                self._look(now)
        return self._told(time.monotonic_ns())

    # ---- the start -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        graph = self._graph
        into = {pipe.sink: pipe for pipe in graph.pipes}
        out = {pipe.source: pipe for pipe in graph.pipes}
        limit = sum(party.limits.own_ns for party in graph.parties) + graph.linger_ns
        theirs: list[int] = []
        ours: dict[tuple[str, int], int] = {}
        try:
            for name, seat in self._seats.items():
                reader, ours[name, 0] = os.pipe2(os.O_CLOEXEC)
                theirs.append(reader)
                ours[name, 1], writer = os.pipe2(os.O_CLOEXEC)
                theirs.append(writer)
                seat.connect(ours[name, 0], ours[name, 1])
                self._begin(seat, reader, writer, limit)
            for seat in self._seats.values():
                seat.wait_for_start()
        except BaseException:
            for fd in ours.values():
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for name, seat in self._seats.items():
            if name not in into:
                self._channels.append(seat.feed(ours[name, 0]))
            pipe = out.get(name)
            sink = ours[pipe.sink, 0] if pipe is not None else -1
            seat.out = seat.open_out(pipe, ours[name, 1], sink)
            self._channels.append(seat.out)
        for pipe in graph.pipes:
            self._seats[pipe.sink].into = self._seats[pipe.source].out

    def _begin(self, seat: Seat, reader: int, writer: int, limit_ns: int) -> None:
        def on_end() -> None:
            self._ended.append(seat)
            with self._lock:
                if self._wake >= 0:
                    os.eventfd_write(self._wake, 1)

        seat.begin(reader, writer, limit_ns, on_end)

    def _arm(self) -> None:
        wanted: dict[int, int] = {}
        for channel in self._channels:
            wanted |= channel.interest()
        if wanted == self._interest:
            return
        for fd in self._interest:
            if fd not in wanted:
                self._poll.unregister(fd)
        for fd, events in wanted.items():
            self._poll.register(fd, events)
        self._interest = wanted

    def _next_ns(self) -> int:
        if self._hearing is not None:
            return time.monotonic_ns() + _HEARING_STEP_NS
        moments = [self._look_at]
        if self._linger_at is not None:
            moments.append(self._linger_at)
        for seat in self._seats.values():
            if not seat.over and seat.place < 0:
                moments.append(time.monotonic_ns() + seat.party.limits.own_ns - self._clocks.own_ns[seat.name])
                if seat.unheard_at is not None and seat.unheard_at > time.monotonic_ns():  # later it ends with the next that it writes
                    moments.append(seat.unheard_at)
        return min(moments)

    # ---- bytes ---------------------------------------------------------------------------------------------

    def _moved(self, now: int) -> None:
        """Something has moved: whatever was seen before is no evidence any more."""
        self._looks, self._step = None, _QUIET_NS
        self._look_at = now + _QUIET_NS

    def _on_pipe(self, fd: int, events: int, now: int) -> None:
        for channel in self._channels:
            if fd == channel.source:
                self._on_source(channel, now)
            elif fd == channel.sink:
                if events & select.POLLERR:
                    channel.broken = True
                else:
                    channel.give()
                    self._given(channel)
            else:
                continue
            if channel.broken:
                self._on_reader_gone(channel, now)
            self._moved(now)
            return

    def _on_source(self, channel: Channel, now: int) -> None:
        pipe = channel.pipe
        data = channel.take()
        if data:
            self._transcript.moved(now - self._began, pipe.source, pipe.sink, data)
            self._clocks.said(pipe.source, pipe.sink, blocked=channel.behind)
            self._given(channel)
            if channel.exceeded:
                seat = self._seats[pipe.source]
                self._end(seat, Ending.OUTPUT if seat.unheard_at is None else Ending.LINGERED, now)
        elif channel.source < 0:
            seat = self._seats[pipe.source]
            if not self._notice(seat):
                self._transcript.happened(now - self._began, seat.name, "closed its output")
                if not pipe.end_with_source:
                    self._pass_on(channel)

    def _on_reader_gone(self, channel: Channel, now: int) -> None:
        channel.broken = False
        self._close_unheard(channel, now)
        seat = self._seats[channel.pipe.sink]
        if not self._notice(seat):
            self._transcript.happened(now - self._began, seat.name, "closed its input")

    def _close_unheard(self, channel: Channel, now: int) -> None:
        """Nobody reads any more what comes by this channel."""
        channel.close_sink()
        writer = self._seats.get(channel.pipe.source)
        if writer is not None and writer.party.ends_with_reader and writer.unheard_at is None:
            writer.unheard_at = now + self._graph.linger_ns

    def _given(self, channel: Channel) -> None:
        if channel.pipe.sink in self._seats:
            self._clocks.given(channel.pipe.sink)

    def _pass_on(self, channel: Channel) -> None:
        channel.release()
        self._given(channel)

    # ---- ends ----------------------------------------------------------------------------------------------

    def _notice(self, seat: Seat) -> bool:
        """Give a party that has begun to end its place; return whether it has."""
        if seat.place < 0:
            if not seat.over and not is_ending(seat.payload_pid):
                return False
            seat.place = self._places
            self._places += 1
        return True

    def _end(self, seat: Seat, ending: Ending, now: int) -> None:
        """End a party, unless it has begun to end by itself."""
        if seat.over or seat.ending is not Ending.ITSELF:
            return
        if seat.place < 0 and not is_ending(seat.payload_pid):
            seat.ending = ending
            seat.meanwhile = self._doubt()
            seat.told = seat.told or ending in (Ending.DECIDED, Ending.DEADLOCK, Ending.LINGERED)
            self._transcript.happened(now - self._began, seat.name, f"is ended: {ending}")
        elif ending is Ending.OUTPUT:
            seat.ending = ending  # what it wrote last is too much all the same
        if seat.place < 0:
            seat.place = self._places
            self._places += 1
        seat.kill()

    def _doubt(self) -> str:
        """Return what everybody waits for, where all wait and it could not be proved that nobody will ever move."""
        looks = self._looks or {}
        if not looks or not all(look.waits_for_others or look.stuck for look in looks.values()):
            return ""
        words = ", ".join(f"{name} {look.words}" for name, look in looks.items())
        because = "; ".join(f"{name}: {look.open_because}" for name, look in looks.items() if look.open_because)
        return f"{words}; not proved to be a deadlock ({because})" if because else ""

    def _on_end(self, seat: Seat, now: int) -> None:
        """Everything of a party is dead: pass it on."""
        seat.over = True
        self._notice(seat)
        result = seat.take_result()
        self._moved(now)
        self._transcript.happened(now - self._began, seat.name, f"has ended: {result.cause}")
        if seat.into is not None:
            self._close_unheard(seat.into, now)
        others = [other for other in self._seats.values() if not other.over]
        if seat.name == self._graph.referee and (seat.ending is not Ending.ITSELF or result.exit_code not in self._graph.accepts):
            self._decide(seat, result.exit_code if seat.ending is Ending.ITSELF else -1, others, now)
            return
        if seat.out is not None:
            self._tell(seat)
        # Of any but the referee, that it was ended for writing on is no failure that the referee would have to answer.
        failed = seat.ending is not Ending.LINGERED and (seat.ending is not Ending.ITSELF or result.verdict is not Verdict.OK)
        if failed and self._graph.referee and self._linger_at is None and self._hearing is None:
            self._linger_at = now + self._graph.linger_ns

    def _tell(self, seat: Seat) -> None:
        """Let whoever reads a party's output see its end."""
        assert seat.out is not None
        sink = self._seats.get(seat.out.pipe.sink)
        if sink is not None and sink.place < 0 and not is_ending(sink.payload_pid):
            sink.told = True
        self._pass_on(seat.out)

    def _decide(self, referee: Seat, exit_code: int, others: list[Seat], now: int) -> None:
        """The referee has ended, and not so that the others go on: what they use from now on is nobody's fault."""
        for other in others:
            used = Used(other.cpu_ns(), self._clocks.own_ns[other.name], self._clocks.idle_ns[other.name])
            if not self._notice(other):  # after the look: of a process that has ended there may be nothing to see
                other.at_word = used
        if exit_code in self._graph.hearing and others:
            self._hearing = (now + _HEARING_NS, {other.name: other.cpu_ns() for other in others})
            self._hear(now)
            return
        for other in others:
            self._end(other, Ending.DECIDED, now)

    def _hear(self, now: int) -> None:
        """See whether who is left comes to an end of its own without being told; end those that wait, or take too long."""
        assert self._hearing is not None
        until, used = self._hearing
        for seat in self._seats.values():
            if seat.over or self._notice(seat):
                continue
            quiet = seat.into is None or seat.into.over
            if (
                now >= until
                or (quiet and seat.look().waits_for_others)
                or seat.cpu_ns() - used.get(seat.name, 0) > _HEARING_CPU_NS
            ):
                self._end(seat, Ending.DECIDED, now)

    # ---- looks and limits ----------------------------------------------------------------------------------

    def _look(self, now: int) -> None:
        """It is quiet: see who waits, and whether anybody can ever move again."""
        live = [seat for seat in self._seats.values() if not seat.over]
        looks = {seat.name: seat.look() for seat in live}
        before, self._looks = self._looks, looks
        self._clocks.looked(looks)
        # Whose end has begun is on its way, however long that takes.
        stuck = all(looks[seat.name].stuck and seat.place < 0 and seat.stderr_waiting() == 0 for seat in live)
        # Between two such looks nothing was ready, for the poll before this one came back empty.
        if stuck and before is not None and all(look.unmoved_since(before.get(name)) for name, look in looks.items()):
            self._deadlock = tuple(Stuck(name=name, words=look.words, for_others=look.waits_for_others) for name, look in looks.items())
            for seat in live:
                self._end(seat, Ending.DEADLOCK, now)
            return
        self._step = _QUIET_NS if stuck else min(_LAZY_NS, 2 * self._step)
        self._look_at = time.monotonic_ns() + self._step

    def _keep_limits(self, now: int) -> None:
        for seat in self._seats.values():
            if seat.over or seat.place >= 0:
                continue
            limits = seat.party.limits
            if self._clocks.own_ns[seat.name] >= limits.own_ns:
                self._end(seat, Ending.OWN_TIME, now)
            elif limits.idle_ns is not None and self._clocks.idle_ns[seat.name] >= limits.idle_ns:
                self._end(seat, Ending.IDLE, now)
            elif self._linger_at is not None and now >= self._linger_at and seat.name == self._graph.referee:
                self._end(seat, Ending.LINGERED, now)
            elif seat.unheard_at is not None and now >= seat.unheard_at and seat.out is not None and seat.out.lost:
                self._end(seat, Ending.LINGERED, now)

    # ---- what came of it -----------------------------------------------------------------------------------

    def _told(self, now: int) -> Played:
        own, idle = self._clocks.own_ns, self._clocks.idle_ns
        return Played(
            parties={name: seat.ended(own[name], idle[name]) for name, seat in self._seats.items()},
            deadlock=self._deadlock,
            wall_ns=now - self._began,
            transcript=self._transcript.entries(),
            transcript_lines=self._transcript.lines(),
            notes=tuple(dict.fromkeys(seat.meanwhile for seat in self._seats.values() if seat.meanwhile)),
        )

    def close(self) -> None:
        """End whoever is left, and let go of everything."""
        for seat in self._seats.values():
            seat.kill()
        for seat in self._seats.values():
            seat.close()
        for channel in self._channels:
            channel.close()
        with self._lock:  # a thread may be about to tell of an end that nobody waits for any more
            wake, self._wake = self._wake, -1
        os.close(wake)
