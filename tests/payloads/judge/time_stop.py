# idea: stop oneself: whoever waits, waits for ever
# problem: one
# expect: WTL
import os
import signal

while True:
    os.kill(os.getpid(), signal.SIGSTOP)
