"""Reads what /proc may say of the host, counts what is open for writing below /proc/sys, and looks for /sys and init."""

import errno
import os
import stat
import sys

from attack import report


def look(path):
    """Return ok when something can be read there, empty, or the error's name."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return "ok" if os.listdir(path) else "empty"
        flags = os.O_WRONLY if path.endswith("sysrq-trigger") else os.O_RDONLY
        fd = os.open(path, flags | os.O_NONBLOCK)
        try:
            return "ok" if flags or os.read(fd, 64) else "empty"
        finally:
            os.close(fd)
    except OSError as error:
        return errno.errorcode[error.errno]


for name in sys.argv[1:]:
    report(name.rpartition("/")[2], look("/proc/" + name))

files = writable = 0
for directory, _, names in os.walk("/proc/sys"):
    for name in names:
        files += 1
        try:
            os.close(os.open(f"{directory}/{name}", os.O_WRONLY | os.O_NONBLOCK))
            writable += 1
        except OSError:
            pass
report("sys-files", files)
report("writable", writable)
report("sysfs", "present" if os.path.exists("/sys/kernel") or os.path.exists("/sys/class") else "absent")
report("init", look("/proc/1/status"))
