"""Labels of real problem packages: ours beside `verifyproblem`'s own verdicts in the same run, row by row, with figures per package.

Run by hand on public checkouts, none of which is part of this repository:

    python tests/suites/packages.py --oracle verifyproblem CHECKOUT/problem ...     each argument a package, or a directory of packages
    python tests/suites/packages.py --oracle verifyproblem --expected EXPECTED.tsv --below CHECKOUT=PREFIX ...
                                                                                    every package of a table, found below checkouts
    python tests/suites/packages.py --oracle verifyproblem --examples               problemtools' examples, of its sdist
    python tests/suites/packages.py --bt 'python -m bapctools.cli' CHECKOUT/test/problems
                                                                                    beside BAPCtools' verdicts, in the place of verifyproblem's
    python tests/suites/packages.py --fetch                                         that sdist into the tests' cache, for the tests

All of these may stand in one command; `--markdown FILE` writes the figures, and every row that is more than a label that holds on both sides, as tables.
Each package is judged by us, with an empty cache, one run at a time, and then by the reference tool, which also has no cache and one thread.

A row holds when our verdict fulfils its label. A row that does not is *explained* when the reference tool gives the very verdict that we give, and finds the
label unfulfilled too; then label and program disagree, not the judges. It is *stricter* when both give the same verdict and only we find the label unfulfilled,
because the format's words speak of every case and the reference tool looks at the final verdict alone. It is *specified* when the format's words have it so
(`package_rows.SPECIFIED`), and *mislabelled* when its name says that its label is wrong and we find that. Everything else *differs*. Where verdicts are not the
same, though the label holds, the reason is what the tools themselves say; one without a reason is bad, too. The exit status is 1 when anything is bad. A row
whose compiler is absent is named and counted.

`EXAMPLES` are the rows of the packages in problemtools' sdist, which `tests/kernel/test_judge_examples.py` judges in every run of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `python -I` leaves it out

from package_reference import Said, Verdict, ask_bt, ask_reference, four, make_environment, read_verdicts
from package_rows import Compared, Row, make_row, print_package, render_markdown, summarise

from sandbox.errors import SandboxError

__all__ = ["EXAMPLES", "LABELS", "Verdict", "fetch_sdist", "find_sdist", "four", "make_row", "read_oracle", "unpack_examples"]

read_oracle = read_verdicts

VERSION = "1.20260907"
SHA256 = "55f19b6a72ef5cb07daf0a4e612be963a15e7972891a3afb0fff89244b6228c6"
FETCH_S = 240

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


# ---- the comparison ----------------------------------------------------------------------------------------------------


def find_packages(path: Path) -> list[Path]:
    """Return a package, or those in a directory: what has a ``problem.yaml`` and submissions."""
    if (path / "problem.yaml").exists():
        return [path]
    return sorted(each.parent for each in path.glob("*/problem.yaml") if (each.parent / "submissions").is_dir())


def read_expected(path: Path) -> dict[str, list[str]]:
    """Return package → submissions of a table."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines()[1:]:
        package, submission, *_ = line.split("\t")
        found.setdefault(package, []).append(submission)
    return found


def missing_rows(rows: Iterable[Row], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the submissions of a table that no row is about."""
    have = {row.submission for row in rows}
    return tuple(each for each in wanted if each not in have)


def compare_package(path: Path, ask: Callable[[Path, Path], Said] | None, jobs: int, follow: Sequence[str], wanted: Sequence[str]) -> Compared:
    """Judge a package by us, with an empty cache, then by the reference tool, which is called with the package and an empty directory."""
    from sandbox.judge.packages import run_package

    with tempfile.TemporaryDirectory() as place:
        with _cache_in(f"{place}/cache"):
            began = time.monotonic()
            try:
                result = run_package(str(path), jobs=jobs, follow=follow)
            except SandboxError as error:
                return Compared(path.name, (), None, time.monotonic() - began, None, " / ".join(str(error).split("\n")))
            ours_s = time.monotonic() - began
        copy = Path(place) / "copy"
        copy.mkdir()
        said = ask(path, copy) if ask is not None else None
    verdicts = None if said is None else said.verdicts
    rows = tuple(make_row(path.name, each, verdicts, said=said, limit_s=result.time_limit_ns / 1e9) for each in result.submissions)
    return Compared(path.name, rows, result, ours_s, said, missing=missing_rows(rows, wanted))


@contextlib.contextmanager
def _cache_in(path: str) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def main() -> int:
    """Judge the packages that were named and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", type=Path)
    parser.add_argument("--fetch", action="store_true", help="fetch problemtools' sdist into the cache of the tests, and say where it is")
    parser.add_argument("--examples", action="store_true", help="the packages of that sdist")
    parser.add_argument("--oracle", metavar="VERIFYPROBLEM", help="the reference tool of PyPI's `problemtools`")
    parser.add_argument("--bt", metavar="COMMAND", help="BAPCtools' command: the reference tool in its place")
    parser.add_argument("--expected", type=Path, metavar="TSV", help="a table whose rows must all be there")
    parser.add_argument(
        "--below", action="append", default=[], metavar="DIR=PREFIX", help="where the table's packages that begin with PREFIX are"
    )
    parser.add_argument(
        "--follow", action="append", default=[], metavar="DIR", help="links of packages may lead there; a checkout given to --below is one"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--brief", action="store_true", help="print only rows that are more than a label that holds on both sides")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    if arguments.fetch:
        print(fetch_sdist())
        return 0
    expected = read_expected(arguments.expected) if arguments.expected else {}
    wanted: dict[Path, Sequence[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        if arguments.examples:
            root = unpack_examples(fetch_sdist(), Path(place))
            wanted |= {root / name: [row for package, row, _ in EXAMPLES if package == name] for name in sorted({name for name, _, _ in EXAMPLES})}
        for pair in arguments.below:
            directory, _, prefix = pair.partition("=")
            arguments.follow.append(directory)
            wanted |= {
                Path(directory) / name.removeprefix(prefix).lstrip("/"): rows for name, rows in expected.items() if name.startswith(prefix)
            }
        for path in arguments.packages:
            if not (packages := find_packages(path)):
                parser.error(f"`{path}` is no package, and has none in it")
            wanted |= dict.fromkeys(packages, ())
        environment, changed = make_environment(Path(place) / "settings")
        ask: Callable[[Path, Path], Said] | None = None
        if arguments.bt:
            command = shlex.split(arguments.bt)

            def ask(package: Path, copy: Path) -> Said:
                return ask_bt(command, package, os.environ)

        elif arguments.oracle:
            print(f"reference: {changed or 'as it is'}", flush=True)

            def ask(package: Path, copy: Path) -> Said:
                return ask_reference(arguments.oracle, package, copy, environment)

        found = []
        for path, rows in wanted.items():
            found.append(compare_package(path, ask, arguments.jobs, arguments.follow, rows))
            print_package(found[-1], everything=not arguments.brief)
            if arguments.markdown:
                arguments.markdown.write_text(render_markdown(found))
    every = [row for each in found for row in each.rows]
    bad = sum(each.bad for each in found)
    print(f"\nall {len(found)} packages: {summarise(every)}; {bad} to be mended")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in every], indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
