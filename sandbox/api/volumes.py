"""Named volumes between the floors: the front ends' door to `sandbox.volumes`, and the id maps that a root run mounts them with."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.volumes.manage import NamedVolume, VolumeInUse, create, find, find_all, labels_of, prune, remove
    from sandbox.volumes.opening import Opened, open_volumes


def __getattr__(name: str) -> Any:
    if name in ("Opened", "open_volumes"):
        from sandbox.volumes import opening

        return getattr(opening, name)
    if name in __all__:
        from sandbox.volumes import manage

        return getattr(manage, name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")


def open_maps(opened: Opened, number: int) -> list[int]:
    """Return, for each volume of a root run in the order of their names, a user namespace that maps the id of its files on the disk to the run's.

    Args:
        opened: the volumes.
        number: the run's host id.

    Returns:
        descriptors; the caller owns them.

    Raises:
        SetupError: no such namespace can be made.
    """
    from sandbox.launch.idmap import make_namespace

    made: list[int] = []
    by_owner: dict[int, int] = {}
    try:
        for _, owner in sorted(opened.owners.items()):
            if owner in by_owner:
                made.append(os.dup(by_owner[owner]))
            else:
                made.append(make_namespace(owner, number))
                by_owner[owner] = made[-1]
        return made
    except BaseException:
        for fd in made:
            os.close(fd)
        raise


__all__ = [
    "NamedVolume", "Opened", "VolumeInUse", "create", "find", "find_all", "labels_of", "open_maps", "open_volumes", "prune", "remove",
]  # fmt: skip
