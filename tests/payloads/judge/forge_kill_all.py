# idea: kill everything that can be signalled: validator, judge and all
# problem: custom
# expect: WA
# naive: none
import os

try:
    os.kill(-1, 9)
except ProcessLookupError:
    pass
print("wrong")
