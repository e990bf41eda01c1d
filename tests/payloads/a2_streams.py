"""A2: reach through the standard streams to the files behind them. Reports on standard error, standard output being a target."""

import fcntl
import os

from attack import attempt


def rewrite_input():
    fd = os.open("/proc/self/fd/0", os.O_RDWR)
    os.pwrite(fd, b"REWRITTEN", 0)


def truncate_output():
    os.open("/proc/self/fd/1", os.O_RDWR | os.O_TRUNC)


def read_output():
    assert os.read(os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK), 100)


def drop_append():
    flags = fcntl.fcntl(1, fcntl.F_GETFL)
    fcntl.fcntl(1, fcntl.F_SETFL, flags & ~os.O_APPEND)
    os.lseek(1, 0, os.SEEK_SET)
    os.write(1, b"FORGED")


for name, attack in {
    "chmod-input": lambda: os.fchmod(0, 0o777),
    "touch-input": lambda: os.utime(0, (1, 1)),
    "mark-input": lambda: os.setxattr(0, "user.mark", b"was here"),
    "rewrite-input": rewrite_input,
    "read-output": read_output,
    "drop-append": drop_append,
    "truncate-output": truncate_output,
}.items():
    attempt(name, attack, fd=2)
