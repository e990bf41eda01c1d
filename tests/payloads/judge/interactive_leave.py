# idea: close both ends and sleep, so that the validator is blamed for writing to nobody
# problem: interactive
# expect: WA|WTL
import os
import time

os.close(0)
os.close(1)
time.sleep(1000)
