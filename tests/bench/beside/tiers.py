"""Our own rows: for each tier a process with the API in it (ours_api.py), and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tiers

from beside.contender import Commands, Contender, Held, Program, Sustained
from beside.host import Failed, descendants, wait_for_sleepers
from beside.peers import Place, argv, uses_payload

_BENCH = Path(__file__).resolve().parents[1]
_ROOT = _BENCH.parents[1]
HAS = "UNPITCMrpdtcnsLla"


class Served(Contender):
    """A tier of the API in a process of its own.

    Args:
        name: as in tables.
        tier: which one.
        words: more options of ours_api.py.
    """

    def __init__(self, name: str, tier: str, place: Place, *, words: tuple[str, ...] = (), note: str = "") -> None:
        super().__init__(name, has=HAS, note=note or tiers.TIERS[tier].note, line=f"Sandbox: {dict(tiers.TIERS[tier].arguments)} {' '.join(words)}".strip())
        self._tier = tier
        self._line = [sys.executable, "-I", "-B", "-c", _RUN, str(_BENCH), str(place.payload), "--tier", tier, *words]
        self._variables: Mapping[str, str] = place.variables
        self._process: subprocess.Popen[str] | None = None

    def prepare(self, program: Program) -> None:
        """Start the server and run the program once."""
        self.launch(program, 2)

    def launch(self, program: Program, count: int) -> list[float]:
        """Ask for so many."""
        answer = self._ask("run", str(count), "1", *argv(program, "/payload"))
        if answer["fail"]:
            raise Failed(str(answer.get("why")))
        return [float(us) for us in answer["lat_us"]]

    def sustain(self, program: Program, at_once: int, seconds: float) -> Sustained:
        """Threads of the server run until the time is over."""
        answer = self._ask("keep", str(seconds), str(at_once), *argv(program, "/payload"))
        return Sustained(count=answer["n"], wall=answer["wall_s"], failed=answer["fail"])

    def output(self, program: Program) -> str:
        """Run once."""
        answer = self._ask("say", *argv(program, "/payload"))
        if answer["fail"]:
            raise Failed(str(answer["why"]))
        return str(answer["out"])

    def hold(self, count: int) -> Held:
        """Hold sleepers, or have that many built ahead."""
        self._ask("idle", str(count), "/bin/sleep", "500")
        caller = self._running().pid
        if not self._ahead():
            wait_for_sleepers(count, lambda: descendants(caller))
        return Held(caller=caller, others=frozenset(descendants(caller)))

    def close(self) -> None:
        """End the server, which ends its sandboxes."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write("quit\n")
            process.stdin.close()
            process.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        process.stdout.close()

    def _ahead(self) -> bool:
        return bool({"pool", "python"} & set(tiers.TIERS[self._tier].arguments))

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=dict(self._variables), cwd="/tmp"
            )
        return self._process

    def _ask(self, *words: str) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write("\t".join(words) + "\n")
            process.stdin.flush()
            while line := process.stdout.readline():
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    if "error" in answer:
                        raise Failed(str(answer["error"]))
                    return answer
        except OSError as error:
            raise Failed(f"the server has gone: {error}") from None
        code = process.wait()
        self._process = None
        raise Failed(f"the server has ended with exit code {code}")


_RUN = "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_path(sys.path[0] + '/ours_api.py', run_name='__main__')"


def find_tiers(place: Place, wanted: tuple[str, ...]) -> Iterator[Contender]:
    """Yield a row for each tier and for the command line."""
    for tier in wanted:
        if tier == "exec":
            yield command_line(place)
        else:
            yield Served(tier, tier, place)


def command_line(place: Place) -> Commands:
    """Return the row of `sandbox exec`."""
    command = (str(Path(sys.executable).parent / "sandbox"), "exec", "--quiet", "--profile", "strict", "--limit", "wall=600s")

    def words(program: Program, slot: int) -> tuple[str, ...]:
        share = ("--volume", f"{place.payload}:/payload", "--limit", "cpu=60s") if uses_payload(program) else ()
        return (*command, *share, "--", *argv(program, "/payload"))

    return Commands("exec", words, has=HAS, note="`sandbox exec` of this checkout", variables=place.variables, slow=True)


def interpreter(place: Place, words: tuple[str, ...], name: str) -> Commands:
    """Return the row of an interpreter that does nothing, to which the command line is compared."""
    return Commands(name, lambda program, slot: words, has="", note="no sandbox", variables=place.variables)

