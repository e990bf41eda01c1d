"""CPU time as a sandbox reports it, beside what the same program uses outside (wait4), and beside what it measured itself inside (getrusage).

Both processors are kept busy by others meanwhile. Two figures for each: the ratio to the run outside in the same round, which has the noise of two runs
of one program in it, and the ratio to the program's own getrusage of the same run, which has not; that one cannot see its own start and end.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import sandbox

_HERE = Path(__file__).resolve().parent
_PEERS = "/work/peers/bin"
_ROUNDS = 60_000_000

Measured = tuple[int, int]
"""Nanoseconds as reported, and as the program saw them itself."""


def main(rounds: int, seed: int) -> int:
    """Measure and print."""
    order = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="cputime-") as name:
        place = Path(name)
        place.chmod(0o755)
        worker = place / "worker"
        subprocess.run(["cc", "-O2", "-static", "-o", str(worker), str(_HERE / "worker.c")], check=True)
        contenders = find_contenders(place)
        load = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1)]
        try:
            for children in (0, 3):
                compare(contenders, order, rounds, children)
        finally:
            for process in load:
                process.kill()
                process.wait()
    return 0


def compare(contenders: dict[str, Callable[[int], Measured]], order: random.Random, rounds: int, children: int) -> None:
    """Run everything `rounds` times in shuffled rounds, and print one table."""
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            found[name].append(contenders[name](children))
    print(f"\n{children} children, {rounds} rounds, uid {os.geteuid()}, every processor loaded")
    print(f"{'':10} {'ms p50':>8} {'to outside: p50':>17} {'p10':>7} {'p90':>7} {'to getrusage inside: p50':>26} {'p10':>7} {'p90':>7}")
    outside = [reported for reported, _ in found["outside"]]
    for name, measured in found.items():
        ratios = [100 * (reported / truth - 1) for (reported, _), truth in zip(measured, outside, strict=True)]
        own = [100 * (reported / inside - 1) for reported, inside in measured]
        shown = [f"{statistics.median(r for r, _ in measured) / 1e6:8.2f}", f"{statistics.median(ratios):+16.2f}%"]
        shown += [f"{quantile(ratios, share):+6.2f}%" for share in (0.1, 0.9)]
        shown += [f"{statistics.median(own):+25.3f}%", *(f"{quantile(own, share):+6.2f}%" for share in (0.1, 0.9))]
        print(f"{name:10} " + " ".join(shown))


def quantile(values: list[float], share: float) -> float:
    """Return the value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def find_contenders(place: Path) -> dict[str, Callable[[int], Measured]]:
    """Return the run outside, ours, and isolate where it works."""
    worker = place / "worker"

    def outside(children: int) -> Measured:
        reader, writer = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        pid = os.posix_spawn(str(worker), [str(worker), str(_ROUNDS), str(children)], os.environ, file_actions=actions)
        os.close(writer)
        _, status, used = os.wait4(pid, 0)
        with os.fdopen(reader) as file:
            inside = int(file.read())
        if status:
            raise SystemExit("the worker failed outside")
        return int((used.ru_utime + used.ru_stime) * 1e9), inside

    def ours(children: int) -> Measured:
        command = ["/tmp/place/worker", str(_ROUNDS), str(children)]
        result = sandbox.run(command, volumes=[f"{place}:/tmp/place:ro"], limits={"wall": 60, "cpu": 30})
        if not result.ok:
            raise SystemExit(f"sandbox.run: {result.verdict}: {result.cause}")
        return result.usage.cpu_ns, int(result.stdout or b"0")

    found: dict[str, Callable[[int], Measured]] = {"outside": outside, "sandbox": ours}
    path = shutil.which("isolate", path=os.environ.get("PATH", "") + ":" + _PEERS)
    if path is not None:
        box = str(os.getpid() % 900)
        tool = path

        def isolate(children: int) -> Measured:
            meta = Path(tempfile.gettempdir()) / f"isolate-meta-{os.getpid()}"
            subprocess.run([tool, "-b", box, "--init"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            words = [tool, "-b", box, "-s", f"--meta={meta}", "--processes=10", f"--dir=/place={place}", "--run", "--", "/place/worker"]
            done = subprocess.run([*words, str(_ROUNDS), str(children)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
            facts = dict(line.split(":", 1) for line in meta.read_text().splitlines()) if meta.exists() else {}
            meta.unlink(missing_ok=True)
            if done.returncode or "time" not in facts:
                raise OSError("isolate")
            return int(float(facts["time"]) * 1e9), int(done.stdout)

        try:
            isolate(0)
            found["isolate"] = isolate
        except OSError:
            print("isolate: does not work here")
    return found
