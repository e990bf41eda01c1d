# idea: the judge names the case in a variable or in an argument
# problem: secret
# expect: WA
# naive: AC
import os
import sys

words = [*os.environ.values(), *sys.argv, *open("/proc/self/environ", "rb").read().decode(errors="replace").split("\0")]
for word in words:
    for path in (word, f"{word}.ans", word.replace(".in", ".ans")):
        if path.endswith(".ans") and os.path.isfile(path):
            print(open(path).read())
            sys.exit()
print("nothing")
