"""From lists to figures: quantiles, and ratios as medians of the rounds' own ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

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


def merge(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several files of one machine as one: the rounds of each measure one after the other, of the rows that each of its files has."""
    whole: dict[str, Any] = {**files[0], "measures": {}}
    for key in ("missing", "failures", "rows"):
        whole[key] = {name: value for file in files for name, value in file[key].items()}
    whole["busy"] = [share for file in files for share in file["busy"]]
    whole["load_end"] = files[-1]["load_end"]
    for name in dict.fromkeys(name for file in files for name in file["measures"]):
        parts = [file["measures"][name] for file in files if name in file["measures"]]
        merged = dict(parts[0])
        for kind in ("us", "ns", "at_once"):
            if kind in merged:
                rows = [row for row in merged[kind] if all(row in part[kind] for part in parts)]
                merged[kind] = {row: _join([part[kind][row] for part in parts]) for row in rows}
        whole["measures"][name] = merged
    return whole


def _join(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):  # of throughput: by the number at once
        return {key: _join([part[key] for part in parts]) for key in parts[0] if all(key in part for part in parts)}
    return [entry for part in parts for entry in part]
