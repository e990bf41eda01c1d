# idea: compute in children whose end the parent ignores, and sleep oneself
# problem: one
# expect: TLE
import os
import signal
import time

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while True:
            pass
time.sleep(1000)
