"""Says of itself, of what it forks, executes and starts as a thread whether they are filtered: the Seccomp and NoNewPrivs fields of status."""

import os
import subprocess
import sys
import threading

from attack import report


def state(path="/proc/thread-self/status"):
    with open(path) as file:
        fields = dict(line.split(":\t") for line in file.read().splitlines() if ":\t" in line)
    return fields["Seccomp"] + " " + fields["NoNewPrivs"]


def fork(function):
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    os.waitpid(pid, 0)


report("self", state())
fork(lambda: report("child", state()))
fork(lambda: fork(lambda: report("grandchild", state())))
words = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
fields = dict(line.split(":\t") for line in words.splitlines() if ":\t" in line)
report("executed", fields["Seccomp"] + " " + fields["NoNewPrivs"])
thread = threading.Thread(target=lambda: report("thread", state()))
thread.start()
thread.join()
if "wait" in sys.argv:
    sys.stdin.read()
