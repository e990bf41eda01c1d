"""Memory of idle sandboxes: the proportional set size (PSS) of every process that is not the payload, for 1, 20 and 500 of them."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from beside.contender import Contender
from beside.host import Failed, command_name, kernel_bytes, settle, take_shares
from beside.rounds import Found, Session, say

_PEERS = (1, 20)
_SLOW = (1, 4)
_PAYLOAD = "sleep"


class Reader:
    """Reads the PSS of processes; through a process that stayed root for those which an ordinary user may not look at."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        self._channel = channel

    def pss(self, pid: int) -> int | None:
        """Return bytes, None if it is gone or may not be read."""
        if self._channel is None:
            return _read_pss(pid)
        self._channel.send(str(pid).encode())
        answer = int(self._channel.recv(64))
        return None if answer < 0 else answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    processes: int
    bytes: int
    unreadable: int
    names: tuple[str, ...]


def idle(title: str, session: Session, rows: Sequence[Contender], reader: Reader, counts: tuple[int, ...]) -> Found:
    """Measure rows one after the other: their sandboxes would be in each other's figures. `counts` are for our own rows."""
    found: Found = {}
    for row in rows:
        row.close()
    for row in rows:
        settle(2)
        before = kernel_bytes()
        for count in _counts(row, counts):
            entry = session.attempt(title, row, partial(_look, row, count, reader, before))
            if entry is None:
                break
            found.setdefault(row.name, {})[str(count)] = entry
            say(f"{title}: {row.name}, {count}: {entry}")
        row.close()
    return {"idle": found}


def _counts(row: Contender, ours: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many of a row are to be idle: isolate has few boxes, a pool at most 256 members, an interpreter is large."""
    if row.slow or row.name == "isolate":
        return _SLOW
    if not row.has.endswith("a"):
        return _PEERS
    most = 256 if row.name == "pool" else 50 if row.name.startswith("interpreter") else max(ours)
    return tuple(sorted({min(count, most) for count in ours}))


def _look(row: Contender, count: int, reader: Reader, before: int) -> dict[str, object]:
    held = row.hold(count)
    settle(3)
    time.sleep(0.2)  # what a process frees after its start
    ours = _add([pid for pid in held.others if command_name(pid) != _PAYLOAD], reader)
    payload = _add([pid for pid in held.others if command_name(pid) == _PAYLOAD], reader)
    if not ours.processes and not held.caller:
        raise Failed("there are no processes of it")
    return {
        "processes": ours.processes, "pss": ours.bytes, "unreadable": ours.unreadable, "names": ours.names,
        "caller_pss": reader.pss(held.caller) if held.caller else None,
        "payload_pss": payload.bytes, "payloads": payload.processes,
        "kernel": kernel_bytes() - before,
    }  # fmt: skip


def _add(pids: Sequence[int], reader: Reader) -> _Sum:
    sizes = [reader.pss(pid) for pid in pids]
    return _Sum(
        processes=len(pids),
        bytes=sum(size for size in sizes if size is not None),
        unreadable=sum(size is None for size in sizes),
        names=tuple(sorted({command_name(pid) for pid in pids[:50]})),
    )


def _read_pss(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def become_user(name: str, work: Path, shares: int) -> Reader:
    """Leave root for an ordinary user, but keep a process behind that reads sizes; hide cgroup v2 where v1 is, which crun refuses to see together.

    Args:
        name: who.
        work: a directory that this user gets.
        shares: the weight of this measurement against other work, see `take_shares`; 0 for none.

    Raises:
        Failed: this is not root, or there is no such user.
    """
    if os.geteuid() != 0:
        raise Failed("--user is for root, who may become somebody")
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise Failed(f"there is no user `{name}`") from None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        while asked := theirs.recv(64):
            size = _read_pss(int(asked))
            theirs.send(str(-1 if size is None else size).encode())
        shutil.rmtree(work, ignore_errors=True)  # the directory above it is root's
        os._exit(0)
    theirs.close()
    os.chown(work, user.pw_uid, user.pw_gid)
    if shares:
        take_shares(shares)
    libc = ctypes.CDLL(None, use_errno=True)
    if os.path.exists("/sys/fs/cgroup/unified") and libc.unshare(0x20000) == 0:
        libc.mount(b"none", b"/", None, ctypes.c_ulong(16384 | 1 << 18), None)
        libc.umount2(b"/sys/fs/cgroup/unified", 2)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    libc.prctl(4, 1, 0, 0, 0)  # dumpable again, so that namespaces can be made
    os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    os.chdir("/")
    return Reader(ours)
