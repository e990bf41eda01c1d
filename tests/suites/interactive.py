"""The dialogues of tests/kernel/parties.py, each many times, on the machine as it is and with all processors busy: the right party is blamed every time.

    python tests/suites/interactive.py --repeats 50 --out interactive.json
    python tests/suites/interactive.py --repeats 50 --busy 2 --jobs 3

By hand; tests/kernel/test_judge_interactive.py plays each once. Prints a line for each dialogue (how often it was right, median and longest time) and every
wrong one with its transcript; the exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from kernel.parties import EDGES, Edge, Table, faults  # noqa: E402

from sandbox.judge.model import CaseResult  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="so many processes that only compute, beside it")
    parser.add_argument("--jobs", type=int, default=2, help="dialogues at a time")
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--out", help="file for the figures, as JSON")
    asked = parser.parse_args()
    edges = {name: edge for name, edge in EDGES.items() if asked.only in name}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every party's sandbox is kept, some thirty descriptors each
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        for _ in range(asked.busy):
            burner = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(burner.kill)
        table = Table(Path(directory))
        stack.callback(table.close)
        return Suite(table, edges, asked.repeats, asked.jobs).run(asked.out, asked.busy)


class Suite:
    """Plays and counts."""

    def __init__(self, table: Table, edges: dict[str, Edge], repeats: int, jobs: int) -> None:
        self._table, self._edges, self._repeats, self._jobs = table, edges, repeats, jobs
        self._turn = threading.Lock()
        self._seconds: dict[str, list[float]] = {name: [] for name in edges}
        self._codes: dict[str, Counter[str]] = {name: Counter() for name in edges}
        self._wrong: Counter[str] = Counter()

    def run(self, out: str | None, busy: int) -> int:
        """Play everything; return the exit code."""
        began = time.monotonic()
        for name, edge in self._edges.items():
            with ThreadPoolExecutor(self._jobs) as pool:
                list(pool.map(lambda _, name=name, edge=edge: self._play(name, edge), range(self._repeats)))  # type: ignore[misc]
            seconds = sorted(self._seconds[name])
            right = len(seconds) - self._wrong[name]
            codes = " ".join(f"{code}×{count}" for code, count in self._codes[name].items())
            print(f"{right:4}/{len(seconds)}  {statistics.median(seconds):7.3f} s  max {seconds[-1]:7.3f} s  {codes:12} {name}", flush=True)
        played, wrong = sum(map(len, self._seconds.values())), sum(self._wrong.values())
        load = os.getloadavg()[0]
        print(f"{played - wrong} of {played} right in {time.monotonic() - began:.0f} s; {busy} busy processes, {self._jobs} at a time, load {load:.1f}")
        if out:
            figures = {name: {"wrong": self._wrong[name], "codes": self._codes[name], "seconds": self._seconds[name]} for name in self._edges}
            Path(out).write_text(json.dumps({"busy": busy, "jobs": self._jobs, "load": load, "dialogues": figures}, indent=1))
        return 1 if wrong else 0

    def _play(self, name: str, edge: Edge) -> None:
        began = time.monotonic()
        result: CaseResult = self._table.play(edge)
        took, found = time.monotonic() - began, faults(edge, result)
        with self._turn:
            self._seconds[name].append(took)
            self._codes[name][str(result.code)] += 1
            if found:
                self._wrong[name] += 1
                print(f"WRONG {name}: {'; '.join(found)}", *(line[:200] for line in result.transcript[-20:]), sep="\n    ", flush=True)


if __name__ == "__main__":
    sys.exit(main())
