# idea: raise one's limits, and lower the judge's
# problem: one
# expect: TLE
import os
import resource

for pid in (0, 1, os.getppid() or 1):
    for which in range(16):
        for limits in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (1 << 40, 1 << 40)):
            try:
                resource.prlimit(pid, which, limits)
            except (OSError, ValueError):
                pass
while True:
    pass
