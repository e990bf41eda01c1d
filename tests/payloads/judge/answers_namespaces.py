# idea: make a user namespace, or join the judge's, and mount what cannot be read
# problem: secret
# expect: WA
# naive: -
# control: tests/escape/test_a6_surface.py
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x10000000, 0x10020000, 0x00020000, 0x20000000, 0x40000000):
    if libc.unshare(flags) == 0:
        print("token: a namespace")
for pid in (1, os.getppid() or 1):
    for name in ("user", "mnt", "pid"):
        try:
            if libc.setns(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0) == 0:
                print("token: joined", name)
        except OSError:
            pass
if libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0 or libc.umount2(b"/proc", 2) == 0:
    print("token: mounted")
print("nothing")
