"""A short soak of every way to start a run, and that the soak finds what it is there to find: tests/suites/soak.py, which runs for hours by hand.

Also: 500 sandboxes that idle at once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import sandbox

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "suites"))

from soak_watch import judge  # noqa: E402

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]


def soak(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the summary."""
    out = tmp_path / "soak.json"
    command = [sys.executable, str(ROOT / "tests" / "suites" / "soak.py"), "--out", str(out), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False)
    assert out.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["spawned", "anew", "template", "pool", "interpreter-started", "interpreter-forked"])
def test_mixed_runs(tmp_path: Path, tier: str) -> None:
    """Good and hostile runs through one Sandbox: every outcome is the run's own, nothing is left, nothing but the caller grows."""
    if tier == "anew" and os.geteuid() == 0:
        pytest.skip("root takes shared trees itself: its runs are spawned, or from a template")
    code, summary = soak(tmp_path, "--tier", tier, "--runs", "300", "--every", "1")
    assert summary["first_wrong"] == []
    # Of so few runs a line says nothing through what is kept or made ahead for the next one: the long form judges memory, descriptors, cgroups.
    kept = ("client", "cgroups", "others")
    assert [growth["name"] for growth in summary["growth"] if growth["grows"] and not growth["name"].startswith(kept)] == []
    assert summary["left"] == {}
    assert code in (0, 1)
    assert summary["launched"].get(tier.partition("-")[0], 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "figure"), [("fd", "client fds"), ("process", "processes")])
def test_growth_is_found(tmp_path: Path, plant: str, figure: str) -> None:
    code, summary = soak(tmp_path, "--tier", "spawned", "--runs", "250", "--every", "0.1", "--plant", plant)
    assert [growth["name"] for growth in summary["growth"] if growth["grows"] and growth["name"] == figure] == [figure]
    assert code == 1


@pytest.mark.slow
def test_foreign_output_is_found(tmp_path: Path) -> None:
    code, summary = soak(tmp_path, "--tier", "spawned", "--runs", "100", "--plant", "output")
    assert any("MIXED" in wrong for wrong in summary["first_wrong"])
    assert code == 1


def test_judging_growth() -> None:
    runs = list(range(0, 2000, 100))
    flat = [{"fds": 9.0, "rss bytes": 50e6 + 100_000 * (n % 3)} for n in range(20)]
    assert not [growth for growth in judge(runs, flat) if growth.grows]
    early = [{"fds": min(float(n), 8.0)} for n in range(20)]  # it fills a cache and stops
    assert not [growth for growth in judge(runs, early) if growth.grows]
    leak = [{"fds": 9.0 + n / 4, "rss bytes": 50e6 + 500_000 * n} for n in range(20)]
    assert [growth.name for growth in judge(runs, leak) if growth.grows] == ["fds", "rss bytes"]


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have as many descriptors as it may."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_500_at_once() -> None:
    """All of them live at the same time, each answers with what is its own, and all of them end."""
    count = min(500, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 60)  # with cgroups of four hierarchies a run takes forty descriptors
    with sandbox.Sandbox(limits={"wall": "1200s", "cpu": "60s"}) as box, ExitStack() as stack:
        processes = [stack.enter_context(box.popen(["/bin/cat"], stdin=sandbox.PIPE)) for _ in range(count)]
        assert [process.poll() for process in processes] == [None] * count
        for number, process in enumerate(processes):
            assert process.stdin is not None
            process.stdin.write(b"%d\n" % number)
        for number, process in enumerate(processes):
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"%d\n" % number
            process.stdin.close()
        assert {process.wait(300).verdict for process in processes} == {"ok"}
