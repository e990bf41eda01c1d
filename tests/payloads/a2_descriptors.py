"""A2: use what the caller left open: a directory, a file for writing, a socket; and the working directory.

Arguments: the descriptors of the directory, the file and the socket.
"""

import os
import socket
import sys

from attack import attempt, report


def climb():
    fd = os.open("secret", os.O_RDONLY, dir_fd=directory)
    return os.read(fd, 100).decode()


def scribble():
    os.pwrite(file, b"OVERWRITTEN", 0)


def phone():
    socket.socket(fileno=os.dup(channel)).send(b"hello outside")


directory, file, channel = map(int, sys.argv[1:4])
listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
report(
    "open",
    " ".join(sorted((name for name in os.listdir(listing) if int(name) != listing and os.path.lexists(f"/proc/self/fd/{name}")), key=int)),
)
report("climbed", attempt("climb", climb))
attempt("scribble", scribble)
attempt("phone", phone)
