"""Tests that run inside a guest of `./dev vm`; `./dev test` does not collect this directory."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = str(Path(__file__).resolve().parent.parent)
# For `escape.support`, whose plans with a wall taken out show that the wall is what stopped an attack.
if TESTS not in sys.path:
    sys.path.append(TESTS)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return an empty directory to work in that others may enter: pytest's own is closed, and root's payload is somebody else."""
    with tempfile.TemporaryDirectory(prefix="sandbox-vm-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
