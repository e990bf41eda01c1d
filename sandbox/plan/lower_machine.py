"""Rows of the steps that show a machine: files under one more name, a tmpfs that the supervisor can write to, covers over what the kernel says. Pure.

Source: open_tree(2), move_mount(2), mount_setattr(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.plan.codec import Flag, Slot
from sandbox.plan.steps import CoverPath, LinkFile, MountLive, Step

if TYPE_CHECKING:
    from sandbox.plan.lower import Lowering

_RECORD_ROW = 4  # of READY, where it says through which descriptor of the payload's the supervisor writes to live files
_BYTES = 1 << 20
_F_DUPFD_CLOEXEC = 1030
_SEALED = uapi.MOUNT_ATTR_RDONLY | uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NODEV | uapi.MOUNT_ATTR_NOEXEC
_CLONE = uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC


def lower_machine_step(low: Lowering, step: Step) -> bool:
    """Add the rows of a step; False when it is another floor's."""
    from sandbox.plan.lower_mounts import root_fd

    match step:
        case LinkFile(path=path, source=source):
            low.call("linkat", root_fd(low), source[1:], root_fd(low), path[1:], 0, label=f"`{path}`")
        case MountLive():
            _mount_live(low, step)
        case CoverPath():
            _cover_path(low, step)
        case _:
            return False
    return True


def _mount_live(low: Lowering, step: MountLive) -> None:
    from sandbox.plan.lower_mounts import attach, filesystem, make_file, set_attributes

    live, clone = low.slot("live"), low.slot("cover")
    options = (("size", str(_BYTES)), ("nr_inodes", str(len(step.files) + len(step.directories) + 8)), ("mode", "755"))
    filesystem(low, "tmpfs", options, _SEALED & ~uapi.MOUNT_ATTR_RDONLY, live)
    attach(low, Slot(live), step.path)
    for name in step.directories:
        low.call("mkdirat", Slot(live), name, 0o755, label=f"`{step.path}/{name}`")
    for name, content in step.files:
        make_file(low, Slot(live), name, content, 0o644, f"`{step.path}/{name}`")
    low.call("open_tree", Slot(live), "", _CLONE | uapi.AT_EMPTY_PATH, store=clone, label=f"`{step.path}`")
    set_attributes(low, Slot(clone), _SEALED)
    attach(low, Slot(clone), step.path)
    low.call("close", Slot(clone))
    # The supervisor takes this one when the payload is ready, whose execve closes it.
    low.call("fcntl", Slot(live), _F_DUPFD_CLOEXEC, 3, store=low.ready.offset + _RECORD_ROW, flags=Flag.STORE32, label="F_DUPFD_CLOEXEC")
    low.call("close", Slot(live))


def _cover_path(low: Lowering, step: CoverPath) -> None:
    from sandbox.plan.lower_mounts import root_fd, set_attributes

    cover, proc = low.slot("cover"), step.path.startswith("/proc/")
    low.call("open_tree", root_fd(low), step.source[1:], _CLONE, store=cover, label=f"`{step.source}`")
    if not step.sealed:
        set_attributes(low, Slot(cover), _SEALED)
    directory, name = (Slot(low.slot("proc")), step.path.removeprefix("/proc/")) if proc else (root_fd(low), step.path[1:])
    # A name that this kernel does not have needs no cover; any other error is fatal.
    gone = (errno.ENOENT,) if proc else ()
    low.call("move_mount", Slot(cover), "", directory, name, uapi.MOVE_MOUNT_F_EMPTY_PATH, tolerate=gone, label=f"over `{step.path}`")
    low.call("close", Slot(cover))


__all__ = ["lower_machine_step"]
