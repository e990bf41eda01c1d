"""Tries to change what the machine view says, by every way to a file and to a mount; then asks with pointers that change meanwhile."""

import ctypes
import os
import sys
import threading

from attack import attempt, call, libc, report

TARGETS = (
    "/proc/meminfo", "/proc/stat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/machine/meminfo", "/sys/devices/system/cpu/online",
)  # fmt: skip


def first(path):
    with open(path) as file:
        return file.readline()


def write(path):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, b"MemTotal:  1 kB\n", 0)
    finally:
        os.close(fd)


def through(path):
    """Open for reading, then again for writing by the descriptor's link."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))
    finally:
        os.close(fd)


def replace(path):
    with open("/tmp/mine", "w") as file:
        file.write("0\n")
    os.rename("/tmp/mine", path)


before = {path: first(path) for path in TARGETS if os.path.exists(path) and "current" not in path and "stat" not in path}
for path in TARGETS:
    if not os.path.exists(path):
        continue
    name = path[1:].replace("/", "-").replace(".", "-")
    attempt(f"write-{name}", write, path)
    attempt(f"truncate-{name}", os.truncate, path, 0)
    attempt(f"through-{name}", through, path)
    attempt(f"chmod-{name}", os.chmod, path, 0o666)
    attempt(f"unlink-{name}", os.unlink, path)
    attempt(f"replace-{name}", replace, path)
    attempt(f"umount-{name}", call, "umount2", path.encode(), 2)
    attempt(f"mount-{name}", call, "mount", b"/tmp", path.encode(), 0, 4096, 0)
for path in ("/sys", "/sys/machine", "/sys/fs/cgroup", "/proc"):
    attempt(f"umount-{path[1:].replace('/', '-')}", call, "umount2", path.encode(), 2)
    attempt(f"remount-{path[1:].replace('/', '-')}", call, "mount", 0, path.encode(), 0, 32, 0)
    attempt(f"make-{path[1:].replace('/', '-')}", os.mkdir, path + "/new")
report("same", all(first(path) == line for path, line in before.items()))
report("descriptors", ",".join(sorted(os.listdir("/proc/self/fd"))) if os.path.exists("/proc/self/fd") else "none")

# Pointers that come and go while the supervisor writes.
libc.mmap.restype = ctypes.c_ulong
PAGE = libc.mmap(ctypes.c_ulong(0), ctypes.c_ulong(8192), 3, 0x22, -1, ctypes.c_long(0))
stop = threading.Event()


def flicker():
    while not stop.is_set():
        libc.mprotect(ctypes.c_ulong(PAGE), ctypes.c_ulong(8192), 0)
        libc.mprotect(ctypes.c_ulong(PAGE), ctypes.c_ulong(8192), 3)
        libc.munmap(ctypes.c_ulong(PAGE + 4096), ctypes.c_ulong(4096))
        libc.mmap(ctypes.c_ulong(PAGE + 4096), ctypes.c_ulong(4096), 3, 0x32, -1, ctypes.c_long(0))


thread = threading.Thread(target=flicker)
thread.start()
outcomes = set()
for number in range(int(sys.argv[1])):
    ask = ("sysinfo", PAGE + 4096 - 56) if number % 2 else ("sched_getaffinity", 0, 128, PAGE + 4096 - 4)
    try:
        call(*ask)
        outcomes.add("ok")
    except OSError as error:
        outcomes.add(os.strerror(error.errno))
stop.set()
thread.join()
report("racy", "|".join(sorted(outcomes)))
