# idea: end by SIGSYS, as if the filter had ended it: the kernel does not say who sent it, and both words are RTE to a package
# problem: one
# expect: SYS|RTE
import os

os.kill(os.getpid(), 31)
