# idea: leave a link to the answer where the judge looks for the output (CMS#376)
# problem: secret
# expect: WA
# naive: AC
import os

try:
    answer = os.readlink("/proc/self/fd/0").replace(".in", ".ans")
except OSError:
    answer = "/judge/package/data/secret/01.ans"
for name in ("output.txt", "stdout", "out", "answer.txt"):
    if os.path.lexists(name):
        os.unlink(name)
    os.symlink(answer, name)
print("see output.txt")
