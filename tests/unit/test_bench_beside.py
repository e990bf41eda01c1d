"""What the benchmark makes of its figures: quantiles, paired ratios, tables. The measuring itself is tests/bench; no time is judged here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from beside.figures import merge, quantile, ratio
from beside.report import render
from where import PARTS, _place, _samples


def test_ratios_are_of_the_same_round() -> None:
    """A moment in which everything takes ten times as long changes no ratio, though it changes every time."""
    own, other = [[2.0, 2.2, 9.9], [20.0, 20.0], [2.0]], [[4.0, 4.4, 4.2], [40.0, 40.0], [4.0]]
    assert ratio(own, other) == 0.5
    assert ratio([[], [3.0]], [[1.0], [1.5]]) == 2.0
    assert ratio([], []) is None


def test_quantiles_are_of_all_rounds_together() -> None:
    assert quantile([[5, 1], [3], [2, 4]], 0.5) == 3
    assert quantile([[1, 2, 3]], 0.99) == 3
    assert quantile([], 0.5) is None


@pytest.fixture
def file() -> dict[str, Any]:
    """Return a small file with every kind of measure."""
    idle = {"processes": 2, "pss": 2048, "unreadable": 0, "names": [], "caller_pss": 9000, "payload_pss": 1, "payloads": 1, "kernel": 1}
    many = {**idle, "processes": 40, "pss": 2048 + 19 * 81920, "caller_pss": 9000 + 19 * 1024}
    return {
        "host": {
            "date": "today", "commit": "", "uid": 5, "cpus": 2, "cpu": "C", "memory_gib": 1, "kernel": "6", "python": "3", "load": [0, 0, 0], "versions": {},
        },
        "load_end": [1, 1, 1], "busy": [0.0, 0.5], "settings": {"rounds": 2, "batch": 1},
        "missing": {"nsjail": "`nsjail` is not installed"}, "failures": {"crun": ["launch: no"]},
        "rows": {"ours": {"has": "U", "note": "n", "line": "l"}},
        "measures": {
            "launch": {"program": "/bin/true", "us": {"native": [[1000], [3000]], "bwrap+filter": [[4000], [12000]], "ours": [[2000], [6000]]}},
            "ballast": {"program": "/bin/true", "us": {"ours": [[2000]], "larger": [[2100]]}, "pairs": {"larger": "ours"}},
            "throughput": {"program": "/bin/true", "at_once": {
                name: {str(n): [{"n": count, "wall_s": 1.0, "failed": 0, "cpu_s": count * 0.002}] for n in (1, 2, 4)}
                for name, count in (("bwrap+filter", 100), ("ours", 250))
            }},
            "calls": {"ns": {"native": [dict.fromkeys(("getpid", "read", "openat+close", "futex", "fcntl", "ioctl"), 100.0)]}},
            "memory": {"idle": {"ours": {"1": idle, "20": many}}},
        },
    }  # fmt: skip


def test_tables(file: dict[str, Any]) -> None:
    text = render(file)
    assert "| ours | 2 | 6.00 | 6.00 | 6.00 | 2.00 | 0.50 |" in text
    assert "| larger | 1 | 2.10 | 2.10 | 2.10 | 1.05 |" in text
    assert "| ours | 250 | 2.50 | 250 | 2.50 | 250 | 2.50 | 2.00 |  |" in text
    assert "| native | 100 (1.00) |" in text
    assert "| ours | 20 | 40 | 80 | 1 |" in text
    assert "- nsjail: `nsjail` is not installed" in text and "- crun: launch: no" in text


def test_files_are_merged_round_by_round(file: dict[str, Any]) -> None:
    shorter = {**file, "measures": {"launch": {"program": "/bin/true", "us": {"native": [[1]], "ours": [[5]]}}}}
    both = merge([file, shorter])["measures"]
    assert both["launch"]["us"] == {"native": [[1000], [3000], [1]], "ours": [[2000], [6000], [5]]}
    assert both["throughput"] == file["measures"]["throughput"]
    assert len(merge([file, file])["measures"]["throughput"]["at_once"]["ours"]["2"]) == 2


def test_samples_are_placed_by_what_is_above_them() -> None:
    lines = "kworker/1 77\n\tffff cleanup_net\n\tffff process_one_work\n\npython 8\n\t55 _PyEval_EvalFrameDefault\n\nswapper 0\n\tffff default_idle\n\n"
    family = {8}
    lines += "python 8 PERF_RECORD_FORK(9:9):(8:8)\npython 9 PERF_RECORD_FORK(10:10):(9:9)\nother 30 PERF_RECORD_FORK(31:31):(30:30)\n"
    places = [_place(comm, stack) for comm, _, stack in _samples(iter(lines.splitlines(keepends=True)), family)]
    assert family == {8, 9, 10}
    assert places == ["network namespaces: torn down", "Python", ""]
    assert len({part for part, _ in PARTS}) == len(PARTS)
