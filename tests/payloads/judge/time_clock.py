# idea: turn the clocks back
# problem: one
# expect: WA
# naive: -
# control: tests/escape/test_a6_surface.py
import ctypes
import time

libc = ctypes.CDLL(None, use_errno=True)
zero = (ctypes.c_long * 2)(0, 0)
for clock in range(12):
    libc.clock_settime(clock, zero)
libc.settimeofday(zero, None)
try:
    time.clock_settime(time.CLOCK_REALTIME, 0)
except OSError:
    pass
print("wrong")
