# idea: kill, stop and trace pid 1, and end its children
# problem: one
# expect: WA
import os

for number in (9, 15, 19, 2, 1):
    for pid in (1, os.getppid() or 1):
        try:
            os.kill(pid, number)
        except OSError:
            pass
print("wrong")
