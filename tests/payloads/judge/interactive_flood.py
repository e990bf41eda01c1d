# idea: flood the validator and never read
# problem: interactive
# expect: WA|OLE
import os

while True:
    os.write(1, b"1\n" * 4096)
