# idea: a key in the user's keyring outlives every process
# problem: state
# expect: WA
# naive: -
# control: tests/escape/test_a10_judge.py::test_keys_carry_state
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
seen = any(libc.syscall(250, 10, ring, b"user", b"judge-mark", 0) > 0 for ring in (-3, -4, -5))
for ring in (-3, -4, -5):
    libc.syscall(248, b"user", b"judge-mark", b"x", 1, ring)
print("second" if seen else "first")
