"""The ways in which a run may be started, for tests that must hold in each of them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sandbox.api import resident, session
from sandbox.api.house import Way
from sandbox.api.prepare import Prepared
from sandbox.record import replace

TIERS = ("spawned", "anew", "template", "pool")

_find_way = resident.find_way


def only_tier(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every `Sandbox` use that way and no better one; skip where it cannot. In the pool a run that no sandbox ahead fits is from a template."""
    if tier == "anew" and os.geteuid() == 0:
        pytest.skip("root takes shared trees itself: its runs are spawned, or from a template")

    def find(prepared: Prepared, *, template: bool = True) -> Way:
        if tier == "spawned":
            return Way(tier="spawned")
        return _find_way(replace(prepared, profile=replace(prepared.profile, launch_template=tier in ("template", "pool"))))

    monkeypatch.setattr(resident, "find_way", find)
    monkeypatch.setattr(resident.Residents, "_is_wanted_again", lambda self, prepared, way: True)
    if tier == "pool":
        make = session.Sandbox.__init__

        def make_with_pool(self: session.Sandbox, *args: Any, **options: Any) -> None:
            make(self, *args, **{"pool": 2 if options.get("resident", True) else None, **options})

        monkeypatch.setattr(session.Sandbox, "__init__", make_with_pool)


def is_of(tier: str, launched: str) -> bool:
    """Whether a run was started in that way, or as one is that the pool had nothing for."""
    return launched == tier or (tier == "pool" and launched == "template")
