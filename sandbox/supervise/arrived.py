"""Reports of a run that are taken before anybody supervises it: by the time it is asked for, the monitor finds them read and its descriptors open."""

from __future__ import annotations

import os

from sandbox.cgroup.none import read_stat
from sandbox.errors import SandboxError
from sandbox.kernel.calls import pidfd_getfd
from sandbox.plan.codec import Kind
from sandbox.supervise.records import StatusChannel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.codec import Record


class Arrived:
    """What has come of a run that waits for its command.

    Args:
        status: its status socket; taken.

    Attributes:
        channel: the socket.
        records: what was received, for the monitor to handle as if it came then.
        init: a descriptor of init's process, or -1; of whoever takes it out.
        stat: /proc/PID/stat of init, read through that pid while the descriptor was open; empty before.
        listener: of the payload's filter, or -1; likewise.
        live: the tmpfs of its live files, or -1; likewise.
        whole: nothing more is to come before the command.
        dead: it came to its end, or sent what is no record.
    """

    __slots__ = ("channel", "dead", "init", "listener", "live", "records", "stat", "whole")

    def __init__(self, status: int) -> None:
        self.channel = StatusChannel(status)
        self.records: list[Record] = []
        self.init = -1
        self.stat = b""
        self.listener = self.live = -1
        self.whole = self.dead = False

    def look(self) -> None:
        """Take what has come until the payload is confined; what cannot be opened is left to the monitor, which says why."""
        while not self.whole:
            try:
                record = self.channel.receive()
            except SandboxError:
                self.whole = self.dead = True
                return
            if record is None:
                self.whole = self.dead = self.channel.ended
                return
            self.records.append(record)
            self.whole = record.kind is not Kind.STARTED
            try:
                if record.kind is Kind.STARTED:
                    self.init = os.pidfd_open(record.pid)
                    self.stat = read_stat(record.pid)
                elif record.kind is Kind.READY and record.a >= 0:
                    payload = os.pidfd_open(record.pid)
                    try:
                        if record.row:
                            self.live = pidfd_getfd(payload, record.row)
                        self.listener = pidfd_getfd(payload, record.a)
                    finally:
                        os.close(payload)
            except OSError:
                self.whole = True

    def take_init(self) -> tuple[int, bytes]:
        """Return a descriptor of init, for the caller to close, and its stat; -1 where there is none."""
        (fd, self.init), (stat, self.stat) = (self.init, -1), (self.stat, b"")
        return fd, stat

    def take_listener(self) -> int:
        """Return the listener, for the caller to close, or -1."""
        fd, self.listener = self.listener, -1
        return fd

    def take_live(self) -> int:
        """Return the tmpfs of live files, for the caller to close, or -1."""
        fd, self.live = self.live, -1
        return fd

    def close(self) -> None:
        """Close what nobody took, and the socket; idempotent."""
        for fd in (self.take_init()[0], self.take_listener(), self.take_live()):
            if fd >= 0:
                os.close(fd)
        self.channel.close()


__all__ = ["Arrived"]
