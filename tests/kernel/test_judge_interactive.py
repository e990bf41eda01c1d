"""Dialogues of real programs: the right party is blamed for the end of each, quickly where nobody can move, and never where somebody could.

Each rule that the verdicts rest on is shown to matter: without it, a dialogue of the table gets another verdict.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kernel.parties import ASKS, EDGES, LONG_MS, MS, READS, Edge, S, Table, V, faults, limits

from sandbox.errors import SandboxError
from sandbox.judge.building import Builder
from sandbox.judge.interactive import Graph, Party, PartyLimits, Pipe, calls, waits
from sandbox.judge.interactive import play as playing
from sandbox.judge.interactive.graph import pair
from sandbox.judge.interactive.play import play
from sandbox.judge.interactive.played import Ending, Played
from sandbox.judge.interactive.relay import Channel
from sandbox.judge.interactive.waits import Look
from sandbox.judge.model import Code, Program
from sandbox.judge.pipeline.settle import under
from sandbox.judge.problem import Case, Submission
from sandbox.judge.running import Runner
from sandbox.result import Verdict
from sandbox.supervise.reins import Reins

pytestmark = [
    pytest.mark.userns, pytest.mark.seccomp, pytest.mark.skipif(shutil.which("gcc") is None, reason="the parties are written in C and gcc is not installed"),
]  # fmt: skip

LIMITS = PartyLimits(cpu_ns=10_000 * MS, own_ns=LONG_MS * MS, memory_bytes=256 << 20, output_bytes=1 << 20)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_the_right_party_is_blamed(table: Table, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    if edge.flags == (Code.NZE, Code.WA):  # it ends by itself, if a busy host lets it
        monkeypatch.setattr(playing, "_HEARING_NS", LONG_MS * MS)
    result = table.play(edge)
    assert not faults(edge, result)


# ---- what each rule is for --------------------------------------------------------------------------------------


TIMED = ["a thread speaks later", "a poll with a time-out goes on", "a timer in epoll goes on", "a thread of the validator speaks later"]


def after_an_hour(name: str) -> Edge:
    """Return a dialogue in which what comes later comes so late that whoever does not count on it has looked long before."""
    edge = EDGES[name]
    later = [words.replace(":400", ":3600000").replace("alarm:1", "alarm:3600") for words in (edge.submission, edge.validator)]
    assert later != [edge.submission, edge.validator]
    return replace(edge, submission=later[0], validator=later[1])


@pytest.mark.parametrize("name", TIMED)
def test_taking_a_time_out_for_a_wait_would_blame_the_innocent(table: Table, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_open", calls._own)
    result = table.play(after_an_hour(name))
    assert result.code in (Code.WTL, Code.JE) and "deadlock" in result.cause, result


@pytest.mark.parametrize(("name", "rule"), [("a timer speaks later", "timers"), ("an alarm speaks later", "SIGALRM")])
def test_overlooking_a_signal_that_will_come_would_blame_the_innocent(table: Table, name: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "_own_timers", lambda pid: "")
    monkeypatch.setattr(waits, "_SIGALRM_BIT", 0)
    result = table.play(after_an_hour(name))
    assert (result.code, result.cause) == (Code.WTL, READS), rule


class SlowStart:
    """Makes our own supervisor late: each program is let go only after the loop has looked a few times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
        self._left = looks
        self._over = threading.Event()
        let_go, look = Reins.let_go, playing.Seat.look

        def let_go_late(reins: Reins, words: bytes) -> None:
            assert self._over.wait(120)
            let_go(reins, words)

        def count(seat: playing.Seat) -> Look:
            self._left -= 1
            if self._left <= 0:
                self._over.set()
            return look(seat)

        monkeypatch.setattr(Reins, "let_go", let_go_late)
        monkeypatch.setattr(playing.Seat, "look", count)


def test_a_program_that_we_have_not_let_go_is_not_stuck(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowStart(monkeypatch, looks=12)
    assert table.play(EDGES["a right dialogue"]).code is Code.AC


def test_taking_the_wait_for_our_word_for_one_of_its_own_would_blame_it(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowStart(monkeypatch, looks=12)
    monkeypatch.setattr(waits, "_is_starting", lambda name, init: False)
    result = table.play(EDGES["a right dialogue"])
    assert result.code is Code.JE and result.cause.startswith("deadlock: "), result


def test_a_party_that_is_slow_to_die_is_no_second_deadlock(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    left, late, dead = [4], list[playing.Seat](), list[playing.Seat]()
    kill, look = playing.Seat.kill, playing.Seat.look

    def kill_late(seat: playing.Seat) -> None:
        if seat.name == S and left[0] > 0:
            late.append(seat)
        else:
            dead.append(seat)
            kill(seat)

    def count(seat: playing.Seat) -> Look:
        if late and seat.name == S and dead[0].over:
            left[0] -= 1
            if left[0] <= 0:
                kill(late.pop())
        return look(seat)

    monkeypatch.setattr(playing.Seat, "kill", kill_late)
    monkeypatch.setattr(playing.Seat, "look", count)
    edge = EDGES["both read"]
    assert not faults(edge, table.play(edge))
    assert left[0] <= 0


def test_telling_of_an_end_before_it_has_its_place_would_blame_the_consequence(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "is_ending", lambda pid: False)
    over, begin = threading.Event(), playing.Seat.begin

    def begin_and_hear_of_the_validator_last(seat: playing.Seat, stdin: int, stdout: int, wall_ns: int, on_end: Callable[[], object]) -> None:
        def end() -> None:
            if seat.name == V:
                assert over.wait(60)
            on_end()
            over.set()

        begin(seat, stdin, stdout, wall_ns, end)

    monkeypatch.setattr(playing.Seat, "begin", begin_and_hear_of_the_validator_last)
    assert table.play(EDGES["the validator ends first, 43, and the submission falls over that"]).code is Code.NZE


def test_without_a_hearing_the_order_of_two_ends_would_be_chance(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = EDGES["a wrong answer, some work, and an end of its own with 3"]
    edge = replace(edge, submission="line say:9 burn:1000 exit:3")
    monkeypatch.setattr(playing, "_HEARING_CPU_NS", LONG_MS * MS)
    monkeypatch.setattr(playing, "_HEARING_NS", LONG_MS * MS)
    assert table.play(edge).code is Code.NZE
    monkeypatch.setattr(playing, "_HEARING_NS", 0)
    assert table.play(edge).code is Code.WA


def test_closing_what_nobody_reads_would_kill_the_writer(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Channel.close_sink

    def close_both(channel: Channel) -> None:
        channel._close_source()
        kept(channel)

    monkeypatch.setattr(Channel, "close_sink", close_both)
    assert table.play(EDGES["the validator writes to whom has ended"]).code is Code.JE
    assert table.play(EDGES["the submission writes to whom has ended"]).code is Code.RTE


def test_time_before_the_validators_word_counts(table: Table) -> None:
    """A wrong answer that came too late is late, however far the program was let run; waiting for the validator is not its time."""
    early = table.play(Edge(submission="line say:9 line", validator=f"{ASKS} exit:42", code=Code.WA))
    late = table.play(Edge(submission="line burn:300 sleep:1000 say:9 line", validator="sleep:100 say:5 expect:10 exit:42", code=Code.WA))
    assert early.code is late.code is Code.WA
    assert late.cpu_ns >= 300 * MS and late.own_ns is not None and 350 * MS < late.own_ns < late.wall_ns
    assert under(late, 200 * MS).code is Code.TLE and under(late, 5000 * MS).code is under(early, 200 * MS).code is Code.WA


def test_time_after_the_validators_word_does_not_count(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "_HEARING_CPU_NS", 1500 * MS)
    monkeypatch.setattr(playing, "_HEARING_NS", LONG_MS * MS)
    edge = EDGES["the validator ends first, 43, and the submission loops"]
    result = table.play(edge)
    assert not faults(edge, result) and under(result, 1000 * MS).code is Code.WA
    monkeypatch.setattr(playing.Seat, "at_word", property(lambda seat: None, lambda seat, used: None), raising=False)
    assert under(table.play(edge), 1000 * MS).code is Code.TLE


def test_passing_a_closed_output_on_at_once_would_make_a_wrong_answer_of_a_loop(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.judge.interactive import case

    def pair_at_once(*parties: Party, accepts: int, rejects: int) -> Graph:
        graph = pair(*parties, accepts=accepts, rejects=rejects)
        pipes = tuple(Pipe(source=pipe.source, sink=pipe.sink) for pipe in graph.pipes)
        return Graph(parties=graph.parties, pipes=pipes, referee=graph.referee, accepts=graph.accepts, hearing=graph.hearing)

    monkeypatch.setattr(case, "pair", pair_at_once)
    assert table.play(replace(EDGES["the submission closes its output and loops"], cpu_ms=10_000)).code is Code.WA


# ---- ordinary programs ------------------------------------------------------------------------------------------

# Each reads two numbers where the validator says one; its answer to the first is in a buffer of its own.
WAITERS = {
    "waiter.py": "a = int(input())\nprint(2 * a, end='')\nb = int(input())\n",
    "waiter.c": '#include <stdio.h>\nint main(void) { int a, b; scanf("%d", &a); printf("%d\\n", 2 * a); scanf("%d", &b); return 0; }\n',
    "waiter.cpp": '#include <iostream>\nint main() { int a, b; std::cin >> a; std::cout << 2 * a << "\\n"; std::cin.tie(nullptr); std::cin >> b; }\n',
    "Main.java": "import java.util.*; public class Main { public static void main(String[] none) { Scanner in = new Scanner(System.in);\n"
    "int a = in.nextInt(); StringBuilder out = new StringBuilder(); out.append(2 * a); int b = in.nextInt(); System.out.println(out); } }\n",
    "waiter.js": "let lines = 0; const input = require('readline').createInterface({ input: process.stdin });\n"
    "input.on('line', () => { if (++lines === 2) console.log(10); });\n",
}


@pytest.mark.parametrize("name", WAITERS)
def test_a_deadlock_of_an_ordinary_program_is_proved(table: Table, name: str, tmp_path: Path) -> None:
    with Builder(environ={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}) as builder:
        built = builder.build(Submission(name=name, files={name: WAITERS[name].encode()}))
        if built.absent:
            pytest.skip(f"{built.language}: {built.absent}")
        assert built.program is not None, built
        edge = Edge(submission="", validator="say:5 expect:10 exit:42", code=Code.WTL, blame=S, cause=f"deadlock: {V} reads stdin, {S} ")
        interactor = table.interactor(edge)
        case = Case(name="secret/1", input=str(table.directory / "1.in"), answer=str(table.directory / "1.ans"))
        with Runner(built.program) as runner:
            roomy = replace(limits(edge), memory_bytes=2 << 30)  # a JVM maps far more than it uses
            result = interactor.judge(runner, case, roomy)
    assert not faults(edge, result), result.transcript


# ---- graphs -----------------------------------------------------------------------------------------------------


def parties(table: Table, **words: str) -> tuple[dict[str, Party], dict[str, Runner]]:
    made = {name: Party(name=name, program=table.party(name, said, "judge"), limits=LIMITS) for name, said in words.items()}
    return made, {name: Runner(party.program) for name, party in made.items()}


def play_all(graph: Graph, runners: dict[str, Runner]) -> Played:
    try:
        return play(graph, runners)
    finally:
        for runner in runners.values():
            runner.close()


def test_three_programs_in_a_row(table: Table) -> None:
    made, runners = parties(table, first="say:one say:two", second="echo", third="echo")
    played = play_all(
        Graph(parties=tuple(made.values()), pipes=(Pipe(source="first", sink="second"), Pipe(source="second", sink="third"))), runners
    )
    assert played.parties["third"].stdout == b"one\ntwo\n"
    assert {name: ended.result.verdict for name, ended in played.parties.items()} == dict.fromkeys(made, Verdict.OK)
    assert [name for name, _ in sorted(played.parties.items(), key=lambda each: each[1].place)] == ["first", "second", "third"]
    assert played.parties["second"].told and not played.parties["first"].told


def test_one_program_with_input_of_its_own(table: Table) -> None:
    program = table.party("only", "echo", "judge")
    text = b"".join(b"%d\n" % number for number in range(2000))
    graph = Graph(parties=(Party(name="only", program=program, limits=LIMITS, stdin=text),), pipes=())
    assert play_all(graph, {"only": Runner(program)}).parties["only"].stdout == text


def test_three_programs_in_a_ring_that_all_wait(table: Table) -> None:
    made, runners = parties(table, a="line say:x", b="line say:x", c="line say:x")
    ring = tuple(Pipe(source=source, sink=sink) for source, sink in (("a", "b"), ("b", "c"), ("c", "a")))
    played = play_all(Graph(parties=tuple(made.values()), pipes=ring), runners)
    assert played.deadlock_words == "deadlock: a reads stdin, b reads stdin, c reads stdin, nothing in flight"
    assert {ended.ending for ended in played.parties.values()} == {Ending.DEADLOCK}


def test_a_program_that_cannot_be_executed_ends_the_others(table: Table) -> None:
    made, runners = parties(table, a="drain", b="drain")
    missing = Program(name="b", language="c", directory="", command=("/nowhere/at/all",), profile="judge")
    runners["b"].close()
    runners["b"] = Runner(missing)
    with pytest.raises(SandboxError, match="/nowhere/at/all"):
        play_all(Graph(parties=tuple(made.values()), pipes=(Pipe(source="b", sink="a"), Pipe(source="a", sink="b"))), runners)


def test_two_parties_share_no_pipe(table: Table) -> None:
    script = "import os; print(*sorted({os.readlink(f'/proc/self/fd/{fd}') for fd in (0, 1)}), flush=True)"
    program = Program(name="x", language="python3", directory="", command=("/usr/bin/python3", "-c", script), profile="judge")
    echo = table.party("echo", "echo", "judge")
    programs = {"a": program, "b": program, "c": echo}
    graph = Graph(
        parties=tuple(Party(name=name, program=each, limits=LIMITS) for name, each in programs.items()),
        pipes=(Pipe(source="a", sink="b"), Pipe(source="b", sink="c")),
    )
    played = play_all(graph, {name: Runner(each) for name, each in programs.items()})
    said = [entry.head for entry in played.transcript if entry.source == "a" and entry.size]
    first, second = set(said[0].split()), set(played.parties["c"].stdout.split())
    assert len(first) == len(second) == 2 and not first & second


_KILLED = """
import os, sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
from kernel.parties import Edge, Table
from sandbox.judge.interactive import play as playing
from sandbox.judge.model import Code
kept = playing.Seat.wait_for_start
def say(seat):
    kept(seat)
    print(*seat._direct.run.pids(), flush=True)
playing.Seat.wait_for_start = say
long = dict(cpu_ms=900_000, own_ms=900_000, validation_ms=900_000)
Table(Path({directory!r})).play(Edge(submission="spin sleep:900000", validator="spin sleep:900000", code=Code.JE, **long))
"""


@pytest.mark.orphans
def test_nothing_is_left_when_the_judge_is_killed(tmp_path: Path) -> None:
    here = Path(__file__).resolve()
    script = _KILLED.format(tests=str(here.parents[1]), root=str(here.parents[2]), directory=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as judge:
        assert judge.stdout is not None
        pids = [int(pid) for _ in range(2) for pid in judge.stdout.readline().split()]
        ends = [os.pidfd_open(pid) for pid in pids]
        judge.send_signal(signal.SIGKILL)
    assert len(pids) >= 4
    for end in ends:
        assert select.select([end], [], [], 60.0)[0], "a party outlives the judge"
        os.close(end)
