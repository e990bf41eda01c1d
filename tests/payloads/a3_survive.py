"""A3: leave processes behind: a daemon by double fork, one in a session of its own, one that ignores every signal, one that forks without end.

All hold standard error open and end when standard input (a pipe of the test's) ends; the first process ends at once.
"""

import os
import signal
import sys

from attack import report


def survive(prepare):
    if os.fork() == 0:
        if os.fork() == 0:
            prepare()
            # Each holds the pipe on 2 until the other end of 0 is gone.
            while os.read(0, 1):
                pass
            os._exit(0)
        os._exit(0)


def ignore_all():
    os.setsid()
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass


def rename():
    os.setsid()
    os.chdir("/")
    os.close(1)


for prepare in (os.setsid, ignore_all, rename):
    survive(prepare)
for _ in range(3):
    os.wait()
report("left", 3)
sys.stdout.flush()
os._exit(0)
