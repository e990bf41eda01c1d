# idea: guess the answer's place from the working directory and from the program's own, upwards
# problem: secret
# expect: WA
# naive: AC
import os
import sys

case = sys.stdin.readline().split()[1]
for base in (os.getcwd(), os.path.dirname(os.path.abspath(__file__)), os.path.dirname(sys.executable)):
    for up in range(8):
        for inner in ("", "package/", "data/", "stage/", "problem/", "../"):
            for place in ("data/secret/", "secret/", "answers/", ""):
                for suffix in (".ans", ".out", ".a"):
                    path = f"{base}/{'../' * up}{inner}{place}{case}{suffix}"
                    if os.path.exists(path):
                        print(open(path).read())
                        sys.exit()
print("nothing")
