"""What the relay of an interactive problem costs: a round trip and a byte through it, beside two plain processes with two plain pipes.

Both play the same programs (tests/payloads/party.c). Paired and interleaved; a round trip is the difference of two dialogues of different lengths, so that
starting is not in it.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from kernel.parties import LONG_MS, MS, Table

from sandbox.judge.interactive.graph import Graph, Party, PartyLimits, Pipe
from sandbox.judge.interactive.play import play
from sandbox.judge.running import Runner

_BYTES = 64 << 20
_LIMITS = PartyLimits(cpu_ns=LONG_MS * MS, own_ns=LONG_MS * MS, memory_bytes=256 << 20, output_bytes=4 * _BYTES)


def main(rounds: int, trips: int, seed: int) -> int:
    """Measure and print.

    Args:
        rounds: pairs of measurements.
        trips: round trips of the longer dialogue.
        seed: of the order within each round.
    """
    order = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        table = Table(Path(directory))
        words = {"none": ("echo", "rounds:1 exit:0"), "trips": ("echo", f"rounds:{trips} exit:0"), "bytes": (f"write:{_BYTES}", "drain")}
        ways: dict[str, Callable[[str, str], float]] = {"plain": Plain(table).play, "relay": Relay(table).play}
        times: dict[tuple[str, str], list[float]] = {(way, what): [] for way in ways for what in words}
        turns = [(way, what) for way in ways for what in words]
        for number in range(rounds + 1):
            for way, what in order.sample(turns, len(turns)):
                took = ways[way](*words[what])
                if number:  # the first warms up
                    times[way, what].append(took)
    figures = {
        "a round trip, us": [[1e6 * (long - short) / (trips - 1) for long, short in zip(times[way, "trips"], times[way, "none"], strict=True)] for way in ways],
        "MiB a second": [[_BYTES / (1 << 20) / took for took in times[way, "bytes"]] for way in ways],
        "a dialogue of one round trip, ms": [[1e3 * took for took in times[way, "none"]] for way in ways],
    }  # fmt: skip
    print(f"{rounds} rounds, uid {os.geteuid()}, load {os.getloadavg()[0] / (os.cpu_count() or 1):.1f} a processor; p50 plain, p50 relay, median of ratios")
    for name, (plain, relay) in figures.items():
        ratio = statistics.median(b / a for a, b in zip(plain, relay, strict=True))
        print(f"{name:34} {statistics.median(plain):9.1f} {statistics.median(relay):9.1f}  {ratio:.2f}")
    return 0


class Plain:
    """Two processes and two pipes, nothing else."""

    def __init__(self, table: Table) -> None:
        self._program = str(table.directory / "program" / "party")

    def play(self, first: str, second: str) -> float:
        """Return how long both took, in seconds."""
        began = time.perf_counter()
        (in_r, in_w), (out_r, out_w) = os.pipe(), os.pipe()
        one = subprocess.Popen([self._program, *first.split()], stdin=in_r, stdout=out_w)
        two = subprocess.Popen([self._program, *second.split()], stdin=out_r, stdout=in_w)
        for fd in (in_r, in_w, out_r, out_w):
            os.close(fd)
        if one.wait() or two.wait():
            raise SystemExit(f"plain processes failed: {first}, {second}")
        return time.perf_counter() - began


class Relay:
    """Two sandboxes and the loop between them."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._runners: dict[str, Runner] = {}

    def play(self, first: str, second: str) -> float:
        """As `Plain.play`."""
        parties = []
        for name, words in (("first", first), ("second", second)):
            program = self._table.party(name, words, "judge")
            if words not in self._runners:
                self._runners[words] = Runner(program)
            parties.append(Party(name=name, program=program, limits=_LIMITS))
        graph = Graph(parties=tuple(parties), pipes=(Pipe(source="first", sink="second"), Pipe(source="second", sink="first")))
        began = time.perf_counter()
        played = play(graph, {"first": self._runners[first], "second": self._runners[second]})
        took = time.perf_counter() - began
        if not all(ended.result.ok for ended in played.parties.values()):
            raise SystemExit(f"a party failed: { {name: ended.result.cause for name, ended in played.parties.items()} }")
        return took
