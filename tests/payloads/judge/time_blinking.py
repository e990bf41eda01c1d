# idea: compute a little, sleep a little, so that samples and idle limits see nothing
# problem: one
# expect: TLE|WTL
import time

while True:
    end = time.process_time() + 0.01
    while time.process_time() < end:
        pass
    time.sleep(0.01)
