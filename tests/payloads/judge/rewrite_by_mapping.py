# idea: map the input shared and writable, punch holes, seal it, take a lease on it
# problem: rewrite
# expect: WA
# naive: -
# control: tests/escape/test_a2_inheritance.py::test_without_pipes_the_callers_files_are_rewritten
import ctypes
import fcntl
import mmap

libc = ctypes.CDLL(None, use_errno=True)
for attempt in (
    lambda: mmap.mmap(0, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).write(b"hard"),
    lambda: fcntl.fcntl(0, 1033, 0xF),
    lambda: fcntl.fcntl(0, 1024, 1),
    lambda: fcntl.fcntl(0, fcntl.F_SETFL, 0o2000002),
):
    try:
        attempt()
    except (OSError, ValueError):
        pass
for mode in (0, 3, 16):
    libc.fallocate(0, mode, ctypes.c_long(0), ctypes.c_long(4096))
libc.fsetxattr(0, b"user.x", b"x", 1, 0)
libc.futimens(0, None)
print("x")
