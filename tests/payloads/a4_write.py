"""A4: change what is shared or ours: every path given, by creating, writing, truncating, renaming, linking and by metadata."""

import os
import sys

from attack import attempt, report


def create(path):
    os.close(os.open(f"{path}/made", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def write(path):
    fd = os.open(f"{path}/file", os.O_WRONLY)
    os.write(fd, b"CHANGED")
    os.close(fd)


for path in sys.argv[1:]:
    name = path.strip("/").replace("/", "-") or "root"
    attempt(f"create-{name}", create, path)
    if os.path.exists(f"{path}/file"):
        attempt(f"write-{name}", write, path)
        attempt(f"truncate-{name}", os.truncate, f"{path}/file", 0)
        attempt(f"chmod-{name}", os.chmod, f"{path}/file", 0o777)
        attempt(f"touch-{name}", os.utime, f"{path}/file", (1, 1))
        attempt(f"mark-{name}", os.setxattr, f"{path}/file", "user.mark", b"x")
        attempt(f"link-{name}", os.link, f"{path}/file", f"{path}/other")
        attempt(f"remove-{name}", os.unlink, f"{path}/file")
report("done", "yes")
