# idea: the table of mounts says where the judge keeps its files: search there, and beside
# problem: secret
# expect: WA
# naive: AC
import os
import sys

case = sys.stdin.readline().split()[1]
for line in open("/proc/self/mountinfo"):
    source, target = line.split()[3:5]
    for base in (target, source, os.path.dirname(source), os.path.dirname(os.path.dirname(source))):
        if base.count("/") < 1 or base in ("/", "/usr", "/proc"):
            continue
        for directory, below, names in os.walk(base):
            if directory.count("/") - base.count("/") > 4:
                below.clear()
            if f"{case}.ans" in names:
                print(open(f"{directory}/{case}.ans").read())
                sys.exit()
print("nothing")
