"""A4: get more into a place than it may hold: one file, many files, holes, allocation ahead, names, and a mapping."""

import errno
import mmap
import os
import sys

from attack import report

top, limit = sys.argv[1], int(sys.argv[2])
os.chdir(top)


def until_full(function, times):
    try:
        for number in range(times):
            function(number)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "never"


def write(name, count):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        done = 0
        while done < count:
            done += os.write(fd, bytes(min(count - done, 1 << 16)))
    finally:
        os.close(fd)


report("one", until_full(lambda number: write("one", 4 * limit), 1))
report("many", until_full(lambda number: write(f"many{number}", 4096), 2 * limit // 4096))
report("names", until_full(lambda number: os.mkdir(f"d{number}"), 2000))


def ahead(number):
    fd = os.open(f"ahead{number}", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(fd, 0, 4 * limit)
    finally:
        os.close(fd)


report("ahead", until_full(ahead, 1))
for name in os.listdir("."):
    if name.startswith("d"):
        os.rmdir(name)
with open("hole", "wb") as file:
    file.truncate(4 * limit)
child = os.fork()
if not child:
    with open("hole", "r+b") as file:
        with mmap.mmap(file.fileno(), 4 * limit) as area:
            for at in range(0, 4 * limit, 4096):
                area[at] = 1
    os._exit(0)
report("mapped", "killed" if os.WIFSIGNALED(os.waitpid(child, 0)[1]) else "never")
used = os.statvfs(".")
report("blocks", sum(os.lstat(name).st_blocks * 512 for name in os.listdir(".")))
report("done", "yes")
