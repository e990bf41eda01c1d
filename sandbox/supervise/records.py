"""What the launched processes report, and the raw facts that come of it.

Records arrive on one `SOCK_SEQPACKET` socket whose credentials name the sender (decision 2). Nothing here decides what to do about them.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field

from sandbox.errors import ProtocolError
from sandbox.plan.codec import RECORD, Record, decode_record
from sandbox.result import Verdict
from sandbox.supervise.notify import NotifyListener

_UCRED = struct.Struct("iII")


@dataclass(slots=True, kw_only=True)
class Collected:
    """The raw facts of a run that came to its end."""

    wait_status: int | None = None
    killed_for: Verdict | None = None
    wall_ns: int = 0
    cpu_user_ns: int = 0
    cpu_sys_ns: int = 0
    maxrss_bytes: int = 0
    sampled_cpu_ns: int = 0
    sampled_memory_bytes: int = 0
    sampled_processes: int = 0
    samples: int = 0
    output_bytes: int = 0
    cgroup_oom: bool = False
    listener: NotifyListener | None = field(default=None)


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
            data, ancillary, _, _ = self._socket.recvmsg(RECORD.size, _socket.CMSG_SPACE(_UCRED.size), _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ECONNRESET:
                raise
            data, ancillary = b"", []
        if not data:
            self.ended = True
            return None
        pid = next((_UCRED.unpack(content[: _UCRED.size])[0] for _, kind, content in ancillary if kind == _socket.SCM_CREDENTIALS), 0)
        record = decode_record(data, pid)
        if record is None or record.pid <= 0:
            raise ProtocolError(f"executor sent {len(data)} bytes that are no record")
        return record

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
