"""Tries an overlay before a run relies on it: a short process mounts it in namespaces of its own and ends. May import plan and kernel.

What refuses one (no such file system, a kernel before 5.11, a file system that cannot be a layer, a security module) shows only so. `api` imports it.
"""

from __future__ import annotations

import os

from sandbox.errors import InternalError, describe_errno
from sandbox.launch.idmap import make_namespace
from sandbox.launch.spawn import Owned, executor_command, sealed_memory, spawn_executor
from sandbox.plan import fds
from sandbox.plan.codec import RECORD
from sandbox.plan.trial import XATTR, build_trial
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.root import Overlay


_NAMESPACE = fds.FIRST_EXTRA
_SOMEBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of it: the call that failed with its errno, or none.

    `attributes` tells whether what is removed and made again can be told apart, `mapped` whether root's files in layers can be the payload's.
    """

    call: str = ""
    errno: int = 0
    attributes: bool = True
    mapped: bool = True

    @property
    def reason(self) -> str:
        """Why there is no overlay, in words; empty when there is one."""
        return f"{self.call}: {describe_errno(self.errno)}" if self.call else ""


def try_overlay(overlay: Overlay, *, executor: str = "auto") -> Trial:
    """Mount an overlay and let go of it.

    Raises:
        OSError: the process could not be started.
    """
    if overlay.owner >= 0:
        namespace = make_namespace(overlay.owner, _SOMEBODY)
        try:
            found = _try(overlay, executor, namespace)
        finally:
            os.close(namespace)
        if not found.call.startswith("mount_setattr ids"):
            return found
        return replace(_try(overlay, executor, -1), mapped=False)
    return _try(overlay, executor, -1)


def _try(overlay: Overlay, executor: str, namespace: int) -> Trial:
    import _socket

    table = build_trial(os.uname().machine, overlay, os.geteuid(), os.getegid(), _NAMESPACE if namespace >= 0 else -1)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
    try:
        with Owned() as own:
            memory, status = own(sealed_memory(table)), own(theirs.detach())
            null = own(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            pids: list[int] = []
            wanted = {0: null, 1: null, 2: null, fds.TABLE: memory, fds.STATUS: status, **({_NAMESPACE: namespace} if namespace >= 0 else {})}
            spawn_executor(executor_command(executor), "sandbox-trial", wanted, pids)
        answer = ours.recv(RECORD.size)  # the end of the process is an end of file
    finally:
        ours.close()
    try:
        _, code = os.waitpid(pids[0], 0)
    except ChildProcessError:  # the caller's own handling of SIGCHLD was faster
        code = 0
    if not answer:
        if code:
            raise InternalError(f"the trial of an overlay ended with status {code} and no word")
        return Trial()
    row, error = RECORD.unpack(answer)[1:3]
    label = table.rows[row].label if row < len(table.rows) else "go through the table"
    if XATTR in label:
        return Trial(attributes=False)
    return Trial(call=label, errno=error)


__all__ = ["Trial", "try_overlay"]
