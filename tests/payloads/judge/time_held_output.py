# idea: end at once, and let a daemon hold the output open
# problem: one
# expect: WA
import os
import time

os.write(1, b"wrong\n")
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
