# idea: end at once, but leave a child that prints on
# problem: one
# expect: WA|OLE
import os

os.write(1, b"wrong\n")
if os.fork() == 0:
    os.setsid()
    while True:
        os.write(1, b"token " * 1000)
