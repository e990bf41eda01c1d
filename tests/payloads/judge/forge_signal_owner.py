# idea: make the judge the owner of signals on the pipes that it shares with this program
# problem: custom
# expect: WA
# naive: -
# control: tests/escape/test_a3_processes.py
import fcntl
import os

for number in (0, 1, 2):
    for owner in (os.getppid(), 1, -1):
        for what, value in ((fcntl.F_SETOWN, owner), (10, 9), (fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_ASYNC)):
            try:
                fcntl.fcntl(number, what, value)
            except OSError:
                pass
print("wrong")
