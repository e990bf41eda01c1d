"""The reference executor: the loop of ``native/init.c`` in Python, row by row the same.

Started as ``python -I -S executor.py`` with the same descriptors as the native one; the fallback where nothing
could be compiled, and the readable statement of what an executor does. Single-threaded by construction, so that a
raw clone3 leaves the child a working interpreter. Imports the codec and ctypes, nothing else of ours.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from typing import NoReturn

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandbox.abi.arch import native_arch
from sandbox.abi.tables import syscall_number
from sandbox.plan import fds
from sandbox.plan.codec import COMMAND, COMMAND_MAGIC, HEADER, MAGIC, NO_ROW, RECORD, REQUEST, REQUEST_MAGIC, ROW, Ask, Flag, Kind, Op

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
_SETNS, _UNSHARE, _CLOSE_RANGE, _PRCTL, _MMAP, _MADVISE, _MINCORE = (
    _number(name) for name in ("setns", "unshare", "close_range", "prctl", "mmap", "madvise", "mincore")
)  # fmt: skip
_PRESENT = b"01" * 128
_NEWNET, _NEWUSER, _IDLE_NETWORKS, _LAST = 0x40000000, 0x10000000, 16, 0xFFFFFFFF


def _call(number: int, *args: int) -> int:
    """Make a system call; return its result, or the negative errno."""
    words = [ctypes.c_ulong(arg & _WORD) for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    result = int(_syscall(ctypes.c_long(number), *words))
    return -ctypes.get_errno() if result == -1 else result


def _leave(code: int) -> NoReturn:
    while True:
        _call(_EXIT_GROUP, code)


def _own_memory() -> None:
    """Take copies of all pages that a fork shares: now, at a third of the price, and not while the program runs that writes to them.

    Best effort: an older kernel has no MADV_POPULATE_WRITE (5.14), and copies each page when it is written.
    """
    populate, page = 23, os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/maps", "rb") as file:
        lines = file.read().splitlines()
    for line in lines:
        words = line.split()
        if words[1][:4] != b"rw-p":
            continue
        start, end = (int(word, 16) for word in words[0].split(b"-"))
        there = (ctypes.c_ubyte * ((end - start) // page))()
        if _call(_MINCORE, start, end - start, ctypes.addressof(there)) < 0:
            continue
        pages = bytes(there).translate(_PRESENT)
        at = pages.find(b"1")
        while at >= 0:
            after = pages.find(b"0", at)
            after = len(pages) if after < 0 else after
            _call(_MADVISE, start + at * page, (after - at) * page, populate)
            at = pages.find(b"1", after)


class Executor:
    """One table in memory, and where the loop stands."""

    def __init__(self, fd: int, *, forked: bool = False) -> None:
        self.forked = forked  # in a zygote: what becomes the payload is an interpreter that goes on, and has to be forked as one
        size = os.fstat(fd).st_size
        # Not by the module `mmap`, whose objects keep a descriptor: one that goes on as an interpreter would close it in the end, whatever it is then.
        self.base = _call(_MMAP, 0, size, 3, 2, fd, 0)  # read and write, private
        os.close(fd)
        if -4096 < self.base < 0:
            _leave(125)
        self.memory = (ctypes.c_char * size).from_address(self.base)
        magic, _, self.rows, self.count, relocations, n_relocations, self.failure, self.status_fd = HEADER.unpack_from(self.memory)
        if magic != MAGIC:
            _leave(125)
        for (offset,) in struct.iter_unpack("<I", bytes(self.memory)[relocations : relocations + 4 * n_relocations]):
            (word,) = struct.unpack_from("<Q", self.memory, offset)
            struct.pack_into("<Q", self.memory, offset, (word + self.base) & _WORD)

    def run(self) -> None:
        """Run the rows; ends in execve, exit or the reaping loop, and comes back in the payload of a zygote's member."""
        at = 0
        while at < self.count:
            op, slots, flags, number, *rest = ROW.unpack_from(self.memory, self.rows + at * ROW.size)
            args, store, tolerated = rest[:6], rest[6], rest[8:]
            args = [self._word(arg) if slots >> index & 1 else arg for index, arg in enumerate(args)]
            result = 0
            if op == Op.CALL:
                result = _call(number, *args)
                while (result == -errno.EINTR and flags & Flag.RETRY) or (result > 0 and flags & Flag.REPEAT):
                    result = _call(number, *args)
            elif op == Op.CLONE:
                result = self._fork(args[0]) if self.forked else _call(_CLONE3, args[0], args[1])
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
            elif op == Op.SERVE:
                _Server(args[0], args[2], args[4] if args[4] < fds.REQUESTS * 2 else -1).serve()
            elif op == Op.COMMAND:
                result = self._command(*args[:4])
            elif op == Op.BECOME and self.forked:
                return
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

    def _fork(self, arguments: int) -> int:
        """Fork the interpreter with all that has to be told of it, then enter the new user namespace."""
        (flags,) = struct.unpack_from("<Q", self.memory, arguments - self.base)
        try:
            pid = os.fork()
        except OSError as error:
            return -(error.errno or errno.EAGAIN)
        if pid == 0 and flags & ~_NEWUSER:
            _leave(125)  # a zygote's members have no other rows
        if (
            pid == 0 and flags and (_call(_UNSHARE, flags) < 0 or _call(_PRCTL, 4, 1) < 0)
        ):  # PR_SET_DUMPABLE, which the new rights have taken
            self._fail(self.count, errno.EPERM)
        if pid == 0:
            _own_memory()
        return pid

    def _word(self, address: int) -> int:
        (value,) = struct.unpack_from("<Q", self.memory, address - self.base)
        return int(value)

    def _command(self, fd: int, block: int, room: int, pointers: int) -> int:
        """Read a command block and make its offsets pointers; the same checks as `command` in init.c."""
        memory = (ctypes.c_ubyte * room).from_address(block)
        got, wanted = 0, COMMAND.size
        relocations = count = 0
        while got < wanted:
            result = _call(_READ, fd, block + got, wanted - got)
            if result == -errno.EINTR:
                continue
            if result <= 0:
                return result or -errno.ECANCELED
            got += result
            if got < COMMAND.size:
                continue
            magic, wanted, relocations, count, *_ = COMMAND.unpack_from(memory)
            if magic != COMMAND_MAGIC or not COMMAND.size <= wanted <= room or relocations % 4 or relocations + 4 * count > wanted:
                return -errno.ECANCELED
        for index in range(count):
            (offset,) = struct.unpack_from("<I", memory, relocations + 4 * index)
            if offset % 8 or offset + 8 > wanted:
                return -errno.ECANCELED
            (word,) = struct.unpack_from("<Q", memory, offset)
            if word >= wanted:
                return -errno.ECANCELED
            struct.pack_into("<Q", memory, offset, word + block)
        struct.pack_into("<3Q", self.memory, pointers - self.base, *COMMAND.unpack_from(memory)[4:])
        return 0

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


def _above(fd: int) -> int:
    """Move a descriptor of the server's own to where no request's will be."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, fds.REQUESTS)
    finally:
        os.close(fd)


class _Server:
    """The life of a server; the same states as `serve` in init.c."""

    def __init__(self, requests: int, most: int, proc: int, *, forked: bool = False) -> None:
        import _socket

        self._forked = forked
        self._most = most
        self._proc = proc
        self._socket = _socket.socket(fileno=requests)
        self._members: dict[int, tuple[int, int]] = {}  # pid → status socket, network namespace or -1
        self._idle: list[int] = []

    def serve(self) -> None:
        """Clone an init for each request until there is nobody to ask; comes back in the payload of a zygote's member."""
        import _socket
        import select

        mask = ctypes.c_uint64(1 << (_SIGCHLD - 1))
        signals = _above(_call(_SIGNALFD4, -1, ctypes.addressof(mask), 8, 0o2004000))
        drain = ctypes.create_string_buffer(128)
        room = _socket.CMSG_SPACE(4 * fds.MAXIMUM_PASSED)
        while True:
            self._reap_members()
            poll = select.poll()
            poll.register(signals, select.POLLIN)
            if len(self._members) < self._most:
                poll.register(self._socket.fileno(), select.POLLIN)
            ready = dict(poll.poll())
            while signals in ready and _call(_READ, signals, ctypes.addressof(drain), 128) == 128:
                pass
            if self._socket.fileno() not in ready:
                continue
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(REQUEST.size, room, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                data, ancillary, flags = b"", [], 0
            if not data:
                _leave(0)
            passed = sum(len(content) for _, _, content in ancillary) // 4
            if len(data) == REQUEST.size and not flags & _socket.MSG_CTRUNC and passed >= fds.SERVED_EXTRA:
                magic, ask, clone_flags = REQUEST.unpack(data)
                if magic == REQUEST_MAGIC and self._launch(clone_flags, bool(ask & Ask.RECYCLE_NETWORK), passed):
                    self._socket.detach()  # closed long ago
                    return
            _call(_CLOSE_RANGE, 0, fds.REQUESTS - 1, 0)

    def _launch(self, clone_flags: int, recycle: bool, passed: int) -> bool:
        """Start a run; True in the payload of a zygote's member."""
        net = -1
        result = 0
        if recycle:
            net, result = self._enter_network()
        if result >= 0:
            arguments = ctypes.create_string_buffer(struct.pack("<11Q", clone_flags, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, 0), 88)
            result = _call(_CLONE3, ctypes.addressof(arguments), 88)
        if result == 0:
            if self._proc < 0:
                _call(_CLOSE_RANGE, passed, _LAST, 0)
            else:
                _call(_CLOSE_RANGE, passed, self._proc - 1, 0)
                _call(_CLOSE_RANGE, self._proc + 1, _LAST, 0)
            Executor(fds.TABLE, forked=self._forked).run()
            return True
        if result > 0:
            self._members[result] = (_above(fds.STATUS), net)
            return False
        if net >= 0:
            self._idle.append(net)
        self._tell(fds.STATUS, struct.pack("<IIqq144x", Kind.FAILED, NO_ROW, -result, 0))
        return False

    def _enter_network(self) -> tuple[int, int]:
        """Go into a network namespace that was proved clean, or a new one; return its descriptor and what the kernel said."""
        if self._idle:
            net = self._idle.pop()
            return net, _call(_SETNS, net, _NEWNET)
        result = _call(_UNSHARE, _NEWNET)
        if result < 0:
            return -1, result
        try:
            return _above(os.open("self/ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)), 0
        except OSError as error:
            return -1, -(error.errno or errno.EIO)

    def _reap_members(self) -> None:
        status, rusage = ctypes.c_int(), ctypes.create_string_buffer(144)
        while (pid := _call(_WAIT4, -1, ctypes.addressof(status), _WNOHANG | _WALL, ctypes.addressof(rusage))) > 0:
            if pid not in self._members:
                continue
            fd, net = self._members.pop(pid)
            self._tell(fd, struct.pack("<IIqq144s", Kind.REAPED, 0, status.value, 0, rusage.raw))
            if fd >= 0:
                os.close(fd)
            if net >= 0 and len(self._idle) < _IDLE_NETWORKS and self._is_clean(net):
                self._idle.append(net)
            elif net >= 0:
                os.close(net)

    def _is_clean(self, net: int) -> bool:
        if _call(_SETNS, net, _NEWNET) < 0:
            return False
        try:
            fd = os.open("self/net/sockstat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError:
            return False
        try:
            return os.read(fd, 16) == b"sockets: used 0\n"
        finally:
            os.close(fd)

    def _tell(self, fd: int, record: bytes) -> None:
        try:
            os.write(fd, record)
        except OSError:
            pass  # nobody listens any more


if __name__ == "__main__":
    Executor(fds.TABLE).run()
