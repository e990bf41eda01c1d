# idea: print without end to standard error
# problem: one
# expect: OLE
import os

while True:
    os.write(2, b"a" * 65536)
