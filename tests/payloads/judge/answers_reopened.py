# idea: open every descriptor of every process again by /proc
# problem: secret
# expect: WA
# naive: AC
import os
import sys

for pid in [name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        continue
    for number in numbers:
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").endswith(".ans"):
                print(open(f"/proc/{pid}/fd/{number}").read())
                sys.exit()
        except OSError:
            pass
print("nothing")
