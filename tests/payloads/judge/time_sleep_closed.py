# idea: close all streams first, so that the end of output looks like the end of the program
# problem: one
# expect: WTL
import os
import time

os.write(1, b"wrong\n")
for number in (0, 1, 2):
    os.close(number)
time.sleep(1000)
