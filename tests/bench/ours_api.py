"""Our API as a server for benchmarks, by the line protocol of peers.py, which beside/tiers.py speaks too. Words are separated by tabs.

``run N C argv…`` runs N times, C at once; ``keep SECONDS C argv…`` runs C at once until the time is over; ``say argv…`` runs once and passes on what it prints;
``hold argv…`` starts one and leaves it, ``idle N argv…`` has N in all. With one at once the time is that of a launch with a full pool, where there is one:
what is built between two launches is not in it. With more, and for ``keep``, everything is in it. The word ``{number}`` is another one for each run.

Usage: ours_api.py PAYLOAD-DIRECTORY [--tier NAME] [--pool N] [--modules A,B] [--ballast MB] [--threads N]; the directory is shared at /payload with the
commands that lie in it, as the rows of the command line do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable

from tiers import POOL, PYTHON, TIERS, Unavailable, check_tier, open_tier

from sandbox import DEVNULL, Sandbox
from sandbox.api.process import Process
from sandbox.result import Result

_LIMITS = {"wall": "600s", "cpu": "60s"}
_numbers = itertools.count()
Answer = dict[str, object]


class Server:
    """The commands, for one tier."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._tier: str = options.tier
        self._volumes = [f"{options.payload}:/payload"]
        self._modules: tuple[str, ...] = tuple(filter(None, options.modules.split(",")))
        self._pool: int = options.pool
        self._boxes: dict[bool, Sandbox] = {}
        self._held: list[Process] = []

    def run(self, count: int, workers: int, argv: list[str]) -> Answer:
        """Run `count` times in `workers` threads; what the payload prints in lines that begin with "@" is passed on."""
        box = self._box(argv)
        times: list[float] = []
        results: list[Result] = []

        def work() -> None:
            for _ in range(count // workers):
                if workers == 1:
                    fill(box)
                words = [str(next(_numbers)) if word == "{number}" else word for word in argv]
                began = time.perf_counter_ns()
                result = box.run(words)
                times.append((time.perf_counter_ns() - began) / 1000)
                results.append(result)

        wall = self._at_once(workers, work)
        for result in results:
            for line in (result.stdout or b"").decode(errors="replace").splitlines():
                if line.startswith("@"):
                    print(line)
        wrong = [why for result in results if (why := self._why_wrong(result, argv))]
        lost = count // workers * workers - len(results)  # a thread that raised
        return {"lat_us": [round(us, 2) for us in times], "wall_s": wall, "fail": lost + len(wrong), "why": wrong[:1]}

    def keep(self, seconds: float, workers: int, argv: list[str]) -> Answer:
        """Run `workers` at once until the time is over."""
        box = self._box(argv)
        fill(box)
        results: list[Result] = []
        end = time.perf_counter() + seconds

        def work() -> None:
            while time.perf_counter() < end:
                results.append(box.run(argv))

        wall = self._at_once(workers, work)
        launched: dict[str, int] = {}
        for result in results:
            way = getattr(result, "launched", "spawned")
            launched[way] = launched.get(way, 0) + 1
        return {"n": len(results), "wall_s": wall, "fail": sum(not result.ok for result in results), "launched": launched}

    def say(self, argv: list[str]) -> Answer:
        """Run once."""
        result = self._box(argv).run(argv)
        return {"out": (result.stdout or b"").decode(errors="replace"), "fail": int(not result.ok), "why": [result.cause]}

    def idle(self, count: int, argv: list[str]) -> Answer:
        """Have so many in all that wait; for pools: that were built and wait for a command."""
        if {"pool", "python"} & set(TIERS[self._tier].arguments):
            if count != self._pool:
                self._close()
                self._pool = count
            box = self._box(argv)
            fill(box)
            return {"n": count}
        box = self._box(argv)
        while len(self._held) < count:
            self._held.append(box.popen(argv, stdout=DEVNULL, stderr=DEVNULL))
        return {"n": len(self._held)}

    def _box(self, argv: list[str]) -> Sandbox:
        shared = argv[0].startswith("/payload/")
        if shared not in self._boxes:
            self._boxes[shared] = open_tier(
                self._tier, pool=self._pool, modules=self._modules, volumes=self._volumes if shared else (), limits=_LIMITS
            )
            self._boxes[shared].run(["/bin/true"])
        return self._boxes[shared]

    def _close(self) -> None:
        for box in self._boxes.values():
            box.close()
        self._boxes.clear()

    def _why_wrong(self, result: Result, argv: list[str]) -> str:
        if not result.ok:
            return f"{result.verdict}: {result.cause}"
        warm = not self._tier.startswith("interpreter") or argv[0] in PYTHON  # nothing else can be given to an interpreter
        return check_tier(self._tier, result) if warm else ""

    @staticmethod
    def _at_once(workers: int, work: Callable[[], None]) -> float:
        began = time.perf_counter()
        if workers == 1:
            work()
        else:
            threads = [threading.Thread(target=work) for _ in range(workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return time.perf_counter() - began


def fill(box: Sandbox, seconds: float = 120) -> None:
    """Wait until all that a Sandbox keeps ahead is there.

    Raises:
        Unavailable: it was not made in time.
    """
    warm = getattr(box, "warm", None)
    if warm is not None and not warm(seconds):
        raise Unavailable(f"not everything was built ahead: {getattr(box, 'stats', str)()}")


def main() -> int:
    """Answer until the end of the input or `quit`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("payload")
    parser.add_argument("--tier", choices=TIERS, default="spawned")
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--modules", default="")
    parser.add_argument("--ballast", type=int, default=0, help="megabytes that this process has more")
    parser.add_argument("--threads", type=int, default=0, help="threads that this process has more")
    options = parser.parse_args()
    ballast = bytearray(b"\1") * (options.ballast << 20)
    for _ in range(options.threads):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    server = Server(options)
    for line in sys.stdin:
        verb, *words = line.rstrip("\n").split("\t")
        if verb == "quit":
            break
        try:
            answer = _answer(server, verb, words)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "lat_us": [], "fail": 1}
        print(json.dumps(answer), flush=True)
    del ballast
    return 0


def _answer(server: Server, verb: str, words: list[str]) -> Answer:
    if verb == "run":
        return server.run(int(words[0]), int(words[1]), words[2:])
    if verb == "keep":
        return server.keep(float(words[0]), int(words[1]), words[2:])
    if verb == "say":
        return server.say(words)
    if verb == "idle":
        return server.idle(int(words[0]), words[1:])
    if verb == "hold":  # the API tells no pid, and peers.py finds the process by itself
        return {"pid": 0, **server.idle(len(server._held) + 1, words)}
    return {"error": f"unknown command `{verb}`"}


if __name__ == "__main__":
    raise SystemExit(main())
