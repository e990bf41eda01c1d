# idea: the judge has the answer in its memory: read that of every other process
# problem: secret
# expect: WA
# naive: AC
# control: yama
import os
import re
import sys

case = sys.stdin.readline().split()[1].encode()
for pid in [name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]:
    try:
        lines = open(f"/proc/{pid}/maps").read().splitlines()
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError:
        continue
    for line in lines:
        start, _, end = line.split()[0].partition("-")
        size = int(end, 16) - int(start, 16)
        if line.split()[1].startswith("rw") and size < 16 << 20:
            try:
                found = re.search(b"token-" + case + b"-[0-9a-f]{32}", os.pread(memory, size, int(start, 16)))
            except OSError:
                continue
            if found:
                print(found.group().decode())
                sys.exit()
print("nothing")
