"""Named volumes: directories that outlive the runs which mount them. `sandbox.volumes` is also the front door for whoever manages them.

See docs/architecture.md for who may import this floor. Names are imported when they are first used: a run needs `opening` alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.volumes.manage import NamedVolume, create, find, find_all, prune, remove
    from sandbox.volumes.uses import Use, VolumeInUse

_HOMES = {
    "NamedVolume": "manage", "create": "manage", "find": "manage", "find_all": "manage", "prune": "manage", "remove": "manage",
    "Use": "uses", "VolumeInUse": "uses",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sandbox.volumes.{_HOMES[name]}"), name)
    raise AttributeError(f"module `sandbox.volumes` has no attribute `{name}`")


__all__ = ["NamedVolume", "Use", "VolumeInUse", "create", "find", "find_all", "prune", "remove"]
