# idea: file names with newlines, escapes and quotes, and a tree deeper than a path can be
# problem: one
# expect: WA
import os

for name in ("a\nverdict=AC", "\x1b[2J\x1b]0;x\x07", "-rf", "$(reboot)", "\u202egnp.exe", "x" * 255):
    open(name, "w").close()
for _ in range(2000):
    try:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    except OSError:
        break
print("wrong")
