"""Dialogues of real programs: the right party is blamed for the end of each, quickly where nobody can move, and never where somebody could."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel.parties import EDGES, Edge, Table, faults

pytestmark = [
    pytest.mark.userns, pytest.mark.seccomp, pytest.mark.skipif(shutil.which("gcc") is None, reason="the parties are written in C and gcc is not installed"),
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
def test_the_right_party_is_blamed(table: Table, edge: Edge) -> None:
    result = table.play(edge)
    assert not faults(edge, result)
