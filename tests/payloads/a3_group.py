"""A3: signal and slow down everybody in the process group of whoever started us; and a process outside by its number.

Argument: the host's number of a victim.
"""

import os
import signal
import sys

from attack import attempt, call, report

signal.signal(signal.SIGUSR1, signal.SIG_IGN)
victim = int(sys.argv[1])
attempt("kill-group", os.kill, 0, signal.SIGUSR1)
attempt("slow-group", os.setpriority, os.PRIO_PGRP, 0, 7)
attempt("io-group", call, "ioprio_set", 2, 0, 3 << 13)
attempt("kill-victim", os.kill, victim, signal.SIGUSR2)
attempt("pidfd-victim", os.pidfd_open, victim)
report("done", "yes")
