"""Makes a user and a mount namespace and uses what they give."""

import os

from attack import attempt, call, report

if attempt("unshare", call, "unshare", 0x10000000 | 0x20000) is not None:
    with open("/proc/self/status") as file:
        fields = dict(line.split(":\t") for line in file.read().splitlines() if ":\t" in line)
    report("CapEff", fields["CapEff"])
    attempt("mount", call, "mount", b"none", b"/tmp", b"tmpfs", 0, 0)
    os._exit(0)
