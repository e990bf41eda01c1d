"""The packages that come with problemtools give their labels: 43 submissions of four packages, legacy and new, custom validators, interactive, scoring.

They are fetched from PyPI, pinned by hash, into the tests' cache (``python tests/suites/packages.py --fetch``). Offline the tests are skipped and say so;
``SANDBOX_MUST_WORK=problemtools`` makes that a failure. A row whose compiler is not installed is skipped by name.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import packages

from sandbox.judge.model import Code, PackageResult, SubmissionResult

pytestmark = [pytest.mark.userns, pytest.mark.seccomp]
Judged = Callable[[str], PackageResult]

SAMPLE = """
   accepted/a.cc (C++) OK: AC [CPU: 0.00s @ testcase secret/1]
   accepted/b.py (Python 3 (w/PyPy3)) OK: AC (100) [CPU: 0.05s @ testcase secret/2]
ERROR wrong_answer/c.py (Python 3 (w/PyPy3)) got AC [CPU: 0.05s @ testcase secret/2]
WARNING partially_accepted/d.c (C) sensitive to time limit: limit of 1 secs -> AC (40), limit of 2 secs -> AC (60)
   partially_accepted/d.c (C) OK: AC (40) [CPU: 0.9s @ testcase secret/2]
   time_limit_exceeded/e.c (C) OK with extra time: TLE [CPU: 9s @ testcase secret/2]
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """Judge a package when the first of its rows is asked for."""
    try:
        sdist = packages.fetch_sdist()
    except OSError as error:
        if "problemtools" in os.environ.get("SANDBOX_MUST_WORK", "").split(","):
            pytest.fail(f"the sdist of problemtools must be here (SANDBOX_MUST_WORK): {error}", pytrace=False)
        pytest.skip(f"problemtools' sdist is not in the cache and cannot be fetched: {error}")
    root = packages.unpack_examples(sdist, tmp_path_factory.mktemp("examples"))

    @functools.cache
    def judge(name: str) -> PackageResult:
        from sandbox.judge.packages import run_package

        # The limit of `hello` is made of a program that computes for a second of wall time: little where everybody waits for a processor, and then too
        # short for one that fills half a gigabyte. None of its labels is about time.
        return run_package(str(root / name), jobs=2, time_limit=20 if name == "hello" else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield judge


@pytest.mark.parametrize("package", sorted({package for package, _, _ in packages.EXAMPLES}))
def test_every_submission_is_a_row(judged: Judged, package: str) -> None:
    """The table is the package: nothing is left out on either side, and the package itself has no problem."""
    result = judged(package)
    assert {each.name for each in result.submissions} == {name for where, name, _ in packages.EXAMPLES if where == package}
    assert not result.problems


@pytest.mark.parametrize(
    ("package", "name", "score"), packages.EXAMPLES, ids=[f"{package}-{name}" for package, name, _ in packages.EXAMPLES]
)
def test_a_submission_gets_its_label(judged: Judged, package: str, name: str, score: float | None) -> None:
    """The verdict is what the directory says, by our own reading of the label and by the table's."""
    found: SubmissionResult = next(each for each in judged(package).submissions if each.name == name)
    if found.absent:
        pytest.skip(found.absent)
    said = (
        found.code,
        found.score,
        found.label_problems,
        found.decided_by,
        [(case.case, case.code, case.cause) for case in found.cases if case.code != "AC"],
    )
    assert found.label_ok is True, said
    assert found.code is not None and packages.four(found.code.value) == packages.LABELS[name.split("/")[0]], said
    if score is not None:
        assert found.score == score, said


def test_what_the_reference_tool_prints_is_read() -> None:
    """The comparison by hand reads both fulfilled and unfulfilled labels, scores, and what depends on the limit."""
    read = packages.read_oracle(SAMPLE)
    assert {name: (said.code, said.score, said.fulfilled, said.sensitive) for name, said in read.items()} == {
        "accepted/a.cc": ("AC", None, True, False),
        "accepted/b.py": ("AC", 100.0, True, False),
        "wrong_answer/c.py": ("AC", None, False, False),
        "partially_accepted/d.c": ("AC", 40.0, True, True),
        "time_limit_exceeded/e.c": ("TLE", None, True, False),
    }


def test_a_difference_is_not_taken_for_a_row_that_holds() -> None:
    """Only the reference tool's own verdict explains a row; a label that we alone do not fulfil is a difference."""
    wrong = SubmissionResult(name="wrong_answer/c.py", code=Code.AC, label_ok=False, label_problems=("AC is not WA",))
    same = {"wrong_answer/c.py": packages.Verdict("AC", None, False)}
    other = {"wrong_answer/c.py": packages.Verdict("WA", None, True)}
    assert [packages.make_row("p", wrong, said).status for said in (same, other, {}, None)] == [
        "explained",
        "differs",
        "differs",
        "differs",
    ]
