"""Every test of this directory needs what the walls are made of; payloads and the harness are importable as `escape.support`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Appended, not put in front: no directory of the tests may hide an installed module.
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for capability in ("userns", "seccomp", "notify"):
                item.add_marker(capability)
