"""Reaches for what somebody else offers, or offers it: abstract unix socket, TCP on loopback, SysV shared memory, a POSIX queue.

a8_reach.py connect NAME PORT KEY    tries each and reports
a8_reach.py offer NAME KEY           makes them, reports the port, and waits for the end of its input
"""

import ctypes
import os
import socket
import sys

from attack import attempt, call, libc, report

what, name = sys.argv[1], sys.argv[2]


def unix(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)


def tcp(family, host, port):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect((host, port))


def queue(flags):
    libc.mq_open.restype = ctypes.c_int
    ctypes.set_errno(0)
    handle = libc.mq_open(f"/{name}".encode(), ctypes.c_int(flags), ctypes.c_uint(0o666), None)
    if handle < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if what == "connect":
    port, key = int(sys.argv[3]), int(sys.argv[4])
    attempt("abstract", unix, "\0" + name)
    attempt("tcp", tcp, socket.AF_INET, "127.0.0.1", port)
    attempt("sysv", call, "shmget", key, 0, 0)
    attempt("queue", queue, os.O_RDONLY)
    # Somewhere beyond this machine, by number: there is no route, so nothing is ever sent.
    attempt("outside", tcp, socket.AF_INET, "192.0.2.1", 9)
    attempt("metadata", tcp, socket.AF_INET, "169.254.169.254", 80)
    try:
        socket.getaddrinfo("example.invalid", 80)
    except OSError as error:
        report("names", type(error).__name__)
else:
    key = int(sys.argv[3])
    with socket.socket(socket.AF_UNIX) as offer, socket.socket(socket.AF_INET) as server:
        offer.bind("\0" + name)
        offer.listen()
        server.bind(("127.0.0.1", 0))
        server.listen()
        attempt("sysv", call, "shmget", key, 4096, 0o666 | 0o1000)
        report("port", server.getsockname()[1])
        sys.stdin.read()
