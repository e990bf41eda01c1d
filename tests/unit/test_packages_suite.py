"""`tests/suites/packages.py` can tell a bug from a difference that has a reason: what is given to the reference tool, and what a row is called."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import package_reference
import package_rows
import packages

from sandbox.judge.model import CaseResult, Code, SubmissionResult
from tests.unit.judge_packages import LEGACY, NEW, Link, make_package

PRINTED = """Loading problem x
ERROR Submission rejected/a.c does not match any known submissions directory; ignoring it
ERROR Compile error for accepted/b.java (Java):
\x1b[31m        error: invalid source release: 21
ERROR Compile error for accepted/c.py (Python 2 (w/PyPy)) (Python 2 (w/PyPy): could not find compiler "pypy")
   accepted/d.py (Python 3 (w/PyPy3)) OK: AC [CPU: 0.05s @ testcase sample/1]
ERROR accepted/e.c (C) got JE [output validator v.c (C) exited with status 1, CPU: 0.00s @ testcase sample/1]
   Slowest AC runtime: 0.05, setting timelim to 1.5 secs, safety margin to 4 secs
"""


def test_what_is_not_judged_has_its_reason() -> None:
    read = package_reference.read_verdicts(PRINTED)
    assert {name: (said.code, said.why) for name, said in read.items()} == {
        "rejected/a.c": ("", "does not match any known submissions directory"),
        "accepted/b.java": ("CE", "error: invalid source release: 21"),
        "accepted/c.py": ("CE", 'Python 2 (w/PyPy): could not find compiler "pypy"'),
        "accepted/d.py": ("AC", ""),
        "accepted/e.c": ("JE", "output validator v.c (C) exited with status 1"),
    }
    assert package_reference.read_limit(PRINTED) == 1.5
    assert package_reference.read_trouble("Loading problem x\nERROR in x: no\n  why\n") == "ERROR in x: no; why"


BT = """Run: using timelimit: 1.5s

accepted/a.c:                AC 0.006s @ sample/1
\x1b[31maccepted/rte.py\x1b[0m:             RTE 0.052s @ sample/1                                   permitted: [AC]  Exited with code 1
accepted/rte.py:             RTE 0.052s @ sample/1
wrong_answer/b.py:          required: [WA], got: [AC]
wrong_answer/b.py:           AC 0.033s @ secret/named_group/inans
accepted/d.py:               VC 0.033s @ sample/1                                   permitted: [AC]  x
"""


def test_what_bapctools_prints_is_read() -> None:
    read = package_reference.read_bt(BT)
    assert {name: (said.code, said.fulfilled) for name, said in read.items()} == {
        "accepted/a.c": ("AC", True),
        "accepted/rte.py": ("RTE", False),
        "wrong_answer/b.py": ("AC", False),
        "accepted/d.py": ("JE", False),
    }


def test_the_reference_tool_gets_a_copy_under_its_own_name_of_the_format(tmp_path: Path) -> None:
    files = {**NEW, "data/secret/test_group.yaml": "max_score: 1\n", "data/secret/01.yaml": "args: [a]\n", "data/x.yaml": "x\n", "output_validator/v.c": "v"}
    new = Path(make_package(tmp_path / "new", {**files, "data/secret/02.in": Link("01.in"), "data/secret/03.in": Link("nothing")}))
    (tmp_path / "copy").mkdir()
    given, name = package_reference.make_copy(new, tmp_path / "copy")
    assert given == tmp_path / "copy" / "sum" and name == "2023-07-draft"
    assert (given / "problem.yaml").read_text() == (new / "problem.yaml").read_text().replace("2025-09", "2023-07-draft")
    assert (given / "data/secret/01.in").read_bytes() == (new / "data/secret/01.in").read_bytes()
    assert (given / "data/secret/02.in").read_bytes() == (new / "data/secret/01.in").read_bytes() and not (given / "data/secret/03.in").exists()
    assert (given / "output_validator/validator/v.c").read_text() == "v" and not (given / "output_validator/v.c").exists()
    assert package_reference.what_it_leaves_out(new) == ("`test_group.yaml`", "options of single cases")
    old = Path(make_package(tmp_path / "old", LEGACY))
    assert package_reference.make_copy(old, tmp_path / "copy") == (old, "")
    assert package_reference.what_it_leaves_out(old) == ()


def test_a_tool_that_does_not_end_is_ended_with_all_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in a group of its own holds the tool's output open: had it not been ended, this would wait for it."""
    monkeypatch.setattr(package_reference, "MOST_S", 3)  # long enough to begin, wherever processors are busy
    script = "import os, signal; print('begun'); os.fork() or os.setpgid(0, 0); signal.pause()"
    text, _, late = package_reference._run([sys.executable, "-S", "-c", script], os.environ, tmp_path)
    with contextlib.suppress(ChildProcessError):
        os.wait()  # it came to us when its parent died
    assert text == "begun\n" and late == "was ended after 3 s"


def _row(name: str, code: Code, ok: bool | None, said: package_reference.Verdict | None, **more: object) -> package_rows.Row:
    found = SubmissionResult(name=name, code=code, label_ok=ok, **more)  # type: ignore[arg-type]
    return packages.make_row("p", found, {name: said} if said else {}, said=package_reference.Said(), limit_s=1.0)


V = package_reference.Verdict
NEAR = (CaseResult(case="1", code=Code.AC, near=("cpu 1 s of 1 s",)),)


@pytest.mark.parametrize(
    ("row", "status", "bad"),
    [
        (_row("accepted/a.c", Code.AC, True, V("AC", None, True)), "holds", False),
        (_row("accepted/a.c", Code.AC, True, None), "holds", False),
        (_row("accepted/a.c", Code.AC, True, V("WA", None, False)), "holds", True),
        (_row("accepted/a.c", Code.AC, True, V("TLE", None, False, sensitive=True)), "holds", False),
        (_row("accepted/a.c", Code.AC, True, V("TLE", None, False), cases=NEAR), "holds", False),
        (_row("accepted/a.py", Code.TLE, False, V("AC", None, True, language="Python 3 (w/PyPy3)"), language="python3"), "differs", True),
        (_row("accepted/a.c", Code.WA, False, V("WA", None, False)), "explained", False),
        (_row("accepted/a.c", Code.WA, False, V("WA", None, True)), "stricter", False),
        (_row("accepted/a.c", Code.AC, True, V("JE", None, False, why="no validator")), "holds", False),
        (_row("accepted/a.c", Code.JE, False, V("JE", None, False, why="no validator")), "explained", False),
        (_row("accepted/a.c", Code.WA, False, V("CE", None, False, why="no compiler")), "differs", True),
        (_row("accepted/a.bad.py", Code.WA, False, V("WA", None, False)), "mislabelled", False),
        (_row("accepted/a.bad.py", Code.AC, True, V("AC", None, True)), "differs", True),
        (_row("rejected/a.c", Code.NZE, None, V("", None, False, why="no such directory")), "no label", False),
    ],
)
def test_what_a_row_is_called(row: package_rows.Row, status: str, bad: bool) -> None:
    assert (row.status, row.bad) == (status, bad), row


def test_the_table_counts_every_row_once() -> None:
    rows = (_row("accepted/a.c", Code.AC, True, V("AC", None, True)), _row("accepted/b.bad.c", Code.WA, False, V("WA", None, False)))
    found = package_rows.Compared("p", rows, None, 1.0, package_reference.Said({}, 4.0))
    table = package_rows.render_markdown([found]).splitlines()
    assert table[2] == "| p | 2 | 1 | 1 |  |  |  |  |  |  | 2 of 2 | 1.0 | 4.0 | 0.25 |"
    assert table[-1].startswith("| p | accepted/b.bad.c | WA | WA | mislabelled |") and len(table) == 7
