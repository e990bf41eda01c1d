"""Rows of overlays: the skeleton, and the mount itself.

The layers and the place of the changes are attached to a tmpfs that nobody else sees, under names of one or two characters, and overlayfs is told those names
relative to it. So one call of mount(2) serves every kernel, a page of options has room for as many layers as overlayfs takes, and /proc/self/mountinfo
shows the payload ``lowerdir=0:1:2`` and no path of the host. Overlayfs keeps mounts of its own of what it was told; those of the tmpfs go with the
host's tree (the root), or are detached at once. Pure; imported by `plan.lower`.

Source: Documentation/filesystems/overlayfs.rst; fs/overlayfs/params.c. Since: Linux 5.11 (overlayfs in a user namespace, ``userxattr``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.plan.codec import Slot
from sandbox.plan.lower_mounts import SAFE, attach, filesystem, root_fd
from sandbox.plan.steps import BeginSkeleton, MountOverlay, Step

if TYPE_CHECKING:
    from sandbox.plan.lower import Lowering

MAXIMUM_LAYERS = 498
"""Overlayfs takes 500 below the upper one (OVL_MAX_STACK); one is the skeleton."""

_STAGE_BYTES, _STAGE_INODES = 1 << 20, 2048
_SKELETON, _CHANGES, _MERGED = "0", "u", "m"


def lower_overlay_step(low: Lowering, step: Step) -> bool:
    """Add the rows of such a step; False when it is another's."""
    match step:
        case BeginSkeleton():
            _begin_skeleton(low)
        case MountOverlay():
            _mount_overlay(low, step)
        case _:
            return False
    return True


def _open_directory(low: Lowering, base: Slot, name: str, slot: str) -> None:
    flags = uapi.O_PATH | uapi.O_DIRECTORY[low.arch] | uapi.O_NOFOLLOW[low.arch] | uapi.O_CLOEXEC
    low.call("openat", base, name, flags, store=low.slot(slot), label=f"`{name}`")


def _begin_skeleton(low: Lowering) -> None:
    """What is the root from here on is a directory of the tmpfs, which is the stage."""
    low.slots["stage"] = low.slots.pop("root")
    stage = Slot(low.slots["stage"])
    low.call("mkdirat", stage, "empty", 0o555, label="`empty`")
    low.call("mkdirat", stage, _SKELETON, 0o755, label=f"`{_SKELETON}`")
    _open_directory(low, stage, _SKELETON, "root")


def _mount_overlay(low: Lowering, step: MountOverlay) -> None:
    whole = step.path == "/"
    if whole:
        stage = Slot(low.slots["stage"])
    else:
        stage = Slot(low.slot("place"))
        options = (("size", str(_STAGE_BYTES)), ("nr_inodes", str(_STAGE_INODES)), ("mode", "700"))
        filesystem(low, "tmpfs", options, SAFE, stage.offset)
        attach(low, stage, step.path, within=True)
    names = [_SKELETON] if whole else []
    for number, key in enumerate(step.lowers, start=1):
        names.append(str(number))
        _place(low, stage, key, names[-1])
    low.call("mkdirat", stage, _CHANGES, 0o700, label=f"`{_CHANGES}`")
    if step.upper:
        low.call("move_mount", Slot(low.slot(step.upper)), "", stage, _CHANGES, uapi.MOVE_MOUNT_F_EMPTY_PATH, label=f"on `{_CHANGES}`")
        low.call("close", Slot(low.slot(step.upper)))
    else:
        options = (("size", str(step.size_bytes)), ("nr_inodes", str(step.inodes)), ("mode", "700"))
        filesystem(low, "tmpfs", options, SAFE, low.slot("mount"))
        low.call("move_mount", Slot(low.slot("mount")), "", stage, _CHANGES, uapi.MOVE_MOUNT_F_EMPTY_PATH, label=f"on `{_CHANGES}`")
        low.call("close", Slot(low.slot("mount")))
        for name, mode in (("upper", step.mode), ("work", 0o700)):
            low.call("mkdirat", stage, f"{_CHANGES}/{name}", mode, label=f"`{_CHANGES}/{name}`")
    low.call("mkdirat", stage, _MERGED, 0o700, label=f"`{_MERGED}`")
    words = f"lowerdir={':'.join(names)},upperdir={_CHANGES}/upper,workdir={_CHANGES}/work,userxattr,index=off"
    flags = uapi.MS_NOSUID | uapi.MS_NODEV | (0 if step.executable else uapi.MS_NOEXEC)
    low.call("fchdir", stage, label="where the layers are")
    low.call("mount", "overlay", _MERGED, "overlay", flags, words, label=f"overlay {words}")
    if whole:
        del low.slots["root"]
        _open_directory(low, stage, _MERGED, "root")
        return
    low.call("open_tree", uapi.AT_FDCWD, _MERGED, uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC, store=low.slot("mount"), label=f"`{_MERGED}`")
    low.call("umount2", ".", uapi.MNT_DETACH, label="where the layers are")
    low.call("fchdir", root_fd(low), label="the root")
    attach(low, Slot(low.slot("mount")), step.path, within=True)
    low.call("close", Slot(low.slot("mount")))
    low.call("close", stage)


def _place(low: Lowering, stage: Slot, key: str, name: str) -> None:
    tree = Slot(low.slot(key))
    low.call("mkdirat", stage, name, 0o700, label=f"`{name}`")
    low.call("move_mount", tree, "", stage, name, uapi.MOVE_MOUNT_F_EMPTY_PATH, label=f"layer on `{name}`")
    low.call("close", tree)


__all__ = ["MAXIMUM_LAYERS", "lower_overlay_step"]
