"""Named volumes and tmpfs in the new root: the mounts, as values, and what is to be known when a volume is opened.

Nothing is made here: `volumes.opening` does that when the run begins. Only `rootfs` imports this module.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError
from sandbox.plan.root import Bind, Overlay, Tmpfs, VolumeUse
from sandbox.policy.places import Where
from sandbox.policy.profile import IdMode, Volume
from sandbox.policy.profile_values import mount_target
from sandbox.policy.profile_volumes import check_name
from sandbox.record import replace
from sandbox.rootfs.view import View
from sandbox.store import data_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BYTES_PER_INODE = 4096
_MOST_INODES = 1 << 20


def check_named(volume: Volume, environ: Mapping[str, str], ids: IdMode = IdMode.SINGLE) -> tuple[Bind, VolumeUse]:
    """Return the mount of a named volume, which need not exist yet, and what is to be done before it.

    Raises:
        PolicyError: there is no place for volumes, or a program with many ids would write to it.
    """
    where = volume.origin or f"volume `{volume.source}`"
    if ids is IdMode.RANGE and volume.writable:
        # Neither `sandbox volume rm` nor another run could touch what belongs to a subordinate id.
        raise PolicyError(
            f"volume `{volume.source}` writable, with a range of ids: files of other ids than the caller's could not be removed again", origin=where,
            hint='mount it `ro`, share a directory with `-v ./DIR:/PATH:rw`, or set `ids = "single"`',
        )  # fmt: skip
    target = mount_target(volume.target, Where(key=where, origin=where))
    store = data_path(environ, "volumes")
    if store is None:
        raise PolicyError(f"volume `{volume.source}`: there is no place for volumes", origin=where, hint="set HOME, or SANDBOX_DATA_DIR")
    check_name(volume.source, Where(key=where, origin=where))
    store = os.path.realpath(store)
    source = "/".join(filter(None, (store, volume.source, "data", volume.subpath)))
    bind = Bind(path=target, source=source, directory=True, writable=volume.writable, why=where, mapped=volume.source)
    return bind, VolumeUse(
        name=volume.source, store=store, target=target, writable=volume.writable, copy=volume.copy, lock=volume.lock, wait_ns=volume.wait_ns,
        subpath=volume.subpath, beside=volume.beside, origin=where,
    )  # fmt: skip


def fill_source(view: View, use: VolumeUse, *, public: bool) -> VolumeUse:
    """Return a use with the directories that its volume is to be filled from: those of the root as it is without anything that the user shares.

    Args:
        view: with the base only: the system's directories, or an image.
        use: of `check_named`.
        public: whether the base is the host's.
    """
    cover = view.cover(use.target)
    match cover:
        case Overlay():
            inside = use.target if cover.path == "/" else use.target[len(cover.path) :]
            return replace(use, sources=cover.lowers, inside=inside or "/")
        case Bind(directory=True):
            return replace(use, sources=(cover.source,), inside=use.target[len(cover.path) :] or "/", public=public)
        case _:
            return use


def with_points(view: View, uses: Iterable[VolumeUse]) -> tuple[VolumeUse, ...]:
    """Return the uses with the mount points that the finished root needs in each: as Docker does, they are made in the volume."""
    found = []
    for use in uses:
        bind = view.entries[use.target]
        points = tuple(
            (entry.path[len(use.target) + 1 :], not (isinstance(entry, Bind) and not entry.directory))
            for entry in view.below(use.target)
            if view.cover(os.path.dirname(entry.path)) is bind
        )
        found.append(replace(use, points=tuple(sorted(points))))
    return tuple(found)


def tmpfs_entry(volume: Volume) -> Tmpfs:
    """Return the mount of a tmpfs; it may have a file for each page of its size."""
    inodes = min(_MOST_INODES, max(64, volume.size_bytes // _BYTES_PER_INODE))
    return Tmpfs(path=volume.target, size_bytes=volume.size_bytes, inodes=inodes, mode=volume.mode, executable=volume.executable)


__all__ = ["check_named", "fill_source", "tmpfs_entry", "with_points"]
