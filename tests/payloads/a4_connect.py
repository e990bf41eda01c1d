"""A4: talk to a program outside through a socket in a shared directory. Argument: its path. Waits for a line before it connects."""

import os
import socket
import sys

from attack import attempt, report


def talk():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(2)
        channel.connect(sys.argv[1])
        channel.send(b"hello outside")


report("ready", "yes")
os.read(0, 1)
attempt("connect", talk)
