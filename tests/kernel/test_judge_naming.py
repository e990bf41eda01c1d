"""Runs of one judging have one name, and what ends that judging ends nothing else of the process."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kernel.judged import LIMITS, Bench

from sandbox.api.running import running
from sandbox.judge.model import Code
from sandbox.judge.naming import make_run_name, run_name, runs_named
from sandbox.judge.pipeline.tools import RealTools
from sandbox.judge.running import Runner
from sandbox.judge.verdict import code_of
from sandbox.record import replace

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]


def test_names() -> None:
    assert run_name() == ""
    with runs_named("a"):
        with runs_named("b"):
            assert run_name() == "b"
        assert run_name() == "a"
    for problem in ("hello", "Two words", "\x1b[2J", "x" * 500, ""):
        name = make_run_name(problem)
        assert name.startswith("judge-") and len(name) <= 64 and name != make_run_name(problem)


def test_what_ends_one_judging_ends_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    program = bench.program("import time\ntime.sleep(6000)\n")
    limits = replace(LIMITS, wall_ns=600_000_000_000, idle_ns=None)
    ended: dict[str, Any] = {}

    def run(name: str) -> None:
        with runs_named(name):
            runner = Runner(program)
        with runner:
            ended[name] = runner.run(b"", limits).result

    names = [make_run_name("one"), make_run_name("two")]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 300
    while not {run.name for run in running()} >= set(names):
        assert time.monotonic() < until, "they do not begin"
        threads[0].join(0.01)
    tools: Any = SimpleNamespace(name=names[0])
    RealTools.stop(tools)
    threads[0].join(120)
    assert code_of(ended[names[0]], limits)[0] is Code.JE, "a run that was ended from outside is nobody's verdict"
    assert names[1] in {run.name for run in running()} and names[1] not in ended
    tools.name = names[1]
    RealTools.stop(tools)
    threads[1].join(120)
    assert not any(thread.is_alive() for thread in threads)
