# idea: try what no contestant needs: bpf, perf, io_uring, userfaultfd, kexec, modules, reboot, swap, quotas
# problem: one
# expect: WA
# needs: x86_64
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
for number in (321, 298, 425, 323, 246, 313, 169, 167, 179, 155, 165, 161, 172, 154, 250, 300, 304, 310, 135, 312):
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) > 0:
        print("token: call", number)
print("wrong")
