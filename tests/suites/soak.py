"""Many runs through one `Sandbox`, good ones and hostile ones mixed: nothing may be lost, mixed up or left behind, and nothing may grow.

    python tests/suites/soak.py --runs 100000 --tier pool --out soak.json
    python tests/suites/soak.py --seconds 7200

By hand, for as long as wanted; a short form of it is tests/kernel/test_soak.py. Prints a line for each look at what may grow and ends with a table; the exit
code is 1 if a run's outcome was wrong or something grew, 3 if nothing moved for two minutes. Looks are taken at rest: no run goes on, the pool is full.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

sys.path[1:1] = [str(Path(__file__).resolve().parents[1] / "bench"), str(Path(__file__).resolve().parents[2])]

from ours_api import fill  # noqa: E402
from soak_runs import FOR_INTERPRETERS, KINDS, TOKEN, Wrong  # noqa: E402
from soak_watch import Sample, judge, take_sample  # noqa: E402
from tiers import POOL, TIERS, open_tier  # noqa: E402

from sandbox import Sandbox  # noqa: E402
from sandbox.result import Result  # noqa: E402

_STUCK_S = 120
_MOST_TOLD = 50
_WARM = 4
_RECIPES = 70
"""More calls than a Sandbox remembers."""


@dataclass(slots=True)
class Count:
    """What has happened so far; written under `Soak.turn`."""

    done: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    launched: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    errors: int = 0
    at: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class _Crossed:
    """A Sandbox that sometimes runs what another was to run."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._count = 0

    def run(self, argv: Sequence[str], **options: Any) -> Result:
        """Run it, or every tenth time the like of it with another token."""
        self._count += 1
        other = "token-ffffffff-ffffffffffffffff"
        return self._box.run([TOKEN.sub(other, word) for word in argv] if self._count % 10 == 0 else argv, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._box, name)


class Soak:
    """One soak.

    Args:
        options: of the command line.
        place: a directory for everything that runs leave on disk by intent: entries, caches, temporary files.
    """

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self._options = options
        self._directories = {"registry files": place / "runs", "cache files": place / "cache", "temporary files": place / "tmp"}
        for directory in self._directories.values():
            directory.mkdir()
        os.environ.update(SANDBOX_RUNTIME_DIR=str(place / "runs"), XDG_CACHE_HOME=str(place / "cache"), TMPDIR=str(place / "tmp"))
        tempfile.tempdir = None
        self.count = Count()
        self.turn = threading.Condition()
        self._going = 0
        self._resting = False
        self._over = False
        self._moved = time.monotonic()
        self._began = time.monotonic()
        self._planted: list[object] = []
        self._box = open_tier(options.tier, pool=options.pool)
        if options.plant == "output":
            self._box = cast("Sandbox", _Crossed(self._box))

    def run(self) -> int:
        """Run everything; return the exit code."""
        options = self._options
        threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(options.workers)]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        self._fill_caches()
        self._look()
        for thread in threads:
            thread.start()
        looks = 1
        while not self._over:
            with self.turn:
                self.turn.wait(1)
                done, spent = self.count.done, time.monotonic() - self._began
            self._over |= bool((options.runs and done >= options.runs) or (options.seconds and spent >= options.seconds))
            if time.monotonic() - self._moved > _STUCK_S:
                print("nothing has moved for two minutes", flush=True)
                faulthandler.dump_traceback(all_threads=True)
                self._report(stuck=True)
                return 3
            if spent > looks * options.every:
                looks = int(spent / options.every) + 1
                self._look()
        for thread in threads:
            thread.join(_STUCK_S)
        self._look()
        statistics = getattr(self._box, "stats", lambda: None)()
        self._box.close()
        gc.collect()
        end = take_sample(self._directories)
        return self._report(end=end, statistics=str(statistics))

    def _fill_caches(self) -> None:
        """Run each kind some times: what is remembered of a kind is there then, tables' descriptors among it."""
        another_each_time = [kind for kind in KINDS if kind.name == "environment"]
        for number, kind in enumerate([*KINDS * _WARM, *another_each_time * _RECIPES]):
            try:
                kind.act(self._box, f"token-{0xFFFFFFFF - number:08x}-{number:016x}")
            except Wrong as error:
                self.count.errors += 1
                self.count.wrong.append(f"{kind.name}: {error}")

    def _stop(self, number: int, frame: object) -> None:
        """End early, with the report."""
        self._over = True

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self._options.seed} {number}")
        warm = self._options.tier.startswith("interpreter")
        kinds, shares = KINDS, [kind.share * (10 if warm and kind.name in FOR_INTERPRETERS else 1) for kind in KINDS]
        while not self._over:
            kind = chance.choices(kinds, shares)[0]
            token = f"token-{number:02x}{self.count.done & 0xFFFFFF:06x}-{chance.getrandbits(64):016x}"
            with self.turn:
                self.turn.wait_for(lambda: not self._resting)
                self._going += 1
            launched: list[str] = []
            wrong = ""
            try:
                results = kind.act(self._box, token)
                launched = [str(getattr(result, "launched", "spawned")) for result in results]
            except Wrong as error:
                wrong = f"{kind.name}: {error}"
            except Exception:
                wrong = f"{kind.name}: {traceback.format_exc()[-1500:]}"
            with self.turn:
                self._going -= 1
                self._moved = time.monotonic()
                self.count.done += max(1, len(launched))
                self.count.kinds[kind.name] += 1
                self.count.launched.update(launched)
                if wrong:
                    self.count.errors += 1
                    if len(self.count.wrong) < _MOST_TOLD:
                        self.count.wrong.append(wrong)
                        print(f"WRONG after {self.count.done} runs: {wrong}", flush=True)
                self._plant()
                self.turn.notify_all()

    def _plant(self) -> None:
        """Do what must be found, for the test of this test."""
        if self._options.plant == "fd" and self.count.done % 5 == 0:
            self._planted.append(os.open("/dev/null", os.O_RDONLY))
        if self._options.plant == "process" and self.count.done % 25 == 0:
            self._planted.append(subprocess.Popen(["/bin/sleep", "600"]))

    def _look(self) -> None:
        with self.turn:
            self._resting = True
            if not self.turn.wait_for(lambda: self._going == 0, _STUCK_S):
                return  # the loop sees that nothing moves
        fill(self._box)
        gc.collect()
        sample = take_sample(self._directories)
        with self.turn:
            self.count.at.append(self.count.done)
            self.count.samples.append(sample)
            self._resting = False
            self.turn.notify_all()
        spent = time.monotonic() - self._began
        shown = " ".join(f"{name.replace(' ', '-')}={sample[name]:.0f}" for name in ("client fds", "client threads", "processes", "namespaces", "others fds"))
        memory = " ".join(f"{name.replace(' ', '-')}={sample[name] / 2**20:.1f}M" for name in ("client rss bytes", "others rss bytes"))
        print(f"{spent:7.0f} s {self.count.done:8d} runs {self.count.done / max(spent, 1e-9):6.1f}/s wrong={self.count.errors} {shown} {memory}", flush=True)

    def _report(self, *, end: Sample | None = None, statistics: str = "", stuck: bool = False) -> int:
        count, spent = self.count, time.monotonic() - self._began
        growths = judge(count.at, count.samples)
        left = {name: value for name, value in (end or {}).items() if name in ("processes", "zombies", "registry files") and value}
        if self._options.plant:
            for planted in self._planted:
                if isinstance(planted, subprocess.Popen):
                    planted.kill()
                    planted.wait()
        print(f"\n{'':18} {'first':>14} {'middle':>14} {'last':>14} {'rise, 2nd half':>15} {'per 1000 runs':>14}")
        for growth in growths:
            print(
                f"{growth.name:18} {growth.first:14.0f} {growth.middle:14.0f} {growth.last:14.0f} {growth.rise:15.1f} {growth.per_thousand:14.3f}"
                + ("  GROWS" if growth.grows else "")
            )
        bad = stuck or bool(count.errors) or any(growth.grows for growth in growths) or bool(left)
        print(f"\n{count.done} runs in {spent:.0f} s ({count.done / spent:.1f} a second), {count.errors} wrong; launched: {dict(count.launched)}")
        print(f"left after close: {left or 'nothing'}; {'BAD' if bad else 'good'}")
        if self._options.out:
            summary = {
                "tier": self._options.tier, "pool": self._options.pool, "workers": self._options.workers, "seed": self._options.seed,
                "runs": count.done, "seconds": round(spent, 1), "kinds": count.kinds, "launched": count.launched, "wrong": count.errors,
                "first_wrong": count.wrong, "stuck": stuck, "left": left, "stats": statistics, "growth": [asdict(growth) for growth in growths],
                "at": count.at, "samples": count.samples, "kernel": os.uname().release, "uid": os.geteuid(), "load": os.getloadavg(),
            }  # fmt: skip
            Path(self._options.out).write_text(json.dumps(summary) + "\n")
        return int(bad)


def main() -> int:
    """Parse the words and soak."""
    parser = argparse.ArgumentParser(prog="soak.py", description="many mixed runs through one Sandbox: nothing lost, mixed up or left, nothing grows")
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="stop after so many (default 100000 where no --seconds)")
    parser.add_argument("--seconds", type=float, default=0, metavar="S", help="stop after so long")
    parser.add_argument("--tier", choices=TIERS, default="pool")
    parser.add_argument("--pool", type=int, default=POOL, metavar="N", help=f"how many are built ahead (default {POOL})")
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="threads that run (default 3)")
    parser.add_argument("--every", type=float, default=10, metavar="S", help="seconds between looks (default 10)")
    parser.add_argument("--nice", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--out", default="", metavar="FILE", help="a summary with every sample, JSON")
    parser.add_argument("--plant", choices=("fd", "process", "output"), default="", help="make a fault that must be found")
    options = parser.parse_args()
    if not options.runs and not options.seconds:
        options.runs = 100_000
    os.nice(options.nice)
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        return Soak(options, Path(place)).run()


if __name__ == "__main__":
    raise SystemExit(main())
