"""From lists to figures: quantiles, and ratios as medians of the rounds' own ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Rounds = Sequence[Sequence[float]]
"""The values of each round."""


def quantile(rounds: Rounds, share: float) -> float | None:
    """Return the value of all rounds together below which that share lies."""
    values = sorted(value for batch in rounds for value in batch)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def count(rounds: Rounds) -> int:
    """Return how many values there are."""
    return sum(map(len, rounds))


def ratio(own: Rounds, other: Rounds) -> float | None:
    """Return the median over the rounds of the ratio of the two medians of the same round."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(own, other, strict=False) if a and b]
    return statistics.median(ratios) if ratios else None


def rates(slices: Sequence[dict[str, float]]) -> list[float]:
    """Return launches a second in each slice of a throughput measure."""
    return [entry["n"] / entry["wall_s"] for entry in slices]
