"""The relay's channels, clocks and transcript, and the graph's rules."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from sandbox.errors import PolicyError
from sandbox.judge.interactive.calls import Wait, Waiting
from sandbox.judge.interactive.clocks import Clocks
from sandbox.judge.interactive.graph import Graph, Party, PartyLimits, Pipe, pair
from sandbox.judge.interactive.relay import Channel
from sandbox.judge.interactive.transcript import Entry, Transcript
from sandbox.judge.interactive.waits import Look
from sandbox.judge.model import Program

PIPE = Pipe(source="a", sink="b")


class Ends:
    """A channel between two pipes, with the parties' ends."""

    def __init__(self, limit: int = 1 << 30) -> None:
        reader, self.writer = os.pipe()
        self.reader, writer = os.pipe()
        os.set_blocking(self.writer, False)
        os.set_blocking(self.reader, False)
        self.channel = Channel(PIPE, reader, writer, limit)

    def close(self, *names: str) -> None:
        for name in names or ("reader", "writer"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.channel.close()
    made.close()


def test_bytes_go_through(ends: Ends) -> None:
    os.write(ends.writer, b"abc")
    assert ends.channel.take() == b"abc"
    assert os.read(ends.reader, 10) == b"abc"
    assert (ends.channel.came, ends.channel.moved, ends.channel.lost) == (3, 3, 0)


def test_what_is_not_read_holds_its_writer_up(ends: Ends) -> None:
    written = 0
    while True:
        try:
            written += os.write(ends.writer, bytes(1 << 16))
        except BlockingIOError:
            if not ends.channel.interest().get(ends.channel.source):
                break
            ends.channel.take()
    assert ends.channel.interest() == {ends.channel.sink: select.POLLOUT}
    assert written <= 3 << 16, "two pipes and one piece"
    assert ends.channel.came - ends.channel.moved == 1 << 16


def test_the_end_is_held_until_it_is_released(ends: Ends) -> None:
    os.write(ends.writer, b"last")
    ends.close("writer")
    ends.channel.take()
    assert ends.channel.take() == b"" and ends.channel.source == -1
    assert os.read(ends.reader, 10) == b"last"
    with pytest.raises(BlockingIOError):
        os.read(ends.reader, 10)
    ends.channel.release()
    assert os.read(ends.reader, 10) == b""


def test_a_released_end_comes_after_the_data(ends: Ends) -> None:
    ends.channel.release()
    os.write(ends.writer, b"last")
    ends.close("writer")
    assert ends.channel.take() == b"last"
    ends.channel.take()
    assert os.read(ends.reader, 10) == b"last"
    assert os.read(ends.reader, 10) == b""


def test_what_nobody_reads_is_taken_and_counted(ends: Ends) -> None:
    ends.close("reader")
    os.write(ends.writer, b"abc")
    assert ends.channel.take() == b"abc"
    assert ends.channel.broken and ends.channel.sink == -1
    os.write(ends.writer, b"de")
    assert ends.channel.take() == b"de"
    assert (ends.channel.lost, ends.channel.moved) == (5, 0)


def test_a_reader_that_left_is_told_of_without_data(ends: Ends) -> None:
    poll = select.poll()
    poll.register(ends.channel.sink, ends.channel.interest()[ends.channel.sink])
    assert poll.poll(0) == []
    ends.close("reader")
    assert poll.poll(0)[0][1] & select.POLLERR


def test_too_much_is_seen() -> None:
    made = Ends(limit=3)
    os.write(made.writer, b"abc")
    made.channel.take()
    assert not made.channel.exceeded
    os.write(made.writer, b"d")
    made.channel.take()
    assert made.channel.exceeded
    made.channel.close()
    made.close()


def test_a_channel_without_sink_keeps_what_may_come() -> None:
    reader, writer = os.pipe()
    channel = Channel(PIPE, reader, -1, 4)
    os.write(writer, b"abcdef")
    os.close(writer)
    channel.drain()
    assert bytes(channel.kept) == b"abcd" and channel.exceeded and channel.source == -1


def test_a_channel_without_source_gives_what_it_has_and_ends() -> None:
    reader, writer = os.pipe()
    channel = Channel(PIPE, -1, writer, 0, data=b"abc")
    assert os.read(reader, 10) == b"abc"
    assert os.read(reader, 10) == b"" and channel.sink == -1
    os.close(reader)


# ---- clocks -----------------------------------------------------------------------------------------------------


def look(*waits: Wait) -> Look:
    return Look(waiting=tuple(Waiting(wait=wait, words="") for wait in waits))


def test_time_belongs_to_whose_turn_it_is() -> None:
    clocks = Clocks("sv", "v", 0)
    clocks.said("v")
    clocks.given("s")
    clocks.advance(100, "sv")
    clocks.said("s")
    clocks.given("v")
    clocks.advance(150, "sv")
    assert clocks.own_ns == {"s": 100, "v": 50}
    assert clocks.idle_ns == {"s": 0, "v": 0}, "nobody has looked"


def test_who_writes_again_and_again_makes_nobody_else_late() -> None:
    clocks = Clocks("sv", "v", 0)
    clocks.said("v", "s")
    clocks.given("s")
    for moment in range(10, 1010, 10):
        clocks.advance(moment, "sv")
        clocks.said("s", "v")
        clocks.given("v")
    assert clocks.own_ns == {"s": 1000, "v": 0}


def test_who_waits_for_a_slow_reader_is_not_late() -> None:
    clocks = Clocks("sv", "v", 0)
    for moment in range(10, 1010, 10):
        clocks.said("s", "v", blocked=True)
        clocks.given("v")
        clocks.advance(moment, "sv")
    assert clocks.own_ns == {"s": 0, "v": 1000}


@pytest.mark.parametrize(
    ("looks", "own", "idle"),
    [
        ({"s": look(Wait.READS), "v": look(Wait.RUNS)}, {"s": 0, "v": 10}, {"s": 0, "v": 0}),
        ({"s": look(Wait.OPEN), "v": look(Wait.READS)}, {"s": 10, "v": 0}, {"s": 10, "v": 0}),
        ({"s": look(Wait.READS, Wait.RUNS), "v": look(Wait.READS)}, {"s": 10, "v": 0}, {"s": 0, "v": 0}),
        ({"s": look(Wait.READS), "v": look(Wait.READS)}, {"s": 10, "v": 0}, {"s": 10, "v": 0}),
        ({"s": look(Wait.OPEN), "v": look(Wait.OPEN)}, {"s": 10, "v": 10}, {"s": 10, "v": 10}),
        ({"s": look(Wait.READS, Wait.OPEN), "v": look(Wait.READS)}, {"s": 10, "v": 0}, {"s": 10, "v": 0}),
    ],
)  # fmt: skip
def test_when_it_is_quiet_a_look_says_whose_time_it_is(looks: dict[str, Look], own: dict[str, int], idle: dict[str, int]) -> None:
    clocks = Clocks("sv", "v", 0)
    clocks.looked(looks)
    clocks.advance(10, "sv")
    assert (clocks.own_ns, clocks.idle_ns) == (own, idle)


def test_what_a_busy_host_takes_is_nobodys() -> None:
    clocks = Clocks("sv", "v", 0)
    clocks.begin(5_000_000_000)
    clocks.advance(9_000_000_000, "s", 25_000_000)
    assert 25_000_000 <= clocks.own_ns["s"] <= 50_000_000
    clocks.advance(9_010_000_000, "s", 25_000_000)
    assert 35_000_000 <= clocks.own_ns["s"] <= 60_000_000


def test_the_dead_are_not_charged() -> None:
    clocks = Clocks("sv", "v", 0)
    clocks.advance(10, "s")
    assert clocks.own_ns == {"s": 10, "v": 0}


# ---- transcript -------------------------------------------------------------------------------------------------


def test_a_transcript_is_bounded_and_keeps_both_ends() -> None:
    transcript = Transcript()
    for number in range(10_000):
        transcript.moved(number, "s", "v", b"x" * 1000)
    entries, lines = transcript.entries(), transcript.lines()
    assert entries[0].at_ns == 0 and entries[-1].at_ns == 9999
    assert len(entries) == 400 and len(lines) == 401
    assert "… 9600 entries left out …" in lines
    assert sum(len(entry.head) for entry in entries) <= 400 * 48


def test_what_programs_say_is_shown_as_one_line_of_ascii() -> None:
    entry = Entry(at_ns=1_500_000_000, source="s", sink="v", size=9, head=b"5\n\x1b[2J\xff\xc3\xa9")
    assert str(entry) == "1.500000 s > v 9 B '5\\n\\x1b[2J\\xff\\xc3\\xa9'"
    assert str(Entry(at_ns=0, source="s", sink="v", size=100, head=b"abc")).endswith("'abc'…")
    assert str(Entry(at_ns=0, source="s", event="closed its output")) == "0.000000 s closed its output"


# ---- graph ------------------------------------------------------------------------------------------------------

PROGRAM = Program(name="p", language="c", directory="", command=("true",))
LIMITS = PartyLimits(cpu_ns=1, own_ns=1, memory_bytes=1, output_bytes=1)


def party(name: str) -> Party:
    return Party(name=name, program=PROGRAM, limits=LIMITS)


@pytest.mark.parametrize(
    ("names", "pipes", "referee", "message"),
    [
        ("aa", (), "", "parties of a graph need names, each its own"),
        ("", (), "", "parties of a graph need names, each its own"),
        ("ab", (Pipe(source="a", sink="c"),), "", "pipe `a` to `c`: there is no party `c`"),
        ("abc", (Pipe(source="a", sink="b"), Pipe(source="a", sink="c")), "", "the standard output of `a` is in 2 pipes"),
        ("abc", (Pipe(source="a", sink="c"), Pipe(source="b", sink="c")), "", "the standard input of `c` is in 2 pipes"),
        ("ab", (), "c", "there is no party `c` to be the referee"),
    ],
)
def test_pipes_that_do_not_fit(names: str, pipes: tuple[Pipe, ...], referee: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Graph(parties=tuple(map(party, names)), pipes=pipes, referee=referee)
    assert caught.value.message == message


def test_a_pair() -> None:
    graph = pair(party("s"), party("v"), accepts=42, rejects=43)
    assert graph.referee == "v" and graph.accepts == {42} and graph.hearing == {43}
    assert {(pipe.source, pipe.sink, pipe.end_with_source) for pipe in graph.pipes} == {("v", "s", False), ("s", "v", True)}
