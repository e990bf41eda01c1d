"""The judge beside the reference tool and beside a loop without a sandbox; and the spread of CPU times beside isolate with every processor busy.

*package*: a package of tests × submissions, all accepted, so that everybody runs everything. In each round, in an order shuffled anew: `sandbox judge` with an
empty cache and with a filled one, `verifyproblem` of PyPI's problemtools, and a plain loop (`subprocess.run` and a comparison of tokens) that compiles and runs
the same. Wall time from the start of the command to its end; ratios are medians of the rounds' own ratios. Every row must have judged everything.

*spread*: one program of about 0.3 s of CPU time, run in turn by the judge's own runner, by the same with one processor, by isolate, and by fork and
wait4, while a loop per processor keeps all of them busy: p50, p95, p95/p50 of the CPU time that each reports, with the interval in which that ratio lies
in nine of ten resamplings: of 40 runs the 95th percentile is the third highest, which is mostly chance.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cputime import quantile

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent
_PEERS = "/work/peers/bin"
_SPIN = 160_000_000

C = """\
#include <stdio.h>

/* submission %(number)d */
int main(void) {
    long long count, value, sum = 0;
    if (scanf("%%lld", &count) != 1) return 1;
    while (count-- > 0 && scanf("%%lld", &value) == 1) sum += value;
    printf("%%lld\\n", sum);
    return 0;
}
"""
PYTHON = """\
import sys

# submission %(number)d
values = sys.stdin.read().split()
print(sum(map(int, values[1:])))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``./dev bench judge`` takes."""
    parser.add_argument("what", nargs="?", choices=("all", "package", "spread"), default="all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of the package (default 5)")
    parser.add_argument("--spread-rounds", type=int, default=100, metavar="N", help="runs of each row of the spread (default 100)")
    parser.add_argument("--tests", type=int, default=100, metavar="N")
    parser.add_argument("--submissions", type=int, default=20, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="also with so many workers at a time (default 2)")
    parser.add_argument("--language", choices=("c", "py"), default="c")
    parser.add_argument("--oracle", default="", metavar="VERIFYPROBLEM", help="the reference tool (default: on the PATH)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every figure there as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    found: dict[str, object] = {"uid": os.geteuid(), "cpus": os.cpu_count()}
    order = random.Random(arguments.seed)
    if arguments.what in ("all", "package"):
        found["package"] = measure_package(arguments, order)
    if arguments.what in ("all", "spread"):
        found["spread"] = measure_spread(arguments.spread_rounds, order)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))
    return 0


# ---- a package ---------------------------------------------------------------------------------------------------------


def write_package(place: Path, tests: int, submissions: int, language: str) -> Path:
    """Write a package whose submissions are all right, and all different to a cache."""
    root = place / "sums"
    for directory in ("data/secret", "submissions/accepted"):
        (root / directory).mkdir(parents=True)
    (root / "problem.yaml").write_text("name: Sums\nvalidation: default\n")
    draw = random.Random(7)
    for number in range(tests):
        values = [draw.randrange(-(10**9), 10**9) for _ in range(100)]
        (root / f"data/secret/{number:03}.in").write_text(f"{len(values)}\n{' '.join(map(str, values))}\n")
        (root / f"data/secret/{number:03}.ans").write_text(f"{sum(values)}\n")
    for number in range(submissions):
        (root / f"submissions/accepted/sum{number:02}.{language}").write_text((C if language == "c" else PYTHON) % {"number": number})
    return root


def measure_package(arguments: argparse.Namespace, order: random.Random) -> Mapping[str, list[float]]:
    """Judge the package by everybody in shuffled rounds, and print one table."""
    with tempfile.TemporaryDirectory(prefix="bench-judge-") as name:
        place = Path(name)
        root = write_package(place, arguments.tests, arguments.submissions, arguments.language)
        rows = find_judges(root, place, arguments)
        times: dict[str, list[float]] = {row: [] for row in rows}
        for _ in range(arguments.rounds):
            for row in order.sample(list(rows), len(rows)):
                times[row].append(rows[row]())
    print(
        f"\npackage: {arguments.tests} tests × {arguments.submissions} submissions in {arguments.language}, {arguments.rounds} rounds, uid {os.geteuid()}"
    )
    print(f"{'':34} {'s p50':>8} {'min':>8} {'max':>8} {'ms a run':>9} {'of the loop':>12} {'of the reference':>17}")
    runs = arguments.tests * arguments.submissions
    for row, took in times.items():
        beside = [_ratio(took, times[other]) if other in times else "" for other in ("plain loop", "verifyproblem")]
        middle = statistics.median(took)
        print(f"{row:34} {middle:8.2f} {min(took):8.2f} {max(took):8.2f} {1e3 * middle / runs:9.2f} {beside[0]:>12} {beside[1]:>17}")
    return times


def _ratio(took: list[float], other: list[float]) -> str:
    return f"{statistics.median(mine / theirs for mine, theirs in zip(took, other, strict=True)):.2f}"


def find_judges(root: Path, place: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Return row → a function that judges everything once and returns the seconds."""
    command = [sys.executable, "-I", str(_ROOT / "sandbox" / "__main__.py"), "judge", str(root), "--format", "json", "--time-limit", "2"]

    def ours(jobs: int, cold: bool) -> Callable[[], float]:
        cache = place / f"cache-{jobs}-{cold}"

        def judge() -> float:
            if cold:
                shutil.rmtree(cache, ignore_errors=True)
            return _timed(
                [*command, "--jobs", str(jobs)],
                {"XDG_CACHE_HOME": str(cache)},
                lambda text: _count_ours(text, arguments.submissions, arguments.tests),
            )

        if not cold:
            judge()
        return judge

    rows: dict[str, Callable[[], float]] = {"plain loop": lambda: run_plain(root, place)}
    for jobs in dict.fromkeys((1, arguments.jobs)):
        rows[f"ours, cache empty, --jobs {jobs}"] = ours(jobs, True)
        rows[f"ours, cache full, --jobs {jobs}"] = ours(jobs, False)
    tool = arguments.oracle or shutil.which("verifyproblem")
    if tool:
        words = [tool, "-p", "submissions", "-t", "2", "--", str(root)]
        rows["verifyproblem"] = lambda: _timed(words, {}, lambda text: text.count(" OK: AC"), arguments.submissions)
        if arguments.jobs > 1:
            threaded = [tool, "-j", str(arguments.jobs), *words[1:]]
            rows[f"verifyproblem -j {arguments.jobs}"] = lambda: _timed(
                threaded, {}, lambda text: text.count(" OK: AC"), arguments.submissions
            )
    else:
        print("verifyproblem: not found, its row is left out (--oracle)")
    return rows


def _timed(command: list[str], environ: Mapping[str, str], count: Callable[[str], int], wanted: int = -1) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | dict(environ), check=False)
    took = time.perf_counter() - began
    seen = count(done.stdout + done.stderr) if wanted >= 0 else count(done.stdout)
    if done.returncode not in (0, 1) or (wanted >= 0 and seen != wanted):
        raise SystemExit(
            f"`{' '.join(command)}`: exit {done.returncode}, {seen} of {wanted} accepted\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return took


def _count_ours(text: str, submissions: int, tests: int) -> int:
    judged = json.loads(text)["packages"][0]["submissions"]
    cases = sum(case["verdict"] == "AC" for each in judged for case in each["cases"])
    if len(judged) != submissions or cases != submissions * tests:
        raise SystemExit(f"ours judged {len(judged)} submissions and accepted {cases} cases of {submissions * tests}")
    return cases


def run_plain(root: Path, place: Path) -> float:
    """Compile, run and compare, as a script of twenty lines does."""
    began = time.perf_counter()
    cases = sorted((root / "data/secret").glob("*.in"))
    with tempfile.TemporaryDirectory(dir=place) as work:
        for source in sorted((root / "submissions/accepted").iterdir()):
            command = [sys.executable, "-I", str(source)]
            if source.suffix == ".c":
                command = [f"{work}/program"]
                subprocess.run(["gcc", "-O2", "-o", command[0], str(source), "-lm"], check=True)
            for case in cases:
                with open(case, "rb") as stdin:
                    done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=10, check=True)
                if done.stdout.split() != case.with_suffix(".ans").read_bytes().split():
                    raise SystemExit(f"the plain loop: {source.name} is wrong on {case.name}")
    return time.perf_counter() - began


# ---- the spread of CPU times ---------------------------------------------------------------------------------------------


def measure_spread(rounds: int, order: random.Random) -> Mapping[str, list[int]]:
    """Run one program by everybody in shuffled rounds with every processor busy, and print one table."""
    with tempfile.TemporaryDirectory(prefix="bench-spread-") as name:
        place = Path(name)
        place.chmod(0o755)
        worker = place / "worker"
        subprocess.run(["cc", "-O2", "-static", "-o", str(worker), str(_HERE / "worker.c")], check=True)
        rows, close = find_runners(place)
        found: dict[str, list[int]] = {row: [] for row in rows}
        # Sessions of their own, all of them: else sched_autogroup gives what is in ours a share of a processor, and our runs, each in a session, the rest.
        load = [subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True) for _ in range(os.cpu_count() or 1)]
        try:
            for _ in range(rounds):
                for row in order.sample(list(rows), len(rows)):
                    found[row].append(rows[row]())
        finally:
            for process in load:
                process.kill()
                process.wait()
            close()
    print(f"\nspread of CPU time, {rounds} runs each, {os.cpu_count()} processors all busy, uid {os.geteuid()}")
    print(f"{'':10} {'ms p50':>8} {'p95':>8} {'min':>8} {'max':>8} {'p95/p50':>8} {'9 of 10':>14} {'p95/p50 of isolate’s':>21}")
    spread = {row: _width(times) for row, times in found.items()}
    for row, times in found.items():
        figures = (statistics.median(times), quantile(list(map(float, times)), 0.95), min(times), max(times))
        beside = f"{(spread[row] - 1) / (spread['isolate'] - 1):.2f} × its excess" if "isolate" in spread and spread["isolate"] > 1 else ""
        print(f"{row:10} " + " ".join(f"{figure / 1e6:8.2f}" for figure in figures) + f" {spread[row]:8.4f} {_interval(times, order):>14} {beside:>21}")
    return found


def _width(times: Sequence[int]) -> float:
    return quantile(list(map(float, times)), 0.95) / statistics.median(times)


def _interval(times: Sequence[int], draw: random.Random) -> str:
    widths = sorted(_width(draw.choices(times, k=len(times))) for _ in range(1000))
    return f"{widths[50]:.4f}-{widths[949]:.4f}"


def find_runners(place: Path) -> tuple[dict[str, Callable[[], int]], Callable[[], None]]:
    """Return row → a function that runs the worker once and returns nanoseconds of CPU time, and one that ends what was opened."""
    from sandbox.judge.model import Program, RunLimits
    from sandbox.judge.running import Runner

    worker = place / "worker"
    second = 1_000_000_000
    limits = RunLimits(cpu_ns=10 * second, cpu_cut_ns=20 * second, wall_ns=60 * second, memory_bytes=256 << 20, output_bytes=1 << 20)
    program = Program(name="worker", language="c", directory=str(place), command=("/judge/program/worker", str(_SPIN), "0"))
    runner, pinned = Runner(program), Runner(program, cpuset=str(min(os.sched_getaffinity(0))))

    def plain() -> int:
        null = os.open(os.devnull, os.O_RDWR)
        pid = os.posix_spawn(str(worker), [str(worker), str(_SPIN), "0"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)], setsid=True)
        os.close(null)
        _, status, used = os.wait4(pid, 0)
        if status:
            raise SystemExit("the worker failed outside")
        return int((used.ru_utime + used.ru_stime) * 1e9)

    def ours(runner: Runner) -> int:
        result = runner.run(b"", limits).result
        if not result.ok:
            raise SystemExit(f"the judge's runner: {result.verdict}: {result.cause}")
        return result.usage.cpu_ns

    rows: dict[str, Callable[[], int]] = {"plain": plain, "ours": lambda: ours(runner), "ours, one": lambda: ours(pinned)}
    tool = shutil.which("isolate", path=os.environ.get("PATH", "") + ":" + _PEERS)
    box = str(os.getpid() % 90)
    if tool is not None:
        meta = place / "meta"

        def isolate() -> int:
            words = [tool, "-b", box, "-s", f"--meta={meta}", f"--dir=/place={place}", "--run", "--", "/place/worker", str(_SPIN), "0"]
            done = subprocess.run(words, capture_output=True, start_new_session=True, check=False)
            facts = dict(line.split(":", 1) for line in meta.read_text().splitlines()) if meta.exists() else {}
            meta.unlink(missing_ok=True)
            if done.returncode or "time" not in facts:
                raise OSError(f"isolate: {done.stderr.decode(errors='replace').strip()}")
            return int(float(facts["time"]) * 1e9)

        subprocess.run([tool, "-b", box, "--init"], capture_output=True, check=False)
        try:
            isolate()
            rows["isolate"] = isolate
        except OSError as error:
            print(f"isolate: does not work here: {error}")

    def close() -> None:
        runner.close()
        pinned.close()
        if tool is not None:
            subprocess.run([tool, "-b", box, "--cleanup"], capture_output=True, check=False)

    return rows, close
