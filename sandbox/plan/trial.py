"""The table of a trial: the very overlay that a run would mount, in namespaces of its own that end with it. Pure; imported by `launch.trial`."""

from __future__ import annotations

import struct

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.plan import fds
from sandbox.plan.build_overlay import overlay_steps
from sandbox.plan.codec import RECORD, Kind, Op, Table
from sandbox.plan.lower import Lowering, lower_step
from sandbox.plan.root import Overlay
from sandbox.plan.steps import BeginSkeleton, CloneTree, MapIds, MountRoot, OpenHostProc, PrivateMounts, Step
from sandbox.record import replace

XATTR = "user.sandbox.trial"
_BYTES, _INODES = 1 << 20, 4096


def build_trial(arch: str, overlay: Overlay, uid: int, gid: int, map_fd: int = -1) -> Table:
    """Return the table; it exits 0, or says which row failed. The last rows want an extended attribute where the changes go, which is less than a mount.

    Args:
        arch: of `HostFeatures`.
        overlay: what is to be mounted, on the root whatever its path is.
        uid: the caller's.
        gid: likewise.
        map_fd: a user namespace to map the layers' ids with; then the caller is root, who takes them with its own rights.
    """
    low = Lowering(arch=Arch(arch))
    failure = low.builder.reserve(RECORD.size, struct.pack("<IIqq", Kind.FAILED, 0, 0, 0))
    trees, mount = overlay_steps(Overlay(path="/", lowers=overlay.lowers, upper=overlay.upper, size_bytes=_BYTES, inodes=_INODES, why=overlay.why))
    ids = MapIds(inside_uid=0, inside_gid=0, outside_uid=uid, outside_gid=gid)
    steps: list[Step] = [OpenHostProc(), ids, PrivateMounts(), *trees, MountRoot(size_bytes=_BYTES, inodes=_INODES), BeginSkeleton(), mount]
    if map_fd >= 0:
        steps = [step for step in steps if not isinstance(step, CloneTree)]
        for tree in trees:
            low.step += 1
            lower_step(low, replace(tree, map_fd=-1 if tree.bind.writable else map_fd))
    low.call("unshare", uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS, label="CLONE_NEWUSER CLONE_NEWNS")
    for step in steps:
        low.step += 1
        lower_step(low, step)
    low.step += 1
    low.call("setxattr", "u/upper", XATTR, low.builder.blob(b"y"), 1, 0, label=XATTR)
    low.call("removexattr", "u/upper", XATTR, label=XATTR)
    low.operate(Op.EXIT, 0, label="exit")
    return low.builder.encode(failure_record=failure, status_fd=fds.STATUS)


__all__ = ["XATTR", "build_trial"]
