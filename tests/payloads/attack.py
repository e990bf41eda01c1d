"""What hostile Python payloads share: raw system calls by name, and reports as lines `name=value`. Runs inside; imports nothing of ours."""

import ctypes
import errno
import os

from numbers_here import NUMBERS

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name, *args):
    """Make a system call; integers go as 64 bits, bytes and buffers as pointers."""
    words = [ctypes.c_uint64(arg & 0xFFFFFFFFFFFFFFFF) if isinstance(arg, int) else arg for arg in args]
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    code = ctypes.get_errno()
    if got == -1 and code:
        raise OSError(code, os.strerror(code), name)
    return got


def report(name, value, fd=1):
    """Write one fact to standard output, or another descriptor, at once."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    os.write(fd, f"{name}={text}\n".encode("utf-8", "surrogateescape"))


def attempt(name, function, *args, fd=1):
    """Report `ok` when the attack worked, the error's name when not; return what the function returned, or None."""
    try:
        got = function(*args)
    except OSError as error:
        report(name, errno.errorcode.get(error.errno, str(error)), fd)
        return None
    report(name, "ok", fd)
    return got
