"""Says what privileges this process has, and tries to get some: capset, ambient, setuid(0), unlocking the securebits."""

import ctypes
import struct

from attack import attempt, call, libc, report

with open("/proc/self/status") as file:
    fields = dict(line.split(":\t") for line in file.read().splitlines() if ":\t" in line)
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    report(name, f"{int(fields[name], 16):x}")
for name in ("NoNewPrivs", "Seccomp", "Groups"):
    report(name, fields[name].strip())
for name in ("Uid", "Gid"):
    report(name, "/".join(sorted(set(fields[name].split()))))
report("securebits", libc.prctl(27, 0, 0, 0, 0))
header = ctypes.create_string_buffer(struct.pack("<II", 0x20080522, 0))
# Everything permitted, effective and inheritable.
every = ctypes.create_string_buffer(struct.pack("<6I", 1, 1, 1, 0, 0, 0))
attempt("capset", call, "capset", header, every)
attempt("ambient", call, "prctl", 47, 2, 0, 0, 0)
attempt("setuid", call, "setuid", 0)
attempt("unlock", call, "prctl", 28, 0, 0, 0, 0)
