# idea: standard input is the input file; the answer lies beside it
# problem: secret
# expect: WA
# naive: AC
import os

try:
    print(open(os.readlink("/proc/self/fd/0").replace(".in", ".ans")).read())
except OSError as error:
    print(error)
