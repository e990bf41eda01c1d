"""What the launched processes report, and the raw facts that come of it.

Records arrive on one `SOCK_SEQPACKET` socket whose credentials name the sender (decision 2). Nothing here decides what to do about them.
"""

from __future__ import annotations

import errno
import os
import struct

from sandbox.errors import ProtocolError
from sandbox.plan.codec import RECORD, Record, Rusage, decode_record
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.result import Verdict
    from sandbox.supervise.notify import NotifyListener
    from sandbox.supervise.used import Used

_UCRED = struct.Struct("iII")
_CREDENTIALS_SPACE, _MSG_DONTWAIT = 32, 0x40  # CMSG_SPACE(sizeof(struct ucred)); a constant costs no look-up in another module


@dataclass(slots=True, kw_only=True)
class Collected:
    """The raw facts of a run that came to its end.

    Attributes:
        wait_status: of the payload, None when init could not report it.
        killed_for: the limit for which the supervisor ended it.
        idle_ns: wall time less CPU time when the supervisor ended it for that; being ended costs CPU time as well.
        wall_ns: from GO to the payload's end, pauses taken off.
        paused_ns: how long it was paused.
        tree: what all processes used that init or another parent waited for; None when init could not report it.
        whole: the same with init.
        init_used_ns: CPU time of init when it reported the end, where it had to be asked for then: there is no `whole`.
        setup_init_ns: CPU time of init at GO.
        setup_payload_ns: CPU time of the payload at GO, all of it ours.
        setup_cgroup_ns: CPU time counted by the cgroup at GO.
        before: what a payload that was executed ahead had used by then; None for one that was not.
        sampled_cpu_ns: the largest CPU time seen while it ran.
        memory_peaks: largest sampled anonymous, file and kernel memory.
        memory_samples: how many samples these are from.
        memory_gap_ns: the longest time without one.
        memory_step_bytes: the largest change of anonymous and kernel memory from one to the next.
        sampling_ns: what all sampling took.
        instructions: user-mode instructions of all processes, where they were asked for and could be counted.
        instructions_source: the counter, or why there is none; None when nobody asked.
    """

    wait_status: int | None = None
    killed_for: Verdict | None = None
    idle_ns: int | None = None
    wall_ns: int = 0
    paused_ns: int = 0
    tree: Rusage | None = None
    whole: Rusage | None = None
    init_used_ns: int = 0
    setup_init_ns: int = 0
    setup_payload_ns: int = 0
    setup_cgroup_ns: int = 0
    before: Used | None = None
    sampled_cpu_ns: int = 0
    sampled_memory_bytes: int = 0
    sampled_file_bytes: int = 0
    sampled_table_bytes: int = 0
    sampled_processes: int = 0
    samples: int = 0
    memory_peaks: tuple[int | None, ...] = (None, None, None)
    memory_samples: int = 0
    memory_gap_ns: int = 0
    memory_step_bytes: int = 0
    sampling_ns: int = 0
    output_bytes: int = 0
    cgroup_oom: bool = False
    instructions: int | None = None
    instructions_source: str | None = None
    listener: NotifyListener | None = field(default=None)

    @property
    def init_cpu_ns(self) -> int:
        """CPU time of init itself since GO, 0 when it is not known."""
        if self.init_used_ns:
            return max(0, self.init_used_ns - self.setup_init_ns)
        if self.tree is None or self.whole is None:
            return 0
        return max(0, self.whole.cpu_ns - self.tree.cpu_ns - self.setup_init_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A running sandbox at one moment; None is what this host cannot tell.

    Attributes:
        state: ``starting``, ``running``, ``paused`` or ``ending``.
        init_pid: its pid 1, as the host sees it; 0 before it is known.
        wall_ns: since the payload was let go, pauses taken off.
        paused_ns: all pauses together.
        cpu_ns: of all processes, the dead included.
        memory_bytes: everything charged to the run, or the sum over the tree where there is no cgroup.
        processes: the payload's processes and threads.
        output_bytes: stdout and stderr so far.
        denials: refused system calls so far.
    """

    state: str
    init_pid: int
    wall_ns: int
    paused_ns: int
    output_bytes: int
    denials: int
    cpu_ns: int | None = None
    memory_bytes: int | None = None
    memory_anon_bytes: int | None = None
    memory_file_bytes: int | None = None
    memory_kernel_bytes: int | None = None
    processes: int | None = None


class StatusChannel:
    """The parent's end of the status socket; takes it."""

    def __init__(self, fd: int) -> None:
        import _socket

        # One object for the whole run: one made for each record would close the descriptor if an interrupt came before it was detached.
        self._socket = _socket.socket(fileno=fd)
        self.ended = False

    def fileno(self) -> int:
        """The descriptor for epoll."""
        return self._socket.fileno()

    def receive(self) -> Record | None:
        """Take one record; None when there is none now, or, with `ended`, when there will be none.

        Raises:
            ProtocolError: what came is no record.
        """
        import _socket

        try:
            data, ancillary, _, _ = self._socket.recvmsg(RECORD.size, _CREDENTIALS_SPACE, _MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ECONNRESET:
                raise
            data, ancillary = b"", []
        if not data:
            self.ended = True
            return None
        pid = 0
        for _, kind, content in ancillary:
            if kind == _socket.SCM_CREDENTIALS:
                pid = _UCRED.unpack_from(content)[0]
        record = decode_record(data, pid)
        if record is None or record.pid <= 0:
            raise ProtocolError(f"executor sent {len(data)} bytes that are no record")
        return record

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close the socket; idempotent."""
        fd = self._socket.detach()
        if fd >= 0:
            close(fd)
