# idea: trace, read by process_vm_readv, or take a descriptor of every process that there may be
# problem: secret
# expect: WA
# naive: -
# control: tests/escape/test_a3_processes.py
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
for pid in [*range(1, 64), os.getppid()]:
    if pid == os.getpid():
        continue
    if libc.ptrace(0x4206, pid, None, None) == 0:
        print("token: traced", pid)
    descriptor = libc.syscall(434, pid, 0)
    if descriptor >= 0:
        for number in range(64):
            if libc.syscall(438, descriptor, number, 0) >= 0:
                print("token: took", number, "of", pid)
    text = ctypes.create_string_buffer(64)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(text), 64)
    if libc.process_vm_readv(pid, vector, 1, vector, 1, 0) > 0:
        print("token: read", pid)
print("nothing")
