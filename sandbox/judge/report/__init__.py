"""A judging as a report: a table for a person, JSON for programs, JUnit for continuous integration.

Names, messages and outputs come from packages and contestants. The table and JUnit have them escaped, JSON as ASCII strings, so that none of the three gives a
terminal orders.
"""

from __future__ import annotations

from sandbox.judge.model import Code, PackageResult
from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedPackage:
    """A package that could not be judged; the texts are those of the error."""

    path: str
    message: str
    origin: str = ""
    hint: str = ""


Judged = PackageResult | FailedPackage

OK, LABEL, ERROR = 0, 1, 2


def exit_code(packages: tuple[Judged, ...]) -> int:
    """Return 0 where every label that could be checked holds, 1 where one does not, 2 where a package or the judge failed."""
    codes = [OK]
    for each in packages:
        if (
            isinstance(each, FailedPackage)
            or each.problems
            or any(_failed(one.code) or any(_failed(case.code) and not case.skipped for case in one.cases) for one in each.submissions)
        ):
            codes.append(ERROR)
        elif not each.ok:
            codes.append(LABEL)
    return max(codes)


def _failed(code: Code | None) -> bool:
    return code is Code.JE


__all__ = ["ERROR", "LABEL", "OK", "FailedPackage", "Judged", "exit_code"]
