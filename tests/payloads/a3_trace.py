"""A3: read, steer and take descriptors of another process: of a child, and of init."""

import ctypes
import os
import signal

from attack import attempt, call, report

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def trace(pid):
    call("ptrace", PTRACE_SEIZE, pid, 0, 0)


def read_memory(pid, address):
    buffer = ctypes.create_string_buffer(16)
    here, there = Vector(ctypes.addressof(buffer), 16), Vector(address, 16)
    call("process_vm_readv", pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return buffer.value.decode(errors="replace")


def write_memory(pid, address):
    buffer = ctypes.create_string_buffer(b"overwritten")
    here, there = Vector(ctypes.addressof(buffer), 11), Vector(address, 11)
    call("process_vm_writev", pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)


def open_memory(pid):
    return os.open(f"/proc/{pid}/mem", os.O_RDONLY)


def take(pid, number):
    return call("pidfd_getfd", os.pidfd_open(pid), number, 0)


def compare(pid):
    call("kcmp", os.getpid(), pid, 0, 0, 0)


def advise(pid):
    call("process_madvise", os.pidfd_open(pid), ctypes.byref(Vector(ctypes.addressof(token) & ~4095, 4096)), 1, 20, 0)


def program(pid):
    with open(f"/proc/{pid}/exe", "rb") as file:
        return file.read(4)


token = ctypes.create_string_buffer(b"token in memory")
child = os.fork()
if child == 0:
    signal.pause()
# Any child may be traced and read for what the kernel's own rules say: same user, dumpable, same namespace.
attempt("child-mem", open_memory, child)
attempt("child-read", read_memory, child, ctypes.addressof(token))
attempt("child-write", write_memory, child, ctypes.addressof(token))
attempt("child-take", take, child, 0)
attempt("child-kcmp", compare, child)
attempt("child-advise", advise, child)
attempt("child-trace", trace, child)
os.kill(child, signal.SIGKILL)

attempt("init-trace", trace, 1)
attempt("init-mem", open_memory, 1)
taken = set()
for number in range(16):
    fd = attempt(f"init-take-{number}", take, 1, number)
    if fd is not None:
        taken.add(os.readlink(f"/proc/self/fd/{fd}").partition(":")[0])
report("init-taken", " ".join(sorted(taken)) or "nothing")
report("init-program", attempt("init-exe", program, 1))
