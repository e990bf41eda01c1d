"""Labels of real problem packages: ours beside `verifyproblem`'s own verdicts in the same run, row by row, with figures per package.

Run by hand on public checkouts, none of which is part of this repository:

    python tests/suites/packages.py --oracle verifyproblem CHECKOUT/problem ...     each argument a package
    python tests/suites/packages.py --oracle verifyproblem --expected EXPECTED.tsv --below CHECKOUT=PREFIX ...
                                                                                    every package of a table, found below checkouts
    python tests/suites/packages.py --fetch                                         problemtools' sdist into the tests' cache, for the tests

A row holds when our verdict fulfils its label. A row that does not is explained when the reference tool gives the very verdict that we give; then label and
program disagree, not the judges. One is stricter when both give the same verdict and only we find the label unfulfilled, because the format's words speak of
every case and the reference tool looks at the final verdict alone. Everything else is a difference, and the exit status is 1. A row whose compiler is absent
is named and counted.

`EXAMPLES` are the rows of the packages in problemtools' sdist, which `tests/kernel/test_judge_examples.py` judges in every run of the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.judge.model import PackageResult, SubmissionResult

VERSION = "1.20260907"
SHA256 = "55f19b6a72ef5cb07daf0a4e612be963a15e7972891a3afb0fff89244b6228c6"
FETCH_S = 240

FOUR = {
    "AC": "AC",
    "WA": "WA",
    "TLE": "TLE",
    "WTL": "TLE",
    "RTE": "RTE",
    "NZE": "RTE",
    "MLE": "RTE",
    "SYS": "RTE",
    "OLE": "RTE",
    "CE": "CE",
    "JE": "JE",
}
"""Our verdicts in the words of the packages, and of the reference tool but for MLE and OLE, which it has and packages have not."""

LABELS = {
    "accepted": "AC",
    "partially_accepted": "AC",
    "wrong_answer": "WA",
    "time_limit_exceeded": "TLE",
    "run_time_error": "RTE",
}

# (package, submission, score or None); the label is the directory's name. From the sdist's examples/.
EXAMPLES: tuple[tuple[str, str, float | None], ...] = (
    ("different", "accepted/Different.java", None),
    ("different", "accepted/Different.scala", None),
    ("different", "accepted/different.c", None),
    ("different", "accepted/different.cc", None),
    ("different", "accepted/different.cs", None),
    ("different", "accepted/different.go", None),
    ("different", "accepted/different.hs", None),
    ("different", "accepted/different.js", None),
    ("different", "accepted/different.lisp", None),
    ("different", "accepted/different.ml", None),
    ("different", "accepted/different.php", None),
    ("different", "accepted/different.rb", None),
    ("different", "accepted/different.rs", None),
    ("different", "accepted/different_py2.py", None),
    ("different", "accepted/different_py3.py", None),
    ("different", "accepted/different_stdio.cc", None),
    ("different", "accepted/prolog", None),
    ("different", "time_limit_exceeded/different_linear_search.cc", None),
    ("different", "wrong_answer/different_int.cc", None),
    ("different", "wrong_answer/different_no_abs.cc", None),
    ("guess", "accepted/guess.cc", None),
    ("guess", "accepted/guess.java", None),
    ("guess", "run_time_error/guess_rte.c", None),
    ("guess", "run_time_error/guess_rte_after_correct.cc", None),
    ("guess", "time_limit_exceeded/guess_no_flush.cc", None),
    ("guess", "time_limit_exceeded/guess_tle_after_correct.cc", None),
    ("guess", "wrong_answer/GuessCrash.java", None),
    ("guess", "wrong_answer/guess.py", None),
    ("guess", "wrong_answer/guess_0.cc", None),
    ("guess", "wrong_answer/guess_modulo.py", None),
    ("guess", "wrong_answer/guess_random.cc", None),
    ("guess", "wrong_answer/guess_tle.cc", None),
    ("hello", "accepted/hello.cc", None),
    ("hello", "accepted/hello.java", None),
    ("hello", "accepted/hello.kt", None),
    ("hello", "accepted/hello.py", None),
    ("hello", "accepted/hello.rs", None),
    ("hello", "accepted/hello_alarm.c", None),
    ("hello", "run_time_error/memory_limit.cc", None),
    ("hello", "wrong_answer/hello.cc", None),
    ("oddecho", "accepted/echo.cpp", 100),
    ("oddecho", "accepted/js.py", 100),
    ("oddecho", "partially_accepted/sol.py", 50),
)


# ---- the sdist ---------------------------------------------------------------------------------------------------------


def cache_directory() -> Path:
    """Return where the tests keep what they fetched: ``$SANDBOX_TEST_CACHE``, else below the user's cache."""
    given = os.environ.get("SANDBOX_TEST_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandbox-tests"


def find_sdist() -> Path | None:
    """Return the sdist in the cache, None unless it is there and is the one that is meant."""
    path = cache_directory() / f"problemtools-{VERSION}.tar.gz"
    try:
        return path if hashlib.sha256(path.read_bytes()).hexdigest() == SHA256 else None
    except OSError:
        return None


def fetch_sdist() -> Path:
    """Fetch the sdist with pip into the cache, unless it is there.

    Raises:
        OSError: it cannot be had, and why.
    """
    if (found := find_sdist()) is not None:
        return found
    place = cache_directory()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        wanted = Path(directory) / "requirements.txt"
        wanted.write_text(f"problemtools=={VERSION} --hash=sha256:{SHA256}\n")
        command = [
            sys.executable,
            "-I",
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "--no-input",
            "--retries",
            "1",
            "--timeout",
            "15",
        ]
        command += ["--no-deps", "--no-binary", ":all:", "--require-hashes", "-d", directory, "-r", str(wanted)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_S, check=False)
        except subprocess.TimeoutExpired:
            raise OSError(f"pip download: not done in {FETCH_S} s") from None
        made = Path(directory) / f"problemtools-{VERSION}.tar.gz"
        if done.returncode or not made.exists():
            raise OSError(f"pip download: {' / '.join(done.stderr.strip().splitlines()[-2:]) or 'no sdist'}")
        made.replace(place / made.name)
    found = find_sdist()
    if found is None:
        raise OSError(f"`{place}`: what pip brought is not the sdist that was meant")
    return found


def unpack_examples(sdist: Path, target: Path) -> Path:
    """Unpack the sdist's examples below a directory, and return where the packages are."""
    prefix = f"problemtools-{VERSION}/examples/"
    with tarfile.open(sdist) as archive:
        for member in archive:
            if member.name.startswith(prefix) and member.isfile() and (content := archive.extractfile(member)) is not None:
                path = target / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
                path.chmod(0o755 if member.mode & 0o111 else 0o644)
    return target / prefix


# ---- the reference tool ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the reference tool said of a submission: its verdict, score, and whether it found the label fulfilled."""

    code: str
    score: float | None
    fulfilled: bool
    sensitive: bool = False


_SAID = re.compile(
    r"^\s*(?:ERROR |WARNING )?(?P<name>\S+/\S+) \(.*?\) (?P<how>OK|OK with extra time|got|was fully accepted)(?:: | )"
    r"(?P<code>[A-Z]+)(?: \((?P<score>-?[\d.]+)\))?"
)
_SENSITIVE = re.compile(r"WARNING (?P<name>\S+/\S+) \(.*?\) sensitive to time limit")


def ask_oracle(verifyproblem: str, package: Path) -> tuple[dict[str, Verdict], float]:
    """Run the reference tool on a package; return its verdicts by submission, and the seconds that it took. It is not confined: packages are trusted here."""
    began = time.monotonic()
    done = subprocess.run(
        [verifyproblem, "-p", "submissions", "-l", "warning", "--max_additional_info", "0", "--", str(package)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    return read_oracle(done.stdout + done.stderr), time.monotonic() - began


def read_oracle(text: str) -> dict[str, Verdict]:
    """Read what the reference tool printed."""
    found: dict[str, Verdict] = {}
    sensitive = set()
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
        if match := _SENSITIVE.search(line):
            sensitive.add(match["name"])
        elif (match := _SAID.match(line)) and "on sample" not in line:
            fulfilled = match["how"].startswith("OK")
            found[match["name"]] = Verdict(
                match["code"], float(match["score"]) if match["score"] else None, fulfilled, match["name"] in sensitive
            )
    return found


# ---- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One submission: its label, our verdict and the reference tool's."""

    package: str
    submission: str
    label: str
    code: str
    score: float | None
    status: str
    why: str = ""
    oracle: str = ""
    oracle_score: float | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether both judges gave the same verdict and score; None where one gave none."""
        if not self.oracle or self.code in ("", "absent"):
            return None
        return four(self.code) == four(self.oracle) and (
            self.score is None or self.oracle_score is None or abs(self.score - self.oracle_score) < 0.01
        )


def four(code: str) -> str:
    """Return a verdict in the packages' words."""
    return FOUR.get(code, code)


def make_row(package: str, found: SubmissionResult, oracle: Mapping[str, Verdict] | None) -> Row:
    """Return the row of a submission."""
    said = None if oracle is None else oracle.get(found.name)
    code = "absent" if found.absent else found.code.value if found.code is not None else ""
    why = found.absent or "; ".join(found.label_problems)
    if found.absent:
        status = "absent"
    elif found.label_ok is None:
        status = "no label"
    elif found.label_ok:
        status = "holds"
    elif said is not None and said.fulfilled and four(said.code) == four(code):
        status = "stricter"
    elif said is not None and not said.fulfilled and four(said.code) == four(code):
        status = "explained"
    else:
        status = "differs"
    return Row(
        package, found.name, found.label or found.name.split("/")[0], code, found.score, status, why,
        said.code if said else "", said.score if said else None,
    )  # fmt: skip


def judge_package(path: Path, oracle: str | None, jobs: int, follow: Sequence[str] = ()) -> tuple[list[Row], PackageResult, float, float]:
    """Judge a package by us, then by the reference tool; return rows, our whole result, and the seconds of both."""
    from sandbox.judge.packages import run_package

    began = time.monotonic()
    result = run_package(str(path), jobs=jobs, follow=follow)
    ours_s = time.monotonic() - began
    said, oracle_s = ask_oracle(oracle, path) if oracle else (None, 0.0)
    return [make_row(path.name, each, said) for each in result.submissions], result, ours_s, oracle_s


def read_expected(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return package → rows of (submission, label, observed) of a table."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for line in path.read_text().splitlines()[1:]:
        package, submission, _, label, _, observed = line.split("\t")
        found.setdefault(package, []).append((submission, label, observed))
    return found


def missing_rows(rows: Iterable[Row], wanted: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the submissions of a table that no row is about."""
    have = {row.submission for row in rows}
    return [submission for submission, _, _ in wanted if submission not in have]


def summarise(rows: Sequence[Row]) -> str:
    """Return the figures of a package."""
    counts = {
        status: sum(row.status == status for row in rows) for status in ("holds", "explained", "stricter", "absent", "no label", "differs")
    }
    compared = [row for row in rows if row.agrees is not None]
    words = [f"{len(rows)} rows", *(f"{count} {status}" for status, count in counts.items() if count)]
    if compared:
        words.append(f"same verdict as the reference tool in {sum(bool(row.agrees) for row in compared)} of {len(compared)}")
    return ", ".join(words)


def main() -> int:
    """Judge the packages that were named and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", type=Path)
    parser.add_argument("--fetch", action="store_true", help="fetch problemtools' sdist into the cache of the tests, and say where it is")
    parser.add_argument("--examples", action="store_true", help="the packages of that sdist")
    parser.add_argument("--oracle", metavar="VERIFYPROBLEM", help="the reference tool of PyPI's `problemtools`")
    parser.add_argument("--expected", type=Path, metavar="TSV", help="a table whose rows must all be there")
    parser.add_argument(
        "--below", action="append", default=[], metavar="DIR=PREFIX", help="where the table's packages that begin with PREFIX are"
    )
    parser.add_argument(
        "--follow", action="append", default=[], metavar="DIR", help="links of packages may lead there; a checkout given to --below is one"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all rows there")
    arguments = parser.parse_args()
    if arguments.fetch:
        print(fetch_sdist())
        return 0
    expected = read_expected(arguments.expected) if arguments.expected else {}
    wanted: dict[Path, Sequence[tuple[str, str, str]]] = dict.fromkeys(arguments.packages, ())
    for pair in arguments.below:
        directory, _, prefix = pair.partition("=")
        arguments.follow.append(directory)
        wanted |= {
            Path(directory) / name.removeprefix(prefix).lstrip("/"): rows for name, rows in expected.items() if name.startswith(prefix)
        }
    with tempfile.TemporaryDirectory() as place:
        if arguments.examples:
            root = unpack_examples(fetch_sdist(), Path(place))
            wanted |= {root / name: () for name in sorted({name for name, _, _ in EXAMPLES})}
        return _compare(wanted, arguments)


def _compare(wanted: Mapping[Path, Sequence[tuple[str, str, str]]], arguments: argparse.Namespace) -> int:
    every: list[Row] = []
    bad = 0
    for path, table in wanted.items():
        try:
            rows, result, ours_s, oracle_s = judge_package(path, arguments.oracle, arguments.jobs, arguments.follow)
        except SandboxError as error:
            print(f"\n{path.name}: not judged: {error}", flush=True)
            bad += 1
            continue
        every += rows
        print(
            f"\n{path.name}: time limit {result.time_limit_ns / 1e9:g} s, {result.time_limit_source}; ours {ours_s:.1f} s, reference {oracle_s:.1f} s"
        )
        for row in rows:
            beside = f"{row.oracle or '-'}{f' ({row.oracle_score:g})' if row.oracle_score is not None else ''}" if arguments.oracle else ""
            mine = f"{row.code}{f' ({row.score:g})' if row.score is not None else ''}"
            print(f"  {row.status:9} {row.submission:60} {mine:10} {beside:10} {row.why[:140]!r}")
        for problem in result.problems:
            print(f"  package: {problem[:200]!r}")
        missing = missing_rows(rows, table)
        if missing:
            print(f"  not judged, though in the table: {', '.join(missing)}")
        print(f"  {summarise(rows)}", flush=True)
        bad += sum(row.status == "differs" for row in rows) + len(missing)
    print(f"\nall: {summarise(every)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in every], indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
