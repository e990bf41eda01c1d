"""Statistics over runs of the same thing: how far times spread, which verdicts flip, how many of n samples pass.

Pure: numbers in, numbers out. The pipeline, `judge environment` and graders of generated programs use it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sandbox.judge.model import CaseResult, Code, SubmissionResult
from sandbox.judge.verdict import PRECEDENCE
from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How several measurements of one quantity lie, in its own unit (nanoseconds for times).

    `p95` is interpolated between neighbours, so that it says something of few measurements, too; with fewer than twenty it lies near `maximum`.
    """

    count: int
    minimum: int
    median: int
    p95: int
    maximum: int

    @property
    def ratio(self) -> float:
        """The 95th percentile as a multiple of the median; 1.0 is no spread at all."""
        return self.p95 / self.median if self.median else 1.0

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {
            "count": self.count, "minimum": self.minimum, "median": self.median, "p95": self.p95, "maximum": self.maximum,
            "ratio": round(self.ratio, 4),
        }  # fmt: skip


def measure_spread(values: Iterable[int]) -> Spread:
    """Return how measurements lie.

    Raises:
        ValueError: there are none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no measurement, no spread")
    return Spread(
        count=len(ordered), minimum=ordered[0], median=round(percentile(ordered, 50)), p95=round(percentile(ordered, 95)), maximum=ordered[-1]
    )  # fmt: skip


def percentile(ordered: Sequence[int], percent: float) -> float:
    """Return a percentile of sorted numbers, linear between neighbours.

    Args:
        ordered: at least one number, ascending.
        percent: 0 to 100.
    """
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """What repetition of one case showed.

    Attributes:
        case: its name.
        codes: how often each verdict came, the most frequent first.
        cpu_ns: how CPU times lie.
        straddles: whether some runs were within the time limit and some above it.
    """

    case: str
    codes: Mapping[Code, int]
    cpu_ns: Spread
    straddles: bool = False

    @property
    def flipped(self) -> bool:
        """Whether the verdict was not always the same."""
        return len(self.codes) > 1

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {
            "case": self.case, "runs": self.cpu_ns.count, "codes": {str(code): count for code, count in self.codes.items()},
            "flipped": self.flipped, "straddles": self.straddles, "cpu_ns": self.cpu_ns.to_dict(),
        }  # fmt: skip


def repeats_of(case: CaseResult, limit_ns: int | None = None) -> Repeats | None:
    """Return what the runs of a case show: its first and its `reruns`; None where it ran once or not at all.

    Args:
        case: a judged case.
        limit_ns: its time limit, for `Repeats.straddles`.
    """
    if case.skipped or not case.reruns:
        return None
    return count_runs(case.case, [(case.code, case.cpu_ns), *case.reruns], limit_ns)


def count_runs(case: str, runs: Sequence[tuple[Code, int]], limit_ns: int | None = None) -> Repeats:
    """Return what runs show, each a verdict and a CPU time.

    Raises:
        ValueError: there are none.
    """
    times = measure_spread(cpu_ns for _, cpu_ns in runs)
    counts = Counter(code for code, _ in runs)
    ordered = sorted(counts, key=lambda code: (-counts[code], PRECEDENCE.index(code)))
    straddles = limit_ns is not None and times.minimum <= limit_ns < times.maximum
    return Repeats(case=case, codes={code: counts[code] for code in ordered}, cpu_ns=times, straddles=straddles)


def settle(codes: Sequence[Code]) -> Code:
    """Return the verdict that stands for several runs of one case: the most frequent, of equally frequent ones the gravest.

    A run that the judge itself spoiled (JE) counts only where there is no other.

    Raises:
        ValueError: there are none.
    """
    counts: Counter[Code] = Counter(code for code in codes if code is not Code.JE) or Counter(codes)
    if not counts:
        raise ValueError("no run, no verdict")
    return min(counts, key=lambda code: (-counts[code], PRECEDENCE.index(code)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Determinism:
    """What repetition of one submission showed: `cases` in their order, `flips` the names of those whose verdict was not always the same.

    `widest` is the case whose times spread most, "" where none ran twice; `ratio` is its spread (p95 as a multiple of the median).
    """

    submission: str
    cases: tuple[Repeats, ...]
    flips: tuple[str, ...] = ()
    widest: str = ""
    ratio: float = 1.0

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {
            "submission": self.submission, "flips": list(self.flips), "widest": self.widest, "ratio": round(self.ratio, 4),
            "cases": [case.to_dict() for case in self.cases],
        }  # fmt: skip


def measure_determinism(submission: SubmissionResult, limit_ns: int | None = None) -> Determinism:
    """Return what the repeated runs of a submission's cases show; cases that ran once are left out."""
    found = [repeats for case in submission.cases if (repeats := repeats_of(case, limit_ns)) is not None]
    widest = max(found, key=lambda repeats: repeats.cpu_ns.ratio, default=None)
    return Determinism(
        submission=submission.name,
        cases=tuple(found),
        flips=tuple(repeats.case for repeats in found if repeats.flipped),
        widest="" if widest is None else widest.case,
        ratio=1.0 if widest is None else widest.cpu_ns.ratio,
    )


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return how likely at least one of `k` samples passes, estimated from more of them without bias.

    Args:
        samples: how many programs were generated for one task, at least `k`.
        passed: how many of them were accepted.
        k: how many a user would draw, at least 1.

    Raises:
        ValueError: the numbers contradict each other.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code" (2021), section 2.1: 1 - C(n-c, k) / C(n, k).
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {samples} samples with {passed} accepted makes no sense")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
