# idea: print without end
# problem: one
# expect: OLE
import os

while True:
    os.write(1, b"a" * 65536)
