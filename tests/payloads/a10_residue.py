"""Leaves something for the next run, or looks for what the last one left. The places are those a program may write to, keep open, or lock.

a10_residue.py leave|look [FILE]    FILE is a shared read-only file, for its locks
"""

import fcntl
import os
import sys

from attack import attempt, call, report

what = sys.argv[1]
PLACES = ("/tmp", "/dev/shm", os.path.expanduser("~"), "/var/tmp", "/run", "/share", ".")


def put(path):
    with open(path, "w") as file:
        file.write("from the first run")


def get(path):
    with open(path) as file:
        file.read()


for place in PLACES:
    name = {"/tmp": "tmp", "/dev/shm": "shm", "/var/tmp": "vartmp", "/run": "run", "/share": "share", ".": "here"}.get(place, "home")
    attempt(name, put if what == "leave" else get, f"{place}/a10-left")
if what == "leave":
    attempt("key-session", call, "add_key", b"user", b"a10", b"secret", 6, -3)
    attempt("key-user", call, "add_key", b"user", b"a10", b"secret", 6, -4)
else:
    attempt("key-session", call, "keyctl", 10, -3, b"user", b"a10", 0)
    attempt("key-user", call, "keyctl", 10, -4, b"user", b"a10", 0)
if len(sys.argv) > 2:
    with open(sys.argv[2], "rb") as file:
        attempt("flock", fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        attempt("lockf", fcntl.lockf, file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        attempt("lease", fcntl.fcntl, file, 1024, 0)
        report("locked", "yes")
        if what == "leave":
            sys.stdin.read()
