"""A4: leave everything in a volume that may hurt the next run, whoever looks at it, or whoever removes it."""

import os
import shutil
import socket
import stat
import sys

from attack import attempt, report

top, outside = sys.argv[1:3]
os.chdir(top)


def set_id():
    shutil.copy("/usr/bin/id", "set-id")
    os.chmod("set-id", 0o6755)


def listen():
    made = socket.socket(socket.AF_UNIX)
    made.bind("socket")


def nest():
    fd = os.open(".", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("n", dir_fd=fd)
        below = os.open("n", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


attempt("set-id", set_id)
attempt("link", os.symlink, outside, "link")
attempt("up", os.symlink, "../../../../.." + outside, "up")
attempt("fifo", os.mkfifo, "fifo")
attempt("socket", listen)
attempt("device", os.mknod, "device", stat.S_IFCHR | 0o666, os.makedev(1, 1))
attempt("whiteout", os.mknod, "whiteout", stat.S_IFCHR | 0o666, 0)
attempt("hard", os.link, "/usr/bin/id", "hard")
attempt("nest", nest)
attempt("name", os.mkdir, "\x1b[2J\nerror: all is well")
attempt("opaque", os.setxattr, ".", "user.overlay.opaque", b"y")
os.mkdir("closed")
open("closed/file", "w").close()
attempt("closed", os.chmod, "closed", 0)
attempt("escape", os.rename, top, top + "-moved")
attempt("above", os.listdir, "../runs")
attempt("top", os.chmod, ".", 0o300)
report("done", "yes")
