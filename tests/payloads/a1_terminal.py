"""A1: push characters into a terminal, and change its settings, through every descriptor that might be one."""

import ctypes
import os
import sys

from attack import attempt, call, report

TIOCSTI, TIOCLINUX, TIOCSETD, TIOCSCTTY, TCGETS, TCSETS = 0x5412, 0x541C, 0x5423, 0x540E, 0x5401, 0x5402
ECHO = 0o10


def push(fd, upper=0):
    call("ioctl", fd, TIOCSTI | upper << 32, ctypes.create_string_buffer(b"x"))


def silence(fd):
    settings = ctypes.create_string_buffer(64)
    call("ioctl", fd, TCGETS, settings)
    flags = int.from_bytes(settings.raw[12:16], "little") ^ ECHO
    settings[12:16] = flags.to_bytes(4, "little")
    call("ioctl", fd, TCSETS, settings)


def controlling():
    return os.open("/dev/tty", os.O_RDWR)


def main(wanted):
    if "tty" in wanted:
        fd = attempt("open-tty", controlling)
        if fd is not None:
            attempt("push-tty", push, fd)
    if "push" in wanted:
        attempt("push", push, 0)
    if "upper" in wanted:
        for name, upper in (("upper-1", 1), ("upper-31", 1 << 31), ("upper-all", 0xFFFFFFFF)):
            attempt(name, push, 0, upper)
    if "settings" in wanted:
        attempt("settings", silence, 0)
    if "other" in wanted:
        attempt("paste", call, "ioctl", 0, TIOCLINUX, ctypes.create_string_buffer(b"\3"))
        attempt("discipline", call, "ioctl", 0, TIOCSETD, ctypes.create_string_buffer(bytes(4)))
        attempt("take", call, "ioctl", 0, TIOCSCTTY, 1)
    if "name" in wanted:
        report("name", os.ttyname(0) if os.isatty(0) else "none")
        report("instance", os.fstat(0).st_dev)
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        report("descriptors", " ".join(os.readlink(path) for path in paths if os.path.lexists(path)))
    report("done", "yes")


main(sys.argv[1:])
