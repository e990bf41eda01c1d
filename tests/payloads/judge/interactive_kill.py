# idea: kill the other side, its relay and the judge
# problem: interactive
# expect: WA
import os

for pid in range(2, 400):
    if pid != os.getpid():
        try:
            os.kill(pid, 9)
        except OSError:
            pass
try:
    os.kill(-1, 9)
except ProcessLookupError:
    pass
print("nonsense", flush=True)
