# idea: start a program with the largest arguments and environment that the kernel takes, for ever
# problem: one
# expect: TLE
import os
import sys

os.execve(sys.executable, [sys.executable, "-S", __file__, *["x" * 100000] * 10], {str(number): "y" * 100000 for number in range(8)})
