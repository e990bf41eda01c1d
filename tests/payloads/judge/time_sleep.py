# idea: sleep past every limit without computing
# problem: one
# expect: WTL
import time

while True:
    time.sleep(1000)
