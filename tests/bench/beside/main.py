"""``./dev bench beside``: chooses rows and measures, runs them, and writes the file and the tables."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiers

from beside import measures
from beside.contender import Contender
from beside.figures import merge
from beside.host import Failed, become_subreaper, describe, kill_strays
from beside.memory import Reader, become_user, idle
from beside.peers import Place, find_peers
from beside.report import REFERENCES, render
from beside.rounds import Found, Session, say
from beside.tiers import Served, find_tiers, interpreter

MEASURES = ("launch", "fresh", "python", "numpy", "cli", "ballast", "throughput", "calls", "memory")
OURS = (*tiers.TIERS, "exec")
_PATH = "/work/peers/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_BALLAST = ("--ballast", "200", "--threads", "50")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--rows", default="", metavar="A,B", help=f"these only; ours: {', '.join(OURS)}")
    parser.add_argument("--skip", default="", metavar="A,B", help="rows to leave out")
    parser.add_argument("--measures", default=",".join(MEASURES), metavar="A,B", help=f"of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="turns of each row (default 12)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="launches a turn; slow rows have one (default 4)")
    parser.add_argument("--seconds", type=float, default=1, metavar="S", help="of throughput, for each row and number at once (default 1)")
    parser.add_argument("--at-once", default="1,2,4", metavar="N,N", help="of throughput (default 1,2,4)")
    parser.add_argument("--slices", type=int, default=2, metavar="N", help="into which these seconds are cut (default 2)")
    parser.add_argument("--idle", default="1,20,500", metavar="N,N", help="how many idle sandboxes of ours (default 1,20,500)")
    parser.add_argument("--quiet", type=float, default=0.1, metavar="S", help="wait so long at most for a quiet machine before each turn (default 0.1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    parser.add_argument("--seccomp-json", default="/usr/share/containers/seccomp.json", metavar="FILE", help="the filter of those that have none")
    parser.add_argument("--path", default=os.pathsep.join(filter(None, (os.environ.get("SANDBOX_PEERS"), _PATH))), help="where the others are")
    parser.add_argument("--user", default="", metavar="NAME", help="started as root: become this user; only so are all sizes of memory readable")
    parser.add_argument("--cpu-shares", type=int, default=0, metavar="N", help="with --user, on cgroup v1: a weight against other work (others have 1024)")
    parser.add_argument("--out", default="", metavar="FILE", help="write every figure here as JSON")
    parser.add_argument("--md", default="", metavar="FILE", help="write the tables here too")
    parser.add_argument("--render", default=[], nargs="+", metavar="FILE", help="measure nothing: make the tables of such files again, as one")


def main(options: argparse.Namespace) -> int:
    """Measure, write, print."""
    if options.render:
        print(render(merge([json.loads(Path(path).read_text()) for path in options.render])))
        return 0
    wanted = tuple(filter(None, options.measures.split(",")))
    if unknown := set(wanted) - set(MEASURES):
        raise SystemExit(f"bench: no measure `{', '.join(sorted(unknown))}`; there are {', '.join(MEASURES)}")
    options.out, options.md = (os.path.abspath(path) if path else "" for path in (options.out, options.md))
    # Not below /tmp or /var/tmp where it can be helped: firejail hides both.
    work = Path(tempfile.mkdtemp(prefix="sandbox-bench-", dir="/srv" if os.access("/srv", os.W_OK) else "/var/tmp"))
    work.chmod(0o755)
    try:
        reader = Reader()
        if options.user:
            reader = become_user(options.user, work, options.cpu_shares)
        elif os.geteuid() == 0:
            say("this runs as root: sandboxes are meant for ordinary users; `--user NAME` becomes one")
        become_subreaper()
        file = Measurement(options, work, reader).run(wanted)
    except Failed as error:
        raise SystemExit(f"bench: {error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = render(file)
    if options.md:
        Path(options.md).write_text(text)
    print(text)
    return 0


class Measurement:
    """One call of the verb.

    Args:
        options: of the command line.
        work: a directory that is removed afterwards.
        reader: of sizes.
    """

    def __init__(self, options: argparse.Namespace, work: Path, reader: Reader) -> None:
        self._options = options
        self._reader = reader
        (work / "payload").mkdir()
        (work / "home").mkdir()
        profile = Path(options.seccomp_json)
        variables = {"PATH": options.path, "HOME": str(work / "home"), "LANG": "C.UTF-8"}
        self._place = Place(work=work, payload=work / "payload", profile=profile if profile.exists() else None, variables=variables)
        self._session = Session(rounds=options.rounds, batch=options.batch, quiet=options.quiet, order=random.Random(options.seed))
        self._missing: dict[str, str] = {}
        self._rows = self._find_rows()

    def _find_rows(self) -> list[Contender]:
        only, skip = set(filter(None, self._options.rows.split(","))), set(self._options.skip.split(","))
        found: list[Contender] = [*find_peers(self._place, self._missing), *find_tiers(self._place, OURS)]
        known = {row.name for row in found} | set(self._missing)
        if unknown := only - known:
            raise SystemExit(f"bench: no row `{', '.join(sorted(unknown))}`; there are {', '.join(sorted(known))}")
        return [row for row in found if (not only or row.name in only or row.name in REFERENCES) and row.name not in skip]

    def run(self, wanted: Sequence[str]) -> dict[str, Any]:
        """Run the measures, and write the file after each."""
        settings = {name: value for name, value in vars(self._options).items() if name not in ("out", "md", "render", "verb")}
        file: dict[str, Any] = {
            "schema": 1, "host": describe(self._place.variables), "settings": settings, "rows": {}, "missing": self._missing,
            "failures": self._session.failures, "busy": self._session.busy, "measures": {}, "load_end": os.getloadavg(),
        }  # fmt: skip
        try:
            for name in wanted:
                began = time.monotonic()
                action: Callable[[str], Found | None] = getattr(self, f"_{name}")
                found = action(name)
                if found is not None:
                    file["measures"][name] = found
                say(f"{name}: {time.monotonic() - began:.0f} s")
                file["rows"] = {row.name: {"has": row.has, "note": row.note, "line": row.line} for row in self._rows if row.line}
                file["load_end"] = os.getloadavg()
                if self._options.out:
                    Path(self._options.out).write_text(json.dumps(file, separators=(",", ":")) + "\n")
        finally:
            for row in self._rows:
                row.close()
            kill_strays()
        return file

    def _launch(self, title: str) -> Found:
        return measures.launches(title, self._session, [row for row in self._rows if not _is_interpreter(row)], measures.TRUE)

    def _fresh(self, title: str) -> Found:
        """With a command line that was never seen: what is remembered by it does not help."""
        rows = [row for row in self._rows if row.name in (*REFERENCES, *tiers.TIERS) and not _is_interpreter(row)]
        return measures.launches(title, self._session, rows, measures.FRESH)

    def _python(self, title: str) -> Found:
        return measures.launches(title, self._session, self._rows, measures.PYTHON)

    def _numpy(self, title: str) -> Found:
        warm = [Served(tier, tier, self._place, words=("--modules", "numpy")) for tier in tiers.TIERS if self._has(tier) and "interpreter" in tier]
        rows = [row for row in self._rows if row.name in (*REFERENCES, "template", "pool", "nsjail+kafel", "isolate")]
        try:
            return measures.launches(title, self._session, [*rows, *warm], measures.NUMPY)
        finally:
            for row in warm:
                row.close()

    def _cli(self, title: str) -> Found:
        """The reference is the interpreter that the command line has, doing nothing."""
        name = "python3 -I -c pass"
        reference = interpreter(self._place, (sys.executable, "-I", "-c", "pass"), name)
        rows = [row for row in self._rows if row.name in (*REFERENCES, "exec", "crun", "runc", "podman", "firejail", "nsjail+kafel")]
        return {**measures.launches(title, self._session, [reference, *rows], measures.TRUE), "references": [name, REFERENCES[1]]}

    def _ballast(self, title: str) -> Found:
        """Each tier beside itself in a process that is 200 MB and 50 threads larger."""
        names = [tier for tier in tiers.TIERS if self._has(tier) and not tier.startswith("interpreter")]
        rows: list[Contender] = [Served(tier, tier, self._place) for tier in names]
        rows += [Served(f"{tier}, larger caller", tier, self._place, words=_BALLAST) for tier in names]
        try:
            found = measures.launches(title, self._session, rows, measures.TRUE)
        finally:
            for row in rows:
                row.close()
        return {**found, "pairs": {f"{tier}, larger caller": tier for tier in names}}

    def _throughput(self, title: str) -> Found:
        rows = [row for row in self._rows if not _is_interpreter(row)]
        at_once = tuple(map(int, self._options.at_once.split(",")))
        return measures.throughput(title, self._session, rows, measures.TRUE, self._options.seconds, self._options.slices, at_once)

    def _calls(self, title: str) -> Found | None:
        try:
            measures.build_programs(Path(__file__).parents[1] / "syscalls.c", self._place.payload)
        except Failed as error:
            self._missing["calls"] = str(error)
            return None
        return measures.system_calls(title, self._session, [row for row in self._rows if not _is_interpreter(row)])

    def _memory(self, title: str) -> Found:
        counts = tuple(map(int, self._options.idle.split(",")))
        return idle(title, self._session, [row for row in self._rows if row.name != "native"], self._reader, counts)

    def _has(self, name: str) -> bool:
        return any(row.name == name for row in self._rows)


def _is_interpreter(row: Contender) -> bool:
    return row.name.startswith("interpreter")
