# idea: System V shared memory, semaphores and queues live on without a process
# problem: state
# expect: WA
# naive: AC
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
key = 0x4D41524B
seen = libc.shmget(key, 0, 0) >= 0 or libc.semget(key, 0, 0) >= 0 or libc.msgget(key, 0) >= 0
libc.shmget(key, 4096, 0o1666)
libc.semget(key, 1, 0o1666)
libc.msgget(key, 0o1666)
print("second" if seen else "first")
