# idea: hide memory where no process maps it
# problem: one
# expect: MLE
# needs: cgroup
import os
import time

held = []
for _ in range(6):
    descriptor = os.memfd_create("judge-mark")
    for _ in range(50):
        os.write(descriptor, bytes(1 << 20))
    held.append(descriptor)
time.sleep(1000)
