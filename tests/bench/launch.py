"""What a launch costs here, beside no sandbox and beside bubblewrap: paired, interleaved rounds, medians and ratios.

Each round runs every contender once, in an order shuffled anew, so that a slow or busy moment of the machine hits all alike; the ratios are medians of the
rounds' own ratios, not ratios of medians. Needs nothing but this project; bubblewrap takes part where it is installed.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sandbox

_ROOT = Path(__file__).resolve().parents[2]
_BWRAP = (
    "--unshare-all --unshare-user --unshare-cgroup --die-with-parent --new-session --cap-drop ALL --ro-bind /usr /usr --symlink usr/bin /bin "
    "--symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --remount-ro / --"
)  # the same as the row `bwrap` of the comparison with peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to run a command; `launch` raises where it did not end well."""

    name: str
    launch: Callable[[], None]


def main(rounds: int, profile: str, argv: tuple[str, ...], seed: int) -> int:
    """Measure and print."""
    contenders = find_contenders(profile, argv)
    times = measure(contenders, rounds, random.Random(seed))
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"{' '.join(argv)}, profile `{profile}`, {rounds} rounds, uid {os.geteuid()}, load {busy:.1f} a processor\n")
    print(f"{'':18} {'p10':>8} {'p50':>8} {'p90':>8}  ms   x native   x {contenders[1].name}")
    for contender in contenders:
        own = times[contender.name]
        ordered = sorted(own)
        spread = " ".join(f"{ordered[int(rounds * share)]:8.2f}" for share in (0.1, 0.5, 0.9))
        ratios = [statistics.median(a / b for a, b in zip(own, times[other.name], strict=True)) for other in contenders[:2]]
        print(f"{contender.name:18} {spread}       {ratios[0]:7.2f}   {ratios[1]:7.2f}")
    if busy > 0.3:
        print("\nother work is running: trust the ratios and p10 more than p50, and p90 not at all")
    return 0


def find_contenders(profile: str, argv: tuple[str, ...]) -> list[Contender]:
    """Return everything that can be measured here, native first."""
    found = [Contender(name="native", launch=lambda: _spawn(argv))]
    bwrap = shutil.which("bwrap")
    if bwrap is not None:
        line = (bwrap, *_BWRAP.split(), *argv)
        found.append(Contender(name="bwrap", launch=lambda: _spawn(line)))
    command = (sys.executable, "-I", "-S", str(_ROOT / "sandbox" / "__main__.py"), "exec", "--quiet", "--profile", profile)

    def api() -> None:
        result = sandbox.run(argv, profile=profile)
        if not result.ok:
            raise SystemExit(f"sandbox.run: {result.verdict}: {result.cause}")

    found.append(Contender(name="sandbox.run", launch=api))
    found.append(Contender(name="sandbox exec", launch=lambda: _spawn((*command, "--", *argv))))
    found.append(Contender(name="  --no-audit", launch=lambda: _spawn((*command, "--no-audit", "--", *argv))))
    return found


def measure(contenders: list[Contender], rounds: int, order: random.Random) -> dict[str, list[float]]:
    """Return the times of every contender in ms, one a round."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        contender.launch()  # caches, bytecode
    for _ in range(rounds):
        for contender in order.sample(contenders, len(contenders)):
            began = time.perf_counter_ns()
            contender.launch()
            times[contender.name].append((time.perf_counter_ns() - began) / 1e6)
    return times


def _spawn(line: tuple[str, ...]) -> None:
    null = ((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1))
    pid = os.posix_spawn(line[0], line, os.environ, file_actions=null)
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{line[0]}: exit code {os.waitstatus_to_exitcode(status)}")
