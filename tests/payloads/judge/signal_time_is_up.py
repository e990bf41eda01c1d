# idea: end by SIGXCPU, as if the time were up
# problem: one
# expect: RTE
import os

os.kill(os.getpid(), 24)
