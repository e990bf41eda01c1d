# idea: a file of a terabyte that costs nothing, and one that is allocated at once
# problem: one
# expect: NZE
import os

descriptor = os.open("judge-mark", os.O_RDWR | os.O_CREAT)
try:
    os.posix_fallocate(descriptor, 0, 1 << 40)
except OSError:
    pass
os.ftruncate(descriptor, 1 << 40)
os.pwrite(descriptor, b"x", (1 << 40) - 1)
raise SystemExit(7)
