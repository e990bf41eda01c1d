"""Measures the ways of `ways.py` on this machine's backend and writes what came of them into the documents.

    .venv/bin/python tests/limits/table.py                  measure as this user, write the documents
    .venv/bin/python tests/limits/table.py --as USER        as root: measure as an ordinary user, in a memory cgroup that only counts
    .venv/bin/python tests/limits/table.py --from-log FILE  take the rows that a guest of `./dev vm limits` printed
    .venv/bin/python tests/limits/table.py --render         only write the documents from tests/limits/measured
    .venv/bin/python tests/limits/table.py --check          say whether they are as they would be written

The rows of each backend are kept in tests/limits/measured, so that one machine's measurement does not need the other machines.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from limits.trial import Limit, Way
from limits.ways import LIMITS, WAYS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MEASURED = HERE / "measured"
REFERENCE = ROOT / "docs" / "reference" / "limits-table.md"
SECURITY = ROOT / "SECURITY.md"
BEGIN, END = "<!-- written by tests/limits/table.py -->\n", "<!-- end -->\n"
BACKENDS = {
    "cgroup1-root": "cgroup v1, root",
    "cgroup2-root": "cgroup v2, root",
    "cgroup2-user": "cgroup v2, ordinary user",
    "fallback-user": "rlimits and sampling, ordinary user",
}
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one way on one backend; the worst of several rounds."""

    verdict: str
    got: float
    peak: int
    host: int
    source: str
    tasks: int
    errno: str


def parse(lines: Iterable[str]) -> dict[str, dict[tuple[str, str], Row]]:
    """Read rows (see `trial.record`): backend → (limit, way) → the worst."""
    found: dict[str, dict[tuple[str, str], Row]] = {}
    for line in lines:
        fields = line.rstrip("\n").split("\t")
        if len(fields) != 10 or fields[0] not in BACKENDS:
            continue
        backend, limit, way, verdict, got, peak, host, source, tasks, errno = fields
        row = Row(verdict=verdict, got=float(got), peak=int(peak), host=int(host), source=source, tasks=int(tasks), errno=errno)
        rows = found.setdefault(backend, {})
        if (limit, way) not in rows or rows[limit, way].got < row.got:
            rows[limit, way] = row
    return found


def load() -> dict[str, dict[tuple[str, str], Row]]:
    """Return all rows that are kept."""
    return parse(line for path in sorted(MEASURED.glob("*.tsv")) for line in path.read_text().splitlines())


def keep(found: dict[str, dict[tuple[str, str], Row]]) -> None:
    """Put rows of a measurement in the place of that backend's old ones; ways that are registered no more go."""
    MEASURED.mkdir(exist_ok=True)
    kept = load()
    known = [(way.limit, way.name) for way in WAYS]
    for backend, rows in found.items():
        lines = [
            "\t".join(map(str, (backend, *key, row.verdict, f"{row.got:g}", row.peak, row.host, row.source, row.tasks, row.errno)))
            for key in known
            if (row := rows.get(key) or kept.get(backend, {}).get(key)) is not None
        ]
        (MEASURED / f"{backend}.tsv").write_text("".join(f"{line}\n" for line in lines))


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(rounds: int, only: str) -> None:
    """Try every way under its limit; each trial adds a line to $SANDBOX_LIMITS_RECORD."""
    from limits.trial import Watch, attempt

    from sandbox.errors import UnsupportedError

    watch = Watch()
    try:
        for way in WAYS:
            if only and only not in way.key:
                continue
            for _ in range(rounds):
                try:
                    outcome = attempt(LIMITS[way.limit], way, watch)
                except UnsupportedError:
                    break
                print(f"{way.key}: {outcome.run.result.verdict}, {outcome.got:g} {LIMITS[way.limit].unit}", file=sys.stderr, flush=True)
    finally:
        watch.close()


def measure_here(user: str, rounds: int, only: str) -> None:
    """Measure in a process of its own, as `user` when one is named, and keep the rows."""
    with tempfile.NamedTemporaryFile("r", prefix="limits-", suffix=".tsv") as file:
        os.chmod(file.name, 0o666)
        command = [sys.executable, str(HERE / "table.py"), "--into", file.name, "--rounds", str(rounds), "--only", only]
        node = None
        if user:
            command = ["runuser", "-u", user, "--", *command]
            if os.path.exists("/sys/fs/cgroup/memory/memory.usage_in_bytes"):
                node = Path(f"/sys/fs/cgroup/memory/sandbox-counting-{os.getpid()}")
                node.mkdir()
        try:
            subprocess.run(
                command, check=True, preexec_fn=None if node is None else lambda: (node / "cgroup.procs").write_text("0") and None
            )
        finally:
            if node is not None:
                node.rmdir()
        keep(parse(file))


# ---- writing ---------------------------------------------------------------------------------------------------------


def passed(limit: Limit, row: Row) -> bool:
    """Whether a way got what it asked for beyond the limit, neither ended nor refused."""
    return row.got > limit.bound * (2 if limit.name == "cpus" else 1) and row.verdict not in limit.verdicts


def excess(limit: Limit, row: Row, backend: str) -> float:
    """Return by how much a way exceeded its limit, in its unit; what a cgroup counts exactly it counts itself."""
    got = row.got
    if limit.name == "memory":
        got = max(row.peak / MIB, 0 if backend.startswith("cgroup") and not passed(limit, row) else got)
        if row.source == "cgroup":
            got = max(got, row.host / MIB)
    return max(0.0, got - limit.bound)


def cell(limit: Limit, row: Row | None, backend: str) -> str:
    """Return one cell: how it ended and how far the way came."""
    if row is None:
        return "–"
    if row.verdict == "unsupported":
        return "run refused"
    over = excess(limit, row, backend)
    figure = f"{row.got:.0f}"
    if passed(limit, row):
        return f"**not held: {limit.bound + over:.0f}**"
    if row.verdict in limit.verdicts:
        figure = f"{limit.bound + over:.0f}" if limit.name == "memory" else figure
        return f"ended at {figure}"
    if limit.name == "cpus":
        return f"slowed to {figure}"
    if row.verdict == "signaled":
        return f"signal at {figure}"
    return f"refused at {figure}"


def worst(limit: Limit, rows: dict[tuple[str, str], Row], backend: str, *, through: bool) -> tuple[float, Way | None]:
    """Return the largest excess among the ways that were stopped, or that got `through`."""
    found: tuple[float, Way | None] = (0.0, None)
    for way in WAYS:
        row = rows.get((way.limit, way.name))
        if way.limit == limit.name and row is not None and passed(limit, row) is through:
            over = excess(limit, row, backend)
            if over > found[0]:
                found = (over, way)
    return found


def render_reference(found: dict[str, dict[tuple[str, str], Row]]) -> str:
    """Return docs/reference/limits-table.md."""
    text = [
        "# Every limit, and every way past it that was tried\n",
        f"{len(WAYS)} ways to get past {len(LIMITS)} limits, each tried on each backend by `tests/limits`, and again without the limit, when it gets past. "
        "Written by `tests/limits/table.py`; the figures are of one measurement, in the unit of the limit, on machines with two "
        "processors that were busy with other work (load 20), which shows in times: see the benchmarks for how late a limit is on an idle one. "
        "*ended*: the run was killed with the limit's verdict. *refused*: a call failed and "
        "nothing more came of it. *run refused*: the host gives this user no such controller, and the "
        "run does not start without it. *signal*: the kernel ended the process. **not held**: it got past. "
        "cgroup v2 was measured in the emulated guests of `./dev vm limits` and `limits-root` (Linux 6.1, systemd 252), where systemd gives an ordinary "
        "user no cpuset. –: nobody has measured this there.\n",
        "The policy is the narrowest shipped one that does not refuse the way's system calls by itself; what needs `default` comes to nothing in `strict`.\n",
        "## In short\n",
        "The most that was had beyond a limit by a way that was stopped, and by one that was not:\n",
        "| limit | ways | " + " | ".join(BACKENDS.values()) + " |",
        "|---|---|" + "---|" * len(BACKENDS),
    ]
    for limit in LIMITS.values():
        cells = []
        for backend in BACKENDS:
            rows = found.get(backend, {})
            over, _ = worst(limit, rows, backend, through=False)
            beyond, way = worst(limit, rows, backend, through=True)
            refused = any(row.verdict == "unsupported" for key, row in rows.items() if key[0] == limit.name)
            word = "–" if not rows else "run refused" if refused else "nothing" if over < 0.5 else f"{over:.0f} {limit.unit}"
            count = sum(passed(limit, rows[key]) for key in rows if key[0] == limit.name)
            cells.append(word + (f"; **{count} not held**, {beyond:.0f} {limit.unit} (`{way.name}`)" if way else ""))
        total = sum(way.limit == limit.name for way in WAYS)
        text.append(f"| {limit.name}, {limit.bound} {limit.unit} | {total} | " + " | ".join(cells) + " |")
    for limit in LIMITS.values():
        text += ["", f"## {limit.name}: {limit.bound} {limit.unit}, asked for {limit.ask}\n"]
        text += ["| way | what it does | policy | " + " | ".join(BACKENDS.values()) + " |", "|---|---|---|" + "---|" * len(BACKENDS)]
        for way in WAYS:
            if way.limit == limit.name:
                cells = [cell(limit, found.get(backend, {}).get((way.limit, way.name)), backend) for backend in BACKENDS]
                text.append(f"| `{way.name}` | {way.words} | `{way.policy}` | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def render_fallback(found: dict[str, dict[tuple[str, str], Row]]) -> str:
    """Return the table of SECURITY.md: what rlimits and sampling hold, and what they cannot."""
    backend = "fallback-user"
    rows = found.get(backend, {})
    text = ["| limit | tried | held, and the most beyond it | not held | why, and what bounds it then |", "|---|---|---|---|---|"]
    for limit in LIMITS.values():
        mine = [way for way in WAYS if way.limit == limit.name]
        through = [way for way in mine if way.weak or way.unheld]
        over, at = worst(limit, rows, backend, through=False)
        if any(row.verdict == "unsupported" for key, row in rows.items() if key[0] == limit.name):
            text.append(f"| {limit.name} | {len(mine)} | the run is refused | – | |")
            continue
        held = f"{len(mine) - len(through)}; " + ("nothing" if over < 0.5 or at is None else f"{over:.0f} {limit.unit} (`{at.name}`)")
        reasons: dict[str, list[Way]] = {}
        for way in through:
            reasons.setdefault(f"{way.unheld or way.weak}; {way.bounded}" if way.bounded else way.unheld or way.weak, []).append(way)
        first = True
        for reason, those in reasons.items():
            names = ", ".join(f"`{way.name}`" for way in those)
            most = max((excess(limit, rows[way.limit, way.name], backend) for way in those if (way.limit, way.name) in rows), default=0.0)
            start = f"| {limit.name} | {len(mine)} | {held} |" if first else "| | | |"
            text.append(f"{start} {names}: {most:.0f} {limit.unit} beyond, all that was asked for | {reason} |")
            first = False
        if not through:
            text.append(f"| {limit.name} | {len(mine)} | {held} | – | |")
    return "\n".join(text) + "\n"


def documents() -> dict[Path, str]:
    """Return what the documents should hold."""
    found = load()
    security = SECURITY.read_text()
    before, _, rest = security.partition(BEGIN)
    _, _, after = rest.partition(END)
    return {REFERENCE: render_reference(found), SECURITY: f"{before}{BEGIN}{render_fallback(found)}{END}{after}" if rest else security}


def main() -> int:
    """Do what the module's text says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="user", default="", metavar="USER")
    parser.add_argument("--from-log", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way is tried; the worst counts")
    parser.add_argument("--only", default="", metavar="WORD", help="only ways with this in `limit: name`")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--into", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        os.environ["SANDBOX_LIMITS_RECORD"] = options.into
        measure(options.rounds, options.only)
        return 0
    if options.from_log:
        lines = options.from_log.read_text(errors="replace").splitlines()
        keep(parse(line.partition("@row ")[2].rstrip("\r") for line in lines if "@row " in line))
    elif not options.render and not options.check:
        measure_here(options.user, options.rounds, options.only)
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    if options.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what tests/limits/table.py would write", file=sys.stderr)
        return 1 if stale else 0
    for path, text in documents().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
