"""Fixtures of the tests that launch: one prepared sandbox that is started many times, and a look at the whole process table.

Only what several files of this directory use lives here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import Command, Prepared, prepare
from sandbox.api.streams import Streams
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.result import Result

HERE = Path(__file__).resolve().parent
# Appended, not put in front: no directory of the tests may hide an installed module. Then helpers are importable as `kernel.running`.
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))


class Launcher:
    """A sandbox that was looked up once and starts as often as a test likes; what runs is what `sandbox.run` would run.

    Args:
        profile: its name.
        executor: ``auto``, ``native`` or ``python``.
        limits: as in a profile's ``[limits]``.
    """

    def __init__(self, profile: str = "strict", executor: str = "auto", limits: Mapping[str, object] | None = None) -> None:
        loaded = override_profile(load_profile(profile), limits=dict(limits or {}), origin="test")
        self.prepared: Prepared = prepare(
            Command(argv=("/bin/sh",), profile=loaded, environ={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, executor=executor)
        )
        self._runs = 0

    def __call__(self, script: str, *words: str, shell: str = "/bin/sh", stdin: bytes | int | None = None) -> Result:
        """Run ``shell -c script words`` and capture its output."""
        self._runs += 1
        command = replace(self.prepared.command, argv=(shell, "-c", script, *words))
        root = replace(self.prepared.root, argv0=os.path.realpath(shell))
        fresh = replace(self.prepared, run_id=f"{self.prepared.run_id}-{self._runs}", command=command, root=root)
        return execute(fresh, Streams(stdin=stdin), Hooks()).result


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    """Return the launcher of profile `strict` as it is shipped."""
    return Launcher()


@pytest.fixture(scope="session")
def make_launcher() -> Callable[..., Launcher]:
    """Return `Launcher`, for other profiles and limits."""
    return Launcher


def processes_with(marker: str) -> dict[int, str]:
    """Return every process of the machine whose command line holds the marker, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if marker in words:
                found[int(name)] = words.replace("\0", " ")
    return found


@pytest.fixture(scope="session")
def find_processes() -> Callable[[str], dict[int, str]]:
    """Return `processes_with`."""
    return processes_with


@pytest.fixture
def terminals() -> Iterator[list[Any]]:
    """Collect terminals to be closed."""
    made: list[Any] = []
    yield made
    for terminal in made:
        terminal.close()


@pytest.fixture
def runs(sandbox_cli: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a `kernel.running.Runs` whose runs register in a directory of this test's own."""
    directory = tmp_path_factory.mktemp("runs") / "sandbox"
    monkeypatch.setenv("SANDBOX_RUNTIME_DIR", str(directory))
    from kernel.running import Runs, eventually

    made = Runs(sandbox_cli, str(directory))
    yield made
    made.end()
    eventually(lambda: not directory.exists() or os.listdir(directory) == [], "the janitors have removed every entry")
