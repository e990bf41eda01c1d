# idea: search the keyrings of the user for what the judge may have put there
# problem: secret
# expect: WA
# naive: -
# control: tests/escape/test_a10_judge.py::test_keys_carry_state
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
for ring in (-1, -2, -3, -4, -5):
    for name in (b"judge", b"answer", b"a10"):
        number = libc.syscall(250, 10, ring, b"user", name, 0)
        text = ctypes.create_string_buffer(4096)
        if number > 0 and libc.syscall(250, 11, number, text, 4096) > 0:
            print(text.value.decode(errors="replace"))
print("nothing")
