# idea: enter the root and working directory of every process
# problem: secret
# expect: WA
# naive: AC
import glob
import os
import sys

case = sys.stdin.readline().split()[1]
for pid in [name for name in os.listdir("/proc") if name.isdecimal()]:
    for place in ("cwd", "root", "cwd/..", "root/tmp", "root/judge", "root/work"):
        for path in glob.glob(f"/proc/{pid}/{place}/**/{case}.ans", recursive=place != "root"):
            print(open(path).read())
            sys.exit()
print("nothing")
