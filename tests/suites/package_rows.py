"""Rows of the comparison: a submission's label, our verdict, the reference tool's, and the reason of every difference; figures per package."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from package_reference import Said, Verdict, four

from sandbox.judge.model import PackageResult, SubmissionResult

MISLABELLED = "*/*.bad.*"
"""Submissions that BAPCtools' own tests demand to break their labels; such a row is right when its label does not hold."""

SPECIFIED = {
    ("constants", "wrong_answer/constant_in_submission.py", "AC"): (
        "2025-09 fills in constants in example submissions as well, and the answer is then right; BAPCtools leaves submissions as they are"
    ),
    ("hello", "mixed/test-memstatic.cc", "CE"): (
        "its own comment says that this is a compiler's error where files are bounded: 512 MiB are in the program"
    ),
}
"""Rows whose label does not hold by the words of the format: package, submission, our verdict. Another verdict is a difference."""

_NO_VERDICT = ("CE", "JE")
_COLUMNS = (
    "rows", "label holds", "mislabelled, and said so", "explained", "specified", "stricter", "absent", "no label", "differs",
    "same verdict as the reference", "ours s", "reference s", "ours/reference",
)  # fmt: skip
STATUSES = ("holds", "mislabelled", "explained", "specified", "stricter", "absent", "no label", "differs")


@dataclass(frozen=True, slots=True)
class Row:
    """One submission: its label, our verdict and the reference tool's; `reason` is why they differ, "" where they do not or nobody knows."""

    package: str
    submission: str
    label: str
    code: str
    score: float | None
    status: str
    why: str = ""
    oracle: str = ""
    oracle_score: float | None = None
    oracle_why: str = ""
    reason: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether both judges gave the same verdict and score; None where one gave none: what it could not compile or judge is no verdict."""
        if not self.oracle or self.code in ("", "absent") or (self.oracle in _NO_VERDICT and self.code != self.oracle):
            return None
        return _same(self.code, self.score, self.oracle, self.oracle_score)

    @property
    def bad(self) -> bool:
        """Whether there is something to mend: a label that does not hold, or another verdict, and no reason."""
        return self.status == "differs" or (self.agrees is False and not self.reason)

    @property
    def worth_telling(self) -> bool:
        """Whether it is no row that simply holds on both sides."""
        return self.status != "holds" or self.agrees is False or bool(self.oracle_why)

    @property
    def all_reasons(self) -> str:
        """Everything that is known of why it is no row that simply holds."""
        return "; ".join(filter(None, (self.reason, self.why, self.oracle_why and f"reference: {self.oracle_why}")))

    @property
    def what(self) -> str:
        """What it is, in words."""
        if self.bad:
            return "to be mended"
        if self.status != "holds":
            return self.status
        return "label holds here" if self.agrees is None else "label holds here, other verdict"


def _same(code: str, score: float | None, other: str, other_score: float | None) -> bool:
    return four(code) == four(other) and (score is None or other_score is None or abs(score - other_score) < 0.01)


def make_row(
    package: str, found: SubmissionResult, oracle: Mapping[str, Verdict] | None, *, said: Said | None = None, limit_s: float | None = None
) -> Row:
    """Return the row of a submission.

    Args:
        package: its name.
        found: our result.
        oracle: the reference tool's verdicts, None without it.
        said: all that it said.
        limit_s: the time limit that we judged under.
    """
    theirs = None if oracle is None else oracle.get(found.name)
    code = "absent" if found.absent else found.code.value if found.code is not None else ""
    why = found.absent or "; ".join(found.label_problems)
    reason = ""
    agree = theirs is not None and bool(theirs.code) and four(theirs.code) == four(code)
    if found.absent:
        status = "absent"
    elif fnmatch.fnmatchcase(found.name, MISLABELLED) and found.label_ok is not None:
        status = "differs" if found.label_ok else "mislabelled"
    elif found.label_ok is None:
        status = "no label"
    elif found.label_ok:
        status = "holds"
    elif theirs is not None and agree:
        status = "stricter" if theirs.fulfilled else "explained"
    elif (package, found.name, code) in SPECIFIED:
        status, reason = "specified", SPECIFIED[package, found.name, code]
    else:
        status = "differs"
    if theirs is not None and theirs.code and theirs.code not in _NO_VERDICT and not _same(code, found.score, theirs.code, theirs.score):
        reason = reason or _find_reason(found, theirs, said, limit_s)
    return Row(
        package, found.name, found.label or found.name.split("/")[0], code, found.score, status, why,
        theirs.code if theirs else "", theirs.score if theirs else None, theirs.why if theirs else "", reason,
    )  # fmt: skip


def _find_reason(found: SubmissionResult, theirs: Verdict, said: Said | None, limit_s: float | None) -> str:
    """Return what both tools themselves say about why their verdicts differ, "" where they say nothing."""
    reasons = []
    if theirs.sensitive:
        reasons.append("the reference tool calls it sensitive to the time limit")
    if found.sensitive or any(case.near or case.reruns for case in found.cases):
        reasons.append("it is near a limit here")
    if "PyPy" in theirs.language and found.language == "python3":
        reasons.append("PyPy there, CPython here")
    if said is not None and said.limit_s and limit_s and abs(said.limit_s - limit_s) > 1e-6 and "TLE" in (four(theirs.code), four(found.code or "")):
        reasons.append(f"time limit {said.limit_s:g} s there, {limit_s:g} s here")
    if said is not None and said.leaves_out:
        reasons.append(f"the reference tool does not read {', '.join(said.leaves_out)}")
    return "; ".join(reasons)


@dataclass(frozen=True, slots=True)
class Compared:
    """A package, judged by both: rows, times in seconds, and what else is to be said."""

    name: str
    rows: tuple[Row, ...]
    result: PackageResult | None
    ours_s: float
    said: Said | None
    failed: str = ""
    missing: tuple[str, ...] = ()

    @property
    def bad(self) -> int:
        """How much of it is to be mended."""
        return bool(self.failed) + len(self.missing) + sum(row.bad for row in self.rows)


def summarise(rows: Sequence[Row]) -> str:
    """Return the figures of a package."""
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    words = [f"{len(rows)} rows", *(f"{count} {status}" for status, count in counts.items() if count)]
    compared = [row for row in rows if row.agrees is not None]
    if compared:
        words.append(f"same verdict as the reference tool in {sum(bool(row.agrees) for row in compared)} of {len(compared)}")
    return ", ".join(words)


def print_package(found: Compared, *, everything: bool = True) -> None:
    """Print a package: its rows, what is doubtful, its figures."""
    if found.result is None:
        print(f"\n{found.name}: not judged: {found.failed}", flush=True)
        return
    limit = f"time limit {found.result.time_limit_ns / 1e9:g} s, {found.result.time_limit_source}"
    beside = ""
    if found.said is not None:
        beside = f"; reference {found.said.seconds:.1f} s" + (f", limit {found.said.limit_s:g} s" if found.said.limit_s else "")
    print(f"\n{found.name}: {limit}; ours {found.ours_s:.1f} s{beside}")
    for row in found.rows:
        if everything or row.worth_telling:
            mine, theirs = _verdict(row.code, row.score), _verdict(row.oracle, row.oracle_score)
            print(f"  {'BAD' if row.bad else row.status:11} {row.submission:60} {mine:10} {theirs:10} {row.all_reasons[:240]!r}")
    for problem in found.result.problems:
        print(f"  package: {problem[:300]!r}")
    if found.said is not None:
        if found.said.trouble:
            print(f"  reference: no verdict: {found.said.trouble!r}")
        if found.said.given_as:
            print(f"  reference: was given a copy that says `{found.said.given_as}`, with a directory around the output validator")
        if found.said.leaves_out:
            print(f"  reference: does not read {', '.join(found.said.leaves_out)}")
    if found.missing:
        print(f"  not judged, though in the table: {', '.join(found.missing)}")
    print(f"  {summarise(found.rows)}", flush=True)


def _verdict(code: str, score: float | None) -> str:
    return f"{code or '-'}{f' ({score:g})' if score is not None else ''}"


def render_markdown(packages: Iterable[Compared]) -> str:
    """Return a table of all packages and one of every row that is more than a label that holds on both sides."""
    packages = list(packages)
    lines = ["| package | " + " | ".join(_COLUMNS) + " |", "|---|" + "--:|" * len(_COLUMNS)]
    for found in packages:
        rows = found.rows
        counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
        compared = [row for row in rows if row.agrees is not None]
        same = f"{sum(bool(row.agrees) for row in compared)} of {len(compared)}" if compared else "-"
        seconds = found.said.seconds if found.said is not None and compared else 0.0
        cells = [
            found.name, len(rows), *(counts[each] or "" for each in STATUSES), same, f"{found.ours_s:.1f}",
            *((f"{seconds:.1f}", f"{found.ours_s / seconds:.2f}") if seconds else ("-", "-")),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |" + (f" not judged: {found.failed}" if found.failed else ""))
    lines += ["", "| package | row | ours | reference | what it is | reason |", "|---|---|---|---|---|---|"]
    for found in packages:
        if found.said is not None and found.said.trouble:
            lines.append(f"| {found.name} | all | | - | the reference tool does not read it | {_cell(found.said.trouble)} |")
        for row in found.rows:
            if row.worth_telling:
                mine, theirs = _verdict(row.code, row.score), _verdict(row.oracle, row.oracle_score)
                lines.append(f"| {row.package} | {row.submission} | {mine} | {theirs} | {row.what} | {_cell(row.all_reasons)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text).replace("|", "\\|")[:240]
