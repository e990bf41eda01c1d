# idea: read what the validator will say later: its input, its memory, the other ends of the pipes
# problem: interactive
# expect: WA
import os
import re

found = b""
for name in [
    "/proc/self/fd/1",
    "/proc/self/fd/2",
    *(f"/proc/{pid}/mem" for pid in range(1, 64)),
    *(f"/proc/{pid}/fd/3" for pid in range(1, 64)),
]:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        found += os.read(descriptor, 65536)
    except OSError:
        pass
match = re.search(rb"number (\d+)", found)
print(match.group(1).decode() if match else "0", flush=True)
