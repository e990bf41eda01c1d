# idea: kill the process group, in which the judge may be
# problem: custom
# expect: RTE
# naive: none
import os

os.kill(0, 9)
