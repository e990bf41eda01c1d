"""The system calls of a run that Python's `os` lacks: one thin wrapper each.

`supervise` and `launch` may import it. Nothing here decides anything; every wrapper raises `OSError` naming call and operands. Made of `_ctypes`, the
compiled part of ctypes: the other part costs more to import than a run's share of an interpreter.
"""

from __future__ import annotations

import _ctypes
import errno
import os
import struct

_PIDFD_GETFD = 438  # one number on every architecture
_PIDFD_SEND_SIGNAL = 424
_OPENAT2 = 437
_OPEN_HOW = struct.Struct("<QQQ")  # flags, mode, resolve
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
BENEATH = 1 | 2 | 4 | 8
"""RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH: a path that names what lies below a directory, or nothing."""
_QUOTACTL_FD = 443

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_ATTR = struct.Struct("<IIQQQQQIIQ")  # type, size, config, period, sample type, read format, flags, wake-up, breakpoint type, config1
_PERF_NOW = 1 << 1 | 1 << 5 | 1 << 6  # inherit, exclude_kernel, exclude_hv
_PERF_FLAGS = _PERF_NOW | 1 << 0 | 1 << 12  # disabled, enable_on_exec
_PERF_FORMAT, _PERF_FD_CLOEXEC = 3, 8  # PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_ATTR = struct.Struct("<IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
_ITIMERSPEC = struct.Struct("4l")
_QUESTIONS = {
    "landlock": {"x86_64": (444, 0, 0, 1), "aarch64": (444, 0, 0, 1)},  # landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)
    "keyrings": {"x86_64": (250, 0, -3, 0), "aarch64": (219, 0, -3, 0)},  # keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
    # seccomp(SECCOMP_SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE_RECV, NULL): EFAULT where the flags are known, EINVAL where not
    "wait-killable": {"x86_64": (317, 1, 8 | 32, 0), "aarch64": (277, 1, 8 | 32, 0)},
}
_PRCTL = {"x86_64": 157, "aarch64": 167}
_PR_SET_PDEATHSIG = 1
_CLOCK_MONOTONIC, _TFD_ABSTIME = 1, 1
_TFD_FLAGS = 0o2004000  # TFD_CLOEXEC | TFD_NONBLOCK

_PROCESS_VM_WRITEV = {"x86_64": 311, "aarch64": 271}
_SCHED_GETAFFINITY = {"x86_64": 204, "aarch64": 123}
_IOVECS = struct.Struct("@4Q")  # of ours, then of theirs: address, length
_LONGEST_MASK = 1024


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "B"


class _Bytes(_ctypes.Array):  # type: ignore[type-arg]
    _type_ = _Byte
    _length_ = 1


_libc = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # this program itself, RTLD_NOW
_syscall_function = _Function(_ctypes.dlsym(_libc, "syscall"))
_timerfd_create = _Function(_ctypes.dlsym(_libc, "timerfd_create"))
_timerfd_settime = _Function(_ctypes.dlsym(_libc, "timerfd_settime"))


def _syscall(number: int, *arguments: int | bytes) -> int:
    """Make a system call; bytes are a pointer to memory that the kernel only reads."""
    return int(_syscall_function(_Long(number), *[_Long(word) if isinstance(word, int) else word for word in arguments]))


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open what a relative path names below a directory, through no link and into no other file system; close-on-exec.

    Args:
        directory: a descriptor; borrowed.
        path: relative, at most 4095 bytes.
        flags: of open(2). With O_PATH | O_NOFOLLOW a link as the last name is itself opened.

    Raises:
        OSError: ELOOP at a link, EXDEV where it would lead out, and what open(2) raises.

    Source: openat2(2). Since: Linux 5.6.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, BENEATH)
    result = _syscall(_OPENAT2, directory, os.fsencode(path) + b"\0", how, _OPEN_HOW.size)
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def rename_with(source: int, old: str, target: int, new: str, flags: int) -> None:
    """Rename with RENAME_NOREPLACE, or exchange two names at once with RENAME_EXCHANGE.

    Args:
        source: the directory of `old`; borrowed.
        old: one name.
        target: the directory of `new`; borrowed.
        new: one name.
        flags: one of the two.

    Raises:
        OSError: EEXIST, ENOENT, EINVAL where the file system cannot do it, and what rename(2) raises.

    Source: renameat2(2). Since: Linux 3.15.
    """
    number = _RENAMEAT2[os.uname().machine]
    if _syscall(number, source, os.fsencode(old) + b"\0", target, os.fsencode(new) + b"\0", flags) < 0:
        error = _ctypes.get_errno()
        raise OSError(error, os.strerror(error), old, None, new)


def pidfd_getfd(pidfd: int, target: int) -> int:
    """Return a close-on-exec copy of another process's descriptor.

    Args:
        pidfd: the process; borrowed.
        target: the descriptor's number there.

    Raises:
        OSError: EPERM when that process may not be traced by us (Yama's ptrace_scope 3, another uid), EBADF, ESRCH.

    Source: pidfd_getfd(2). Since: Linux 5.6.
    """
    result = _syscall(_PIDFD_GETFD, pidfd, target, 0, 0)
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, f"pidfd_getfd `{target}`: {os.strerror(number)}")
    return result


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to exactly that process.

    Raises:
        OSError: ESRCH when it has been reaped.

    Source: pidfd_send_signal(2). Since: Linux 5.1.
    """
    if _syscall(_PIDFD_SEND_SIGNAL, pidfd, number, 0, 0) < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"pidfd_send_signal `{number}`: {os.strerror(error)}")


def quotactl_fd(fd: int, command: int, number: int, block: bytes) -> None:
    """Set something of the quotas of the file system that a file lies in.

    Args:
        fd: of the file; borrowed.
        command: a QCMD() that writes.
        number: whose quota.
        block: the command's structure.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ESRCH where quotas are off, ENOSYS.

    Source: quotactl_fd(2). Since: Linux 5.14.
    """
    if _syscall(_QUOTACTL_FD, fd, command, number, block) < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"quotactl_fd: {os.strerror(error)}")


def timerfd_create() -> int:
    """Return a close-on-exec, non-blocking timer on CLOCK_MONOTONIC, not armed.

    Source: timerfd_create(2). `epoll.poll` rounds its timeout up to milliseconds and the kernel adds 50 us of slack; a timer has neither.
    """
    fd = int(_timerfd_create(_Long(_CLOCK_MONOTONIC), _Long(_TFD_FLAGS)))
    if fd < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"timerfd_create: {os.strerror(error)}")
    return fd


def timerfd_settime(fd: int, at_ns: int | None) -> None:
    """Arm a timer for a moment of CLOCK_MONOTONIC, in nanoseconds (the past: at once), or disarm it; it is not readable until then.

    Source: timerfd_create(2).
    """
    seconds, nanoseconds = divmod(max(1, at_ns) if at_ns is not None else 0, 1_000_000_000)
    if int(_timerfd_settime(_Long(fd), _Long(_TFD_ABSTIME), _ITIMERSPEC.pack(0, 0, seconds, nanoseconds), None)) < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"timerfd_settime `{at_ns}`: {os.strerror(error)}")


def set_slice(pid: int, slice_ns: int) -> bool:
    """Ask the scheduler for short turns of an ordinary process, which then has them sooner; return whether it was accepted.

    A task that wakes up beside 30 others on its processor otherwise waits for half of them, a turn of 1 to 3 ms each. It gets no more time in all.
    Kernels before 6.12 accept it and do nothing. Not for real-time or idle policies, which are left alone.

    Args:
        pid: a process of the caller's user; 0 for the calling thread.
        slice_ns: from 100 us to 100 ms; 0 for the default.

    Source: sched_setattr(2); kernel kernel/sched/syscalls.c, __setparam_fair; Documentation/scheduler/sched-eevdf.rst.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    try:
        if number is None or os.sched_getscheduler(pid) != os.SCHED_OTHER:
            return False
        nice = os.getpriority(os.PRIO_PROCESS, pid)
    except OSError:
        return False
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    return _syscall(number, pid, attributes, 0, 0) == 0


def set_death_signal(number: int) -> None:
    """Have this process sent a signal when the thread that started it ends; kept over execve(2) of what is not set-user-id.

    Who calls it looks at getppid(2) afterwards: the parent may have ended before.

    Source: PR_SET_PDEATHSIG(2const).
    """
    if _syscall(_PRCTL[os.uname().machine], _PR_SET_PDEATHSIG, number, 0, 0, 0) < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_PDEATHSIG, {number}): {os.strerror(error)}")


def ask_kernel(question: str) -> int:
    """Ask what this kernel, and the filters around us, offer; nothing changes by it.

    Args:
        question: ``landlock`` (the ABI), ``keyrings`` (0 where keyctl works), ``wait-killable`` (-EFAULT where seccomp knows that flag) or
            ``write-memory`` (1 where `write_memory` works).

    Returns:
        the call's result, or the errno as a negative number.

    Source: landlock(7), keyctl(2), seccomp(2); kernel/seccomp.c, seccomp_set_mode_filter, which looks at the flags before the program.
    """
    if question == "write-memory":
        return _try_to_write()
    call = _QUESTIONS[question].get(os.uname().machine)
    if call is None:
        return -errno.ENOSYS
    found = _syscall(*call)
    if found < 0:
        return -_ctypes.get_errno()
    return 0 if question == "keyrings" else found  # the keyring's number is another for each session


def _try_to_write() -> int:
    """Write to memory of ours as if it were another's; a filter around us (a container's) may refuse that call."""
    block = bytearray(1)
    memory = _Bytes.from_buffer(block)
    try:
        return write_memory(os.getpid(), _ctypes.addressof(memory), b"x")
    except OSError as error:
        return -(error.errno or errno.EPERM)


def write_memory(pid: int, address: int, data: bytes) -> int:
    """Write into memory that another process may write to itself, and return how many bytes were written.

    Args:
        pid: process or thread, as we see it.
        address: there, 64 bits of whatever it says.
        data: what.

    Raises:
        OSError: EFAULT when not even the first byte could be written, ESRCH, EPERM when that process may not be traced by us.

    Source: process_vm_writev(2).
    """
    number = _PROCESS_VM_WRITEV.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "process_vm_writev")
    block = bytearray(_IOVECS.size + len(data))
    memory = _Bytes.from_buffer(block)
    ours = _ctypes.addressof(memory)
    _IOVECS.pack_into(block, 0, ours + _IOVECS.size, len(data), address, len(data))
    block[_IOVECS.size :] = data
    result = _syscall(number, pid, ours, 1, ours + 16, 1, 0)
    if result < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"process_vm_writev `{pid}` {len(data)} bytes: {os.strerror(error)}")
    return result


def affinity_sizes() -> tuple[int, int]:
    """Return how many bytes a mask for sched_getaffinity(2) must have on this kernel, and how many it fills; (8, 8) where it cannot be asked."""
    global _affinity
    if _affinity is None:
        number, least, most = _SCHED_GETAFFINITY.get(os.uname().machine, -1), 8, -1
        block = bytearray(_LONGEST_MASK)
        memory = _Bytes.from_buffer(block)
        while least <= _LONGEST_MASK and _syscall(number, 0, least, _ctypes.addressof(memory)) < 0:
            least *= 2
        most = _syscall(number, 0, _LONGEST_MASK, _ctypes.addressof(memory))
        # Sizes are multiples of 8, and the least accepted one may lie below the power of two.
        while least > 8 and _syscall(number, 0, least - 8, _ctypes.addressof(memory)) >= 0:
            least -= 8
        _affinity = (least, most) if most > 0 else (8, 8)
    return _affinity


_affinity: tuple[int, int] | None = None


def perf_event_open(pid: int, kind: int, config: int, *, now: bool = False) -> int:
    """Return a close-on-exec counter of a process's user mode that begins with its next execve, or now, and is inherited by its children.

    Raises:
        OSError: ENOENT when there is no such counter, EACCES or EPERM when it is not allowed.

    Source: perf_event_open(2).
    """
    number = _PERF_EVENT_OPEN.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "perf_event_open")
    attributes = _PERF_ATTR.pack(kind, _PERF_ATTR.size, config, 0, 0, _PERF_FORMAT, _PERF_NOW if now else _PERF_FLAGS, 0, 0, 0)
    fd = _syscall(number, attributes, pid, -1, -1, _PERF_FD_CLOEXEC)
    if fd < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"perf_event_open `{pid}` {kind}:{config}: {os.strerror(error)}")
    return fd


def perf_event_read(fd: int) -> tuple[int, int, int]:
    """Return a counter's value, and for how long (ns) it was wanted and did count."""
    value, enabled, running = struct.unpack("<3Q", os.read(fd, 24))
    return value, enabled, running
