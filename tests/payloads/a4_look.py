"""A4: what is there: the file at each path given, what /dev/null is, what /proc and /sys hold."""

import os
import stat
import sys

from attack import attempt, report


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read(200)


for index, path in enumerate(sys.argv[1:]):
    report(f"content-{index}", attempt(f"read-{index}", read, path))
for name in ("null", "zero", "full", "random", "urandom", "tty"):
    status = os.stat(f"/dev/{name}")
    report(f"device-{name}", f"{stat.S_ISCHR(status.st_mode)} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
report("dev", " ".join(sorted(os.listdir("/dev"))))
report("proc", " ".join(sorted(name for name in os.listdir("/proc") if not name.isdecimal())))
report("sys", " ".join(sorted(os.listdir("/sys"))) if os.path.exists("/sys") else "absent")
with open("/proc/self/mountinfo", encoding="utf-8") as file:
    report("mounts", " ".join(sorted(line.split()[4] for line in file)))
