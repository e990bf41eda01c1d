"""The reference executor: the loop of ``native/init.c`` in Python, row by row the same.

Started as ``python -I -S executor.py`` with the same descriptors as the native one; the fallback where nothing
could be compiled, and the readable statement of what an executor does. Single-threaded by construction, so that a
raw clone3 leaves the child a working interpreter. Imports the codec and ctypes, nothing else of ours.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from typing import NoReturn

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandbox.abi.arch import native_arch
from sandbox.abi.tables import syscall_number
from sandbox.plan import fds
from sandbox.plan.codec import HEADER, MAGIC, RECORD, ROW, Flag, Kind, Op

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_ARCH = native_arch()
_WORD = (1 << 64) - 1
_WNOHANG, _WALL, _POLLIN, _RUSAGE_CHILDREN = 1, 0x40000000, 1, -1
_SIGKILL, _SIGCHLD, _SIGCONT, _SIGSTOP = 9, 17, 18, 19


def _number(name: str) -> int:
    number = syscall_number(_ARCH, name)
    assert number is not None
    return number


# Looked up before the first clone: nothing is imported or resolved inside the sandbox.
_CLONE3, _WAIT4, _PPOLL, _READ, _WRITE, _KILL, _GETRUSAGE, _SIGNALFD4, _CLOCK_GETTIME, _EXIT_GROUP = (
    _number(name)
    for name in ("clone3", "wait4", "ppoll", "read", "write", "kill", "getrusage", "signalfd4", "clock_gettime", "exit_group")
)  # fmt: skip


def _call(number: int, *args: int) -> int:
    """Make a system call; return its result, or the negative errno."""
    words = [ctypes.c_ulong(arg & _WORD) for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    result = int(_syscall(ctypes.c_long(number), *words))
    return -ctypes.get_errno() if result == -1 else result


def _leave(code: int) -> NoReturn:
    while True:
        _call(_EXIT_GROUP, code)


class Executor:
    """One table in memory, and where the loop stands."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self.memory = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        magic, _, self.rows, self.count, relocations, n_relocations, self.failure, self.status_fd = HEADER.unpack_from(self.memory)
        if magic != MAGIC:
            _leave(125)
        for (offset,) in struct.iter_unpack("<I", self.memory[relocations : relocations + 4 * n_relocations]):
            (word,) = struct.unpack_from("<Q", self.memory, offset)
            struct.pack_into("<Q", self.memory, offset, (word + self.base) & _WORD)

    def run(self) -> NoReturn:
        """Run the rows; ends in execve, exit or the reaping loop."""
        at = 0
        while at < self.count:
            op, slots, flags, number, *rest = ROW.unpack_from(self.memory, self.rows + at * ROW.size)
            args, store, tolerated = rest[:6], rest[6], rest[8:]
            args = [self._word(arg) if slots >> index & 1 else arg for index, arg in enumerate(args)]
            result = 0
            if op == Op.CALL:
                result = _call(number, *args)
                while result == -errno.EINTR and flags & Flag.RETRY:
                    result = _call(number, *args)
            elif op == Op.CLONE:
                result = _call(_CLONE3, args[0], args[1])
                if result == 0:
                    at = number
                    continue
            elif op == Op.EXPECT:
                width = {4: "<I", 8: "<Q"}[args[1]]
                (value,) = struct.unpack_from(width, self.memory, args[0] - self.base)
                result = 0 if value & args[2] == args[3] else -args[4]
            elif op == Op.EXIT:
                _leave(args[0])
            elif op == Op.REAP:
                self._reap(*args[:5])
            else:
                result = -errno.EPROTO
            if result < 0 and -result not in tolerated:
                self._fail(at, -result)
            if store:
                struct.pack_into(
                    "<I" if flags & Flag.STORE32 else "<Q", self.memory, store, result & (0xFFFFFFFF if flags & Flag.STORE32 else _WORD)
                )
            at += 1
        self._fail(self.count, errno.EPROTO)

    def _word(self, address: int) -> int:
        (value,) = struct.unpack_from("<Q", self.memory, address - self.base)
        return int(value)

    def _fail(self, row: int, error: int) -> NoReturn:
        struct.pack_into("<IIq", self.memory, self.failure, Kind.FAILED, row, error)
        _call(_WRITE, self.status_fd, self.base + self.failure, RECORD.size)
        _leave(125)

    def _reap(self, payload: int, control: int, record: int, status_fd: int, patience: int) -> NoReturn:
        """The life of pid 1; the same states as `reap` in init.c."""
        mask = ctypes.c_uint64(1 << (_SIGCHLD - 1))
        fd = _call(_SIGNALFD4, -1, ctypes.addressof(mask), 8, 0o2004000)
        if fd < 0:
            _leave(125)
        polled = ctypes.create_string_buffer(struct.pack("<ihhihh", fd, _POLLIN, 0, control, _POLLIN, 0), 16)
        status, drain, number = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_ubyte()
        clock, left = (ctypes.c_long * 2)(), (ctypes.c_long * 2)()

        def monotonic() -> int:
            _call(_CLOCK_GETTIME, 1, ctypes.addressof(clock))
            return clock[0] * 1_000_000_000 + clock[1]

        deadline = monotonic() + patience if patience else 0  # 0: none, or held while the run is paused
        killed = False
        stopped = False
        ended = False
        while not ended:
            while not ended and (pid := _call(_WAIT4, -1, ctypes.addressof(status), _WNOHANG | _WALL, 0)) > 0:
                ended = pid == payload
            if ended:
                break
            if pid < 0 and pid != -errno.EINTR:
                _leave(125)
            ns = deadline - monotonic() if deadline else 0
            left[0], left[1] = divmod(max(0, ns), 1_000_000_000)
            struct.pack_into("<h", polled, 6, 0)
            struct.pack_into("<h", polled, 14, 0)
            _call(_PPOLL, ctypes.addressof(polled), 1 if killed else 2, ctypes.addressof(left) if deadline else 0, 0, 8)
            while _call(_READ, fd, ctypes.addressof(drain), 128) == 128:
                pass
            (events,) = struct.unpack_from("<h", polled, 14)
            got = _call(_READ, control, ctypes.addressof(number), 1) if not killed and events else -errno.EAGAIN
            word = number.value if got == 1 else 0
            if word in (fds.HOLD, fds.STOP_ALL):
                deadline = 0
                if word == fds.STOP_ALL:
                    stopped = _call(_KILL, -1, _SIGSTOP) == 0
            elif word == fds.RESUME:
                deadline = monotonic() + patience if patience else 0
                if stopped:
                    _call(_KILL, -1, _SIGCONT)
                stopped = False
            elif got == 1 and word != fds.KILL_ALL:
                _call(_KILL, payload, word)
            elif got not in (-errno.EAGAIN, -errno.EINTR) or (deadline and ns <= 0):  # a word goes before the deadline, see init.c
                _call(_KILL, -1, _SIGKILL)
                killed, deadline = True, 0
        end = monotonic()
        _call(_KILL, -1, _SIGKILL)
        ignored = ctypes.c_int()
        pid = 1
        while pid > 0 or pid == -errno.EINTR:
            pid = _call(_WAIT4, -1, ctypes.addressof(ignored), _WALL, 0)
        _call(_GETRUSAGE, _RUSAGE_CHILDREN, record + 24)
        struct.pack_into("<qq", self.memory, record - self.base + 8, status.value, end)
        _call(_WRITE, status_fd, record, RECORD.size)
        _leave(0)


if __name__ == "__main__":
    Executor(fds.TABLE).run()
