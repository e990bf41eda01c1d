"""The table of the anchor: a process that keeps a scope alive and starts janitors in it, as children of its own parent.

One round of it is: wait for a message or for the end of the process that it serves, take the descriptors that come with the message, clone a
child that executes the executor with them, say the child's pid, and execute itself again for the next round, which forgets
everything. So it is the executor's ordinary loop over rows, without a loop of its own. Pure.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from functools import lru_cache

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.plan import fds
from sandbox.plan.codec import Flag, Kind, Ref, Table
from sandbox.plan.lower import Lowering

SOCKET, CLIENT, TABLE = 96, 97, 98
"""Its own descriptors. Those that a message brings take the lowest free numbers, in their order: so they are where the janitor wants them."""

MAXIMUM_PASSED = 64
"""How many descriptors one message may bring; they stay below `SOCKET`."""

_CLOSED = 99  # never open: a failure of the anchor itself is told by the end of its socket


@lru_cache(maxsize=4)
def build_anchor_table(arch: str, command: tuple[str, ...], title: str) -> Table:
    """Return the table.

    Args:
        arch: the machine's.
        command: the executor, with its arguments.
        title: argv[0] of the janitors.
    """
    low = Lowering(arch=Arch(arch))
    failure = low.record(Kind.FAILED)
    low.call("setsid", tolerate=(errno.EPERM,))
    low.call("chdir", "/", label="`/`")
    low.call("close_range", 0, SOCKET - 1, 0)
    low.call("close_range", TABLE + 1, 0xFFFFFFFF, 0)
    polled = low.builder.reserve(16, struct.pack("<ihhihh", SOCKET, uapi.POLLIN, 0, CLIENT, uapi.POLLIN, 0))
    low.call("ppoll", polled, 2, 0, 0, 8, flags=Flag.RETRY)
    low.expect(Ref(polled.offset + 8), 8, 0xFFFF << 48, 0, errno.ESRCH, "the client to live")
    message, flags = _message(low)
    size = low.slot("size")
    low.call("recvmsg", SOCKET, message, 0, store=size, flags=Flag.RETRY)
    low.expect(Ref(size), 8, 0xFFFFFFFFFFFFFFFF, 1, errno.ECONNRESET, "one byte")
    low.expect(flags, 4, uapi.MSG_CTRUNC, 0, errno.EMFILE, "all descriptors")
    pid = low.slot("pid")
    low.clone(low.builder.reserve(88, struct.pack("<11Q", uapi.CLONE_PARENT, *[0] * 10)), pid)
    low.call("write", SOCKET, Ref(pid), 8, label="the pid")
    low.call("close_range", 0, SOCKET - 1, 0)
    low.call("dup3", TABLE, fds.TABLE, 0, label="the table")
    anchor = low.builder.vector([b"sandbox-anchor", *(word.encode("utf-8", "surrogateescape") for word in command[1:])])
    nothing = low.builder.vector([])
    low.call("execve", command[0], anchor, nothing, label="the next round")
    child = len(low.builder.rows)
    low.call("close_range", SOCKET, 0xFFFFFFFF, 0)
    janitor = low.builder.vector([word.encode("utf-8", "surrogateescape") for word in (title, *command[1:])])
    low.call("execve", command[0], janitor, nothing, label="the executor")
    (clone,) = low.clones
    low.builder.rows[clone] = replace(low.builder.rows[clone], number=child)
    return low.builder.encode(failure_record=failure, status_fd=_CLOSED)


def _message(low: Lowering) -> tuple[Ref, Ref]:
    """Set a msghdr for one byte and descriptors aside; return it and where its flags are. Source: recvmsg(2)."""
    control = 16 + 4 * MAXIMUM_PASSED
    byte = low.builder.reserve(8)
    vector = low.builder.reserve(16, struct.pack("<QQ", 0, 1))
    low.builder.pointer_at(vector.offset, byte)
    ancillary = low.builder.reserve(control)
    message = low.builder.reserve(56, struct.pack("<QIIQQQQI", 0, 0, 0, 0, 1, 0, control, 0))
    low.builder.pointer_at(message.offset + 16, vector)
    low.builder.pointer_at(message.offset + 32, ancillary)
    return message, Ref(message.offset + 48)
