"""Tries to take the mounts apart that it finds itself under, with whatever capabilities it has; ``unshare``: in a mount namespace of its own."""

import ctypes
import struct
import sys

from attack import attempt, call, report

if sys.argv[1:] == ["unshare"]:
    call("unshare", 0x20000)
MS_REMOUNT, MS_BIND, MS_REC, MNT_DETACH = 32, 4096, 16384, 2

with open("/proc/self/status") as file:
    fields = dict(line.split(":\t") for line in file.read().splitlines() if ":\t" in line)
report("CapEff", fields["CapEff"])
attempt("umount-mask", call, "umount2", b"/proc/kmsg", MNT_DETACH)
attempt("umount-proc-sys", call, "umount2", b"/proc/sys", MNT_DETACH)
attempt("remount-usr", call, "mount", b"none", b"/usr", 0, MS_REMOUNT | MS_BIND, 0)
attempt("remount-root", call, "mount", b"none", b"/", 0, MS_REMOUNT | MS_BIND, 0)
attempt("umount-usr", call, "umount2", b"/usr", MNT_DETACH)
# A bind that is not recursive would show what lies under the masks.
attempt("bind-under", call, "mount", b"/proc", b"/tmp", 0, MS_BIND, 0)
clear = ctypes.create_string_buffer(struct.pack("<4Q", 0, 1, 0, 0))
attempt("setattr", call, "mount_setattr", -100, b"/proc/sys", 0, clear, 32)
attempt("tmpfs", call, "mount", b"none", b"/tmp", b"tmpfs", 0, 0)
