# idea: slow the judge down for the next case: priorities, affinity and scheduler of every process in reach
# problem: state
# expect: WA
# naive: -
# control: tests/escape/test_a3_processes.py::test_in_the_callers_group_everybody_is_hit
import os

CHANGES = (
    lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    lambda pid: os.sched_setaffinity(pid, {0}),
    lambda pid: os.setpriority(os.PRIO_PGRP, 0, 19),
    lambda pid: os.setpriority(os.PRIO_USER, 0, 19),
    lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
)
for pid in [0, os.getppid(), *range(1, 64)]:
    for change in CHANGES:
        try:
            change(pid)
        except OSError:
            pass
print("first")
