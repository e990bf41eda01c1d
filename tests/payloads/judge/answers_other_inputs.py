# idea: hunt for the inputs of the other tests; each holds the answer of another one
# problem: secret
# expect: WA
# naive: AC
import os
import re
import sys

case = sys.stdin.readline().split()[1]
for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    for name in names:
        if name.endswith(".in"):
            found = re.search(f"token-{case}-[0-9a-f]{{32}}", open(f"{directory}/{name}").read())
            if found:
                print(found.group())
                sys.exit()
print("nothing")
