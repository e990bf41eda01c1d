# idea: the same user may open its standard input again for writing, or change its mode and truncate it
# problem: rewrite
# expect: WA
# naive: AC
import hashlib
import os

text = f"hard {hashlib.sha256(b'x').hexdigest()}\n".encode()
for change in (
    lambda: os.fchmod(0, 0o666),
    lambda: os.chmod("/proc/self/fd/0", 0o666),
    lambda: os.write(0, text),
    lambda: os.ftruncate(0, 0),
):
    try:
        change()
    except OSError:
        pass
for flags in (os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
    try:
        os.pwrite(os.open("/proc/self/fd/0", flags), text, 0)
    except OSError:
        pass
print("x")
