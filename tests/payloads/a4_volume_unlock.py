"""A4: take the lock of the volume away: by every descriptor there is, and by every path that may lead to it."""

import fcntl
import os
import sys

from attack import attempt, report

freed = 0
for fd in range(3, 200):
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
        freed += 1
    except OSError:
        pass
report("descriptors", freed)
for path in sys.argv[1:]:
    attempt("path" + path.replace("/", "-").replace(".", "_"), os.open, path, os.O_RDONLY)
fd = os.open("/v", os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
report("ready", "yes")
sys.stdin.read()
