"""The ways in which a run may be started, for tests that must hold in each of them."""

from __future__ import annotations

import os

import pytest

from sandbox.api import resident
from sandbox.api.prepare import Prepared
from sandbox.api.resident import Way
from sandbox.record import replace

TIERS = ("spawned", "anew", "template")

_find_way = resident.find_way


def only_tier(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every `Sandbox` use that way and no better one; skip where it cannot."""
    if tier == "anew" and os.geteuid() == 0:
        pytest.skip("root takes shared trees itself: its runs are spawned, or from a template")

    def find(prepared: Prepared, *, template: bool = True) -> Way:
        if tier == "spawned":
            return Way(tier="spawned")
        return _find_way(replace(prepared, profile=replace(prepared.profile, launch_template=tier == "template")))

    monkeypatch.setattr(resident, "find_way", find)
    monkeypatch.setattr(resident.Residents, "_is_wanted_again", lambda self, prepared, way: True)
