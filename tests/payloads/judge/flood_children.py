# idea: share the flood among children, each below the limit
# problem: one
# expect: OLE
import os

for _ in range(16):
    if os.fork() == 0:
        for _ in range(8):
            os.write(1, b"a" * 16384)
        os._exit(0)
for _ in range(16):
    os.wait()
