"""Tests of this directory need the walls, like those of tests/escape, and one watcher of the host for them all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))

from escape.support import run_payload
from limits.trial import Watch

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for capability in ("userns", "seccomp", "notify"):
                item.add_marker(capability)


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    # Where systemd is asked for a scope, one run brings what keeps it for all of them; it is there before the first look at what a test leaves.
    run_payload(("/bin/true",))
    watching = Watch()
    yield watching
    watching.close()
