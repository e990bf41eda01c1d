"""Rows of the steps that only servers and their runs have: the loop, what a run inherits, commands that come last. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.plan import fds
from sandbox.plan.codec import Kind, Op, Ref, Slot
from sandbox.plan.lower import close_from
from sandbox.plan.steps import (
    AdoptOrphans,
    AwaitCommand,
    Become,
    CloseFrom,
    Dumpable,
    ExecuteCommand,
    InheritForked,
    InheritRoot,
    KeepHostProc,
    ReserveCommand,
    Serve,
    Step,
)  # fmt: skip

if TYPE_CHECKING:
    from sandbox.plan.lower import Lowering

MEMBERS = 1024
"""How many runs of a server may live at once."""
MEMBER_BYTES = 16  # struct member of init.c


def lower_served_step(low: Lowering, step: Step) -> bool:
    """Add the rows of such a step; False when the step is another floor's."""
    match step:
        case AdoptOrphans():
            _adopt_orphans(low, step)
        case KeepHostProc():
            _keep_host_proc(low, step)
        case Serve():
            _serve(low, step)
        case InheritRoot():
            _inherit_root(low, step)
        case InheritForked():
            _inherit_forked(low, step)
        case Dumpable():
            _dumpable(low, step)
        case ReserveCommand():
            _reserve_command(low, step)
        case AwaitCommand():
            _await_command(low, step)
        case ExecuteCommand():
            _execute_command(low, step)
        case Become():
            _become(low, step)
        case _:
            return False
    return True


def _adopt_orphans(low: Lowering, step: AdoptOrphans) -> None:
    low.call("prctl", uapi.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, label="PR_SET_CHILD_SUBREAPER")


def _keep_host_proc(low: Lowering, step: KeepHostProc) -> None:
    low.call("dup3", Slot(low.slot("host-proc")), fds.SERVER_PROC, uapi.O_CLOEXEC, label="the host's /proc")


def _inherit_root(low: Lowering, step: InheritRoot) -> None:
    # The working directory is the root; nobody is in this mount namespace but us.
    low.slots["root"] = low.builder.slot(uapi.AT_FDCWD)
    low.slots["host-proc"] = low.builder.slot(fds.SERVER_PROC)
    _dumpable(low, step)


def _inherit_forked(low: Lowering, step: InheritForked) -> None:
    _dumpable(low, step)
    low.call("chdir", "/", label="`/`")
    low.call("umask", 0)
    low.slots["root"] = low.builder.slot(uapi.AT_FDCWD)


def _dumpable(low: Lowering, step: Dumpable | InheritRoot | InheritForked) -> None:
    low.call("prctl", uapi.PR_SET_DUMPABLE, 1, 0, 0, 0, label="PR_SET_DUMPABLE")


def _serve(low: Lowering, step: Serve) -> None:
    low.send(low.record(Kind.READY, a=-1, b=-1))
    proc = (fds.SERVER_PROC,) if step.template else ()
    # Nothing below REQUESTS stays open: what a request brings takes those numbers.
    close_from(low, CloseFrom(first=0, keep=(fds.REQUESTS, *proc)))
    members = low.builder.reserve(MEMBER_BYTES * MEMBERS)
    record = low.record(Kind.REAPED)
    low.operate(Op.SERVE, fds.REQUESTS, members, MEMBERS, record, fds.SERVER_PROC if step.template else -1, label="serve")


def _reserve_command(low: Lowering, step: ReserveCommand) -> None:
    memory = low.slot("command-memory")
    low.call("mmap", 0, step.size_bytes, uapi.PROT_READ | uapi.PROT_WRITE, uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS, -1, 0, store=memory)


def _await_command(low: Lowering, step: AwaitCommand) -> None:
    low.send(low.ready)
    pointers = low.slots["command"] = low.builder.reserve(24).offset
    low.operate(Op.COMMAND, fds.GO, Slot(low.slot("command-memory")), step.size_bytes, Ref(pointers), label="command")


def _execute_command(low: Lowering, step: ExecuteCommand) -> None:
    pointers = low.slot("command")
    low.call("execve", Slot(pointers), Slot(pointers + 8), Slot(pointers + 16), label="of the command")


def _become(low: Lowering, step: Become) -> None:
    low.call("close", fds.GO, label="go")
    if "listener" in low.slots:
        low.call("close", Slot(low.slots["listener"]), label="the listener")
    low.call("close", fds.STATUS, label="status")
    low.operate(Op.BECOME, label="become")
