# idea: walk the whole tree for the answer that belongs to this input
# problem: secret
# expect: WA
# naive: AC
import os
import sys

case = sys.stdin.readline().split()[1]
for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    for name in names:
        if name == f"{case}.ans":
            print(open(f"{directory}/{name}").read())
            sys.exit()
print("nothing")
