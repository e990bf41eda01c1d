"""HumanEval's 164 reference solutions end to end, each in a process or sandbox of its own, in paired rounds: `./dev bench humaneval`.

Beside an unsandboxed loop of `subprocess.run`, cold sandboxes, and warm interpreters that were started or forked. Each task is run by every way in turn, in an
order that chance decides, so that other work on the machine meets all of them; the outcomes must be the same. What is made ahead is made within the loop: the
totals have it in, the single times are those of a caller who finds something waiting as far as the pool keeps up.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sandbox import Sandbox

DATA = Path(__file__).resolve().parents[1] / "data" / "human-eval" / "HumanEval.jsonl.gz"
PYTHON = "/usr/bin/python3"
Outcome = tuple[int, bytes]
Way = Callable[[str], Outcome]


def programs() -> list[tuple[str, str]]:
    """Return (name, program) of every task."""
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        tasks = list(map(json.loads, file))
    return [
        (task["task_id"], f"{task['prompt']}{task['canonical_solution']}\n{task['test']}\ncheck({task['entry_point']})\nprint('passed')\n") for task in tasks
    ]


def native(program: str) -> Outcome:
    """Run a program as anybody does who trusts it."""
    done = subprocess.run([PYTHON, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode, done.stdout


@contextmanager
def sandboxed(**options: Any) -> Iterator[Way]:
    """Yield a way to run a program in a sandbox."""
    with Sandbox("python", **options) as box:
        box.warm(60)

        def run(program: str) -> Outcome:
            result = box.run([PYTHON, "-c", program])
            return result.exit_code, result.stdout or b""

        yield run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `main` reads."""
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how many times (default 3)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="at once, in the loops that measure throughput (default 2)")
    parser.add_argument("--size", type=int, default=4, metavar="N", help="warm interpreters that wait (default 4)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure, print a table, and return 1 when outcomes differ."""
    tasks = programs()
    with ExitStack() as stack:
        warm = {"command": (PYTHON,), "size": options.size}
        ways: dict[str, Way] = {
            "native": native,
            "cold": stack.enter_context(sandboxed()),
            "started": stack.enter_context(sandboxed(python=warm)),
            "forked": stack.enter_context(sandboxed(python={**warm, "mode": "forked"})),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        ratios: dict[str, list[float]] = {name: [] for name in ways}
        wrong: list[tuple[str, str]] = []
        chance = random.Random(1)
        for _ in range(options.rounds):
            for task, program in tasks:
                order = list(ways)
                chance.shuffle(order)
                took: dict[str, float] = {}
                outcomes: dict[str, Outcome] = {}
                for name in order:
                    began = time.perf_counter()
                    outcomes[name] = ways[name](program)
                    took[name] = time.perf_counter() - began
                wrong += [(task, name) for name in ways if outcomes[name] != (0, b"passed\n")]
                for name in ways:
                    times[name].append(took[name])
                    ratios[name].append(took[name] / took["native"])
        totals: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            order = list(ways)
            chance.shuffle(order)
            for name in order:
                began = time.perf_counter()
                with ThreadPoolExecutor(options.workers) as pool:
                    wrong += [(task, name) for (task, _), outcome in zip(tasks, pool.map(ways[name], (each for _, each in tasks)), strict=True) if outcome[0]]
                totals[name].append(time.perf_counter() - began)
    figures = {
        name: {
            "p50_ms": round(1e3 * statistics.median(times[name]), 3),
            "p90_ms": round(1e3 * statistics.quantiles(times[name], n=10)[-1], 3),
            "to_native": round(statistics.median(ratios[name]), 3),
            "tasks_per_second": round(len(tasks) / statistics.median(totals[name]), 1),
        }
        for name in ways
    }
    print(f"{'':10} {'p50 ms':>8} {'p90 ms':>8} {'× native':>9} {f'a second, {options.workers} at once':>22}")
    for name, row in figures.items():
        print(f"{name:10} {row['p50_ms']:8.2f} {row['p90_ms']:8.2f} {row['to_native']:9.2f} {row['tasks_per_second']:22.1f}")
    print(f"{len(tasks)} tasks, {options.rounds} rounds; outcomes that differ: {len(wrong)} {wrong[:5] if wrong else ''}")
    if options.out is not None:
        options.out.write_text(json.dumps({"ways": figures, "wrong": wrong, "rounds": options.rounds, "workers": options.workers}, indent=1) + "\n")
    return bool(wrong)
