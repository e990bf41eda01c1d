# idea: zombies to the end, then compute
# problem: one
# expect: TLE
import os

try:
    while True:
        if os.fork() == 0:
            os._exit(0)
except OSError:
    pass
while True:
    pass
