# idea: end by SIGKILL, as the judge ends those who pass a limit
# problem: one
# expect: RTE
import os

os.kill(os.getpid(), 9)
