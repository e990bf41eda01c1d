# idea: look through POSIX and System V shared memory
# problem: secret
# expect: WA
# naive: AC
import ctypes
import os
import re
import sys

case = sys.stdin.readline().split()[1].encode()
texts = [open(f"/dev/shm/{name}", "rb").read(4096) for name in os.listdir("/dev/shm")]
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for number in [*range(64), libc.shmget(0x4A554447, 0, 0)]:
    address = libc.shmat(number, None, 0o10000)
    if address not in (None, ctypes.c_void_p(-1).value):
        texts.append(ctypes.string_at(address, 4096))
for text in texts:
    found = re.search(b"token-" + case + b"-[0-9a-f]{32}", text)
    if found:
        print(found.group().decode())
        sys.exit()
print("nothing")
