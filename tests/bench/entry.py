"""What a run's entry in the registry costs: launches with and without one, paired and interleaved; medians of the pairs' ratios and differences."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time

import sandbox
from sandbox.api import spawned
from sandbox.api.registered import Registered


class _Unregistered(Registered):
    """Instead of an entry: none."""

    def reserve(self) -> bool:
        """Refuse."""
        self.refused = "measured without"
        return False


def main(rounds: int, profile: str, argv: tuple[str, ...], seed: int) -> int:
    """Measure and print."""
    order = random.Random(seed)
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SANDBOX_RUNTIME_DIR"] = os.path.join(directory, "runs")
        for _ in range(rounds + 3):
            for listed in order.sample((True, False), 2):
                vars(spawned)["Registered"] = Registered if listed else _Unregistered
                began = time.perf_counter_ns()
                result = sandbox.run(argv, profile=profile)
                times[listed].append((time.perf_counter_ns() - began) / 1e6)
                if not result.ok:
                    raise SystemExit(f"sandbox.run: {result.verdict}: {result.cause}")
        vars(spawned)["Registered"] = Registered
    pairs = list(zip(times[True][3:], times[False][3:], strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    difference = statistics.median(a - b for a, b in pairs)
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"{' '.join(argv)}, profile `{profile}`, {rounds} pairs, uid {os.geteuid()}, load {busy:.1f} a processor")
    print(f"p50 without {statistics.median(b for _, b in pairs):.2f} ms, with {statistics.median(a for a, _ in pairs):.2f} ms")
    print(f"median of ratios {ratio:.3f}, median of differences {1000 * difference:.0f} us")
    return 0
