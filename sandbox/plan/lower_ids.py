"""Rows of the steps of a run with a range of ids. Pure; imported by `plan.lower`.

A map of many ids is written by a process in the parent namespace with CAP_SETUID there (user_namespaces(7)). newuidmap(1) does that for the outer
namespace; for the inner one init can, which knows the payload's number: it is 2, the first that init clones in its pid namespace.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.plan.codec import Flag, Slot
from sandbox.plan.lower_mounts import SAFE, filesystem
from sandbox.plan.steps import Step
from sandbox.plan.steps_ids import AwaitMaps, BecomeUser, MapPayload, PrepareMaps

if TYPE_CHECKING:
    from sandbox.plan.lower import Lowering

_PAYLOAD = 2
_EFD_CLOEXEC = 0o2000000


def lower_ids_step(low: Lowering, step: Step) -> bool:
    """Add the rows of such a step; False when it is another's."""
    match step:
        case PrepareMaps():
            filesystem(low, "proc", (), SAFE | uapi.MOUNT_ATTR_NOEXEC, low.slot("maps"))
            low.call("eventfd2", 0, _EFD_CLOEXEC, store=low.slot("mapped"), label="maps written")
        case MapPayload(uids=uids, gids=gids):
            for name, extents in (("gid_map", gids), ("uid_map", uids)):
                low.write_file(Slot(low.slot("maps")), f"{_PAYLOAD}/{name}", "".join(f"{first} {first} {count}\n" for first, count in extents))
            low.call("write", Slot(low.slot("mapped")), low.builder.blob(struct.pack("<Q", 1)), 8, label="maps written")
        case AwaitMaps():
            low.call("read", Slot(low.slot("mapped")), low.builder.reserve(8), 8, flags=Flag.RETRY, label="maps written")
        case BecomeUser(uid=uid, gid=gid):
            low.call("prctl", uapi.PR_SET_KEEPCAPS, 1, 0, 0, 0, label="PR_SET_KEEPCAPS")
            low.call("setgroups", 0, 0)
            low.call("setresgid", gid, gid, gid)
            low.call("setresuid", uid, uid, uid)
            # What is permitted has stayed; what is effective has not. Bits that no capability has are ignored.
            header = low.builder.blob(struct.pack("<II", uapi.CAPABILITY_VERSION_3, 0))
            low.call("capset", header, low.builder.blob(struct.pack("<6I", *(0xFFFFFFFF, 0xFFFFFFFF, 0) * 2)), label="all effective")
            low.call("prctl", uapi.PR_SET_DUMPABLE, 1, 0, 0, 0, label="PR_SET_DUMPABLE")
        case _:
            return False
    return True


__all__ = ["lower_ids_step"]
