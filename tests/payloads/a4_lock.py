"""A4: talk to another run through locks on a file that both are shown. Argument: the file."""

import fcntl
import os
import sys

from attack import attempt, report

fd = os.open(sys.argv[1], os.O_RDONLY)
attempt("flock", fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
attempt("record", fcntl.lockf, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
report("ready", "yes")
sys.stdin.read()
