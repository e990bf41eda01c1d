"""Our API for peers.py, by the line protocol of its servers (floor.c).

``run N C argv…`` runs N times, C at once, by `sandbox.run` in as many threads; ``hold argv…`` starts one and leaves it. Words are separated by tabs.
Usage: ours_api.py PAYLOAD-DIRECTORY, which is shared at /payload with the commands that lie in it, as the rows of the command line do.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import sandbox
from sandbox.result import Result

_LIMITS = {"wall": "60s", "cpu": "60s"}


class Server:
    """The commands that peers.py gives."""

    def __init__(self, payload: str) -> None:
        self._volume = f"{payload}:/payload"

    def run(self, count: int, workers: int, argv: list[str]) -> dict[str, object]:
        """Run `count` times in `workers` threads; what the payload prints in lines that begin with "@" is passed on."""
        times: list[float] = []
        results: list[Result] = []

        def work() -> None:
            for _ in range(count // workers):
                began = time.perf_counter_ns()
                result = self._once(argv)
                times.append((time.perf_counter_ns() - began) / 1000)
                results.append(result)

        began = time.perf_counter()
        if workers == 1:
            work()
        else:
            threads = [threading.Thread(target=work) for _ in range(workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        wall = time.perf_counter() - began
        for result in results:
            for line in (result.stdout or b"").decode(errors="replace").splitlines():
                if line.startswith("@"):
                    print(line)
            if not result.ok:
                print(f"{result.verdict}: {result.cause}", file=sys.stderr)
        lost = count // workers * workers - len(results)  # a thread that raised
        return {"lat_us": [round(us, 2) for us in times], "wall_s": wall, "fail": lost + sum(not result.ok for result in results)}

    def hold(self, argv: list[str]) -> dict[str, object]:
        """Start one and keep it; the API tells no pid, and peers.py finds the process by itself."""
        threading.Thread(target=self._once, args=(argv,), daemon=True).start()
        return {"pid": 0}

    def _once(self, argv: list[str]) -> Result:
        volumes = [self._volume] if argv[0].startswith("/payload/") else []
        return sandbox.run(argv, profile="strict", volumes=volumes, limits=_LIMITS)


def main() -> int:
    """Answer until the end of the input or `quit`."""
    server = Server(sys.argv[1])
    for line in sys.stdin:
        verb, *words = line.rstrip("\n").split("\t")
        if verb == "quit":
            break
        answer: dict[str, object]
        if verb == "run":
            answer = server.run(int(words[0]), int(words[1]), words[2:])
        elif verb == "hold":
            answer = server.hold(words)
        else:
            answer = {"error": f"unknown command `{verb}`"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
