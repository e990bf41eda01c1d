# idea: a line without end, after a beginning that looks fine
# problem: one
# expect: OLE
import os

os.write(1, b"token-01-")
while True:
    os.write(1, b"0" * 65536)
