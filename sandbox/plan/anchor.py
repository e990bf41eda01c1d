"""The table of the anchor: a process that keeps a scope alive and starts janitors in it, as children of its own parent.

One round of it is: wait for a message or for the end of the process that it serves, take the descriptors that come with the message, clone a
child that executes the executor with them, say the child's pid, and execute itself again for the next round, which forgets
everything. So it is the executor's ordinary loop over rows, without a loop of its own. Pure.
"""

from __future__ import annotations

import errno
import struct
from functools import lru_cache

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.plan import fds
from sandbox.plan.codec import Flag, Kind, Ref, Table
from sandbox.plan.lower import Lowering
from sandbox.record import replace

SOCKET, CLIENT, TABLE, MOVED = 96, 97, 98, 99
"""Its own descriptors. Those that a message brings take the lowest free numbers, in their order: so they are where the janitor wants them."""

MAXIMUM_PASSED = 64
"""How many descriptors one message may bring; they stay below `SOCKET`."""

GRACE_S = 10
"""How long an anchor outlives a client that was killed while systemd was asked. systemd takes a process that has just ended for a living one as long
as nobody has waited for it, and then keeps the empty scope for good; so it must find a living one."""

_CLOSED = 100  # never open: a failure while it is being moved is told by the end of its socket


@lru_cache(maxsize=4)
def build_waiting_table(arch: str, command: tuple[str, ...]) -> Table:
    """Return the table of an anchor that is being moved: it waits for the word on `MOVED` (an eventfd, which a client's end leaves as it is), or
    for the client's end and then for some seconds, and goes on with the table on `TABLE`.

    Args:
        arch: the machine's.
        command: the executor, with its arguments.
    """
    low = Lowering(arch=Arch(arch))
    failure = low.record(Kind.FAILED)
    low.call("setsid", tolerate=(errno.EPERM,))
    low.call("close_range", 0, SOCKET - 1, 0)
    low.call("close_range", MOVED + 1, 0xFFFFFFFF, 0)
    either = low.builder.reserve(16, struct.pack("<ihhihh", MOVED, uapi.POLLIN, 0, CLIENT, uapi.POLLIN, 0))
    low.call("ppoll", either, 2, 0, 0, 8, flags=Flag.RETRY)
    moved = low.builder.reserve(8, struct.pack("<ihh", MOVED, uapi.POLLIN, 0))
    found = low.slot("found")
    low.call("ppoll", moved, 1, low.builder.reserve(16, struct.pack("<qq", GRACE_S, 0)), 0, 8, store=found, flags=Flag.RETRY)
    low.expect(Ref(found), 8, 0xFFFFFFFFFFFFFFFF, 1, errno.ESRCH, "the word")
    _next_round(low, command)
    return low.builder.encode(failure_record=failure, status_fd=_CLOSED)


def _next_round(low: Lowering, command: tuple[str, ...]) -> None:
    low.call("dup3", TABLE, fds.TABLE, 0, label="the table")
    anchor = low.builder.vector([b"sandbox-anchor", *(word.encode("utf-8", "surrogateescape") for word in command[1:])])
    low.call("execve", command[0], anchor, low.builder.vector([]), label="the next round")


@lru_cache(maxsize=4)
def build_anchor_table(arch: str, command: tuple[str, ...], title: str) -> Table:
    """Return the table. Where a round fails, the executor's record of it goes to the client in the pid's place.

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
    _next_round(low, command)
    child = len(low.builder.rows)
    low.call("close_range", SOCKET, 0xFFFFFFFF, 0)
    janitor = low.builder.vector([word.encode("utf-8", "surrogateescape") for word in (title, *command[1:])])
    low.call("execve", command[0], janitor, low.builder.vector([]), label="the executor")
    (clone,) = low.clones
    low.builder.rows[clone] = replace(low.builder.rows[clone], number=child)
    return low.builder.encode(failure_record=failure, status_fd=SOCKET)


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
