"""A4: stall whoever opens a shared file outside: a lease, directory notices. Argument: the file. Ends when its input ends."""

import fcntl
import os
import signal
import sys

from attack import attempt, report

signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDONLY)
directory = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY | os.O_DIRECTORY)
attempt("lease", fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
attempt("lease-upper", fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
attempt("notify", fcntl.fcntl, directory, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
report("ready", "yes")
sys.stdin.read()
