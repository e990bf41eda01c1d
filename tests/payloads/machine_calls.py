"""Asks how large the machine is in every way there is, and what the two calls say to odd questions; prints one JSON object."""

import ctypes
import errno
import json
import mmap
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
SYSINFO, GETAFFINITY = {"x86_64": (99, 204), "aarch64": (179, 123)}[os.uname().machine]


def call(number, *words):
    """Return what a call returns, or the name of its error."""
    result = libc.syscall(number, *[ctypes.c_ulong(word & 2**64 - 1) for word in words])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result


def read(path):
    """Return a file's text, or None."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
fixed = libc.mmap
fixed.restype = ctypes.c_ulong
barred = fixed(ctypes.c_ulong(0), ctypes.c_ulong(4096), 1, 0x22, -1, ctypes.c_long(0))  # PROT_READ, private, anonymous
two = fixed(ctypes.c_ulong(0), ctypes.c_ulong(8192), 3, 0x22, -1, ctypes.c_long(0))
libc.munmap(ctypes.c_ulong(two + 4096), ctypes.c_ulong(4096))

info = call(SYSINFO, address)
values = struct.unpack("=q3Q6QHH4x2QI4x", page[:112])
mask = call(GETAFFINITY, 0, 128, address)
odd = {
    "sysinfo(NULL)": call(SYSINFO, 0),
    "sysinfo(read-only)": call(SYSINFO, barred),
    "sysinfo(kernel)": call(SYSINFO, 0xFFFF_8000_0000_0000),
    "sysinfo(end of memory)": call(SYSINFO, two + 4096 - 64),
    "affinity(0)": call(GETAFFINITY, 0, 0, address),
    "affinity(4)": call(GETAFFINITY, 0, 4, address),
    "affinity(12)": call(GETAFFINITY, 0, 12, address),
    "affinity(2^32)": call(GETAFFINITY, 0, 1 << 32, address),
    "affinity(NULL)": call(GETAFFINITY, 0, 128, 0),
    "affinity(read-only)": call(GETAFFINITY, 0, 128, barred),
    "affinity(pid -1)": call(GETAFFINITY, -1, 128, address),
    "affinity(pid 2^22)": call(GETAFFINITY, 1 << 22, 128, address),
    "affinity(pid 2^32)": call(GETAFFINITY, 1 << 32, 128, address),
    "affinity(bad size of nobody)": call(GETAFFINITY, 1 << 22, 4, address),
}
report = {
    "sysinfo": info, "uptime": values[0], "total": values[4], "free": values[5], "unit": values[14], "procs": values[10], "mask bytes": mask,
    "affinity": sorted(os.sched_getaffinity(0)), "own pid": sorted(os.sched_getaffinity(os.getpid())), "init": sorted(os.sched_getaffinity(1)),
    "online": os.sysconf("SC_NPROCESSORS_ONLN"), "configured": os.sysconf("SC_NPROCESSORS_CONF"), "odd": odd,
    "files": {path: read(path) for path in sys.argv[1:]},
}  # fmt: skip
try:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report["set"] = [max(report["affinity"]), sorted(os.sched_getaffinity(0))]
except OSError as error:
    report["set"] = errno.errorcode[error.errno]
print(json.dumps(report))
