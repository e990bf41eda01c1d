"""Looks for a file by every road from the inside: its path, the parents of what is shared, links, other processes' roots and directories."""

import os
import sys

from attack import attempt, report

path, name = sys.argv[1], os.path.basename(sys.argv[1])


def read(where):
    with open(where) as file:
        report("read", file.read().strip())


roads = [
    path,
    f"../answers/{name}",
    f"../../answers/{name}",
    f"/proc/self/cwd/../answers/{name}",
    f"/proc/1/root{path}",
    f"/proc/1/cwd{path}",
]
roads += [f"/proc/{os.getppid()}/root{path}", f"/proc/self/root{path}", f"/proc/self/fd/0/../{name}"]
os.symlink(path, "/tmp/link")
roads.append("/tmp/link")
for number, road in enumerate(roads):
    attempt(f"road{number}", read, road)
TOPS = ("/home", "/tmp", "/input", "/1.in", "/var", "/etc", "/root", "/opt", "/srv", "/mnt", "/dev", "/run")
found = [directory for top in TOPS for directory, _, names in os.walk(top) if name in names]
report("found", len(found))
