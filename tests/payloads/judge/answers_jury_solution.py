# idea: find the jury's solution and run it
# problem: secret
# expect: WA
# naive: AC
import os
import sys

for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    if "jury.py" in names:
        exec(open(f"{directory}/jury.py").read())
        sys.exit()
print("nothing")
