# idea: start oneself again before any limit of one program is reached
# problem: one
# expect: TLE
import os
import sys

for _ in range(200000):
    pass
os.execv(sys.executable, [sys.executable, __file__])
