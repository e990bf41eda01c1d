# idea: hand the computation from process to process, each of which lives shortly
# problem: one
# expect: TLE
import os
import time

if os.fork():
    time.sleep(1000)
while True:
    end = time.process_time() + 0.03
    while time.process_time() < end:
        pass
    if os.fork():
        os._exit(0)
