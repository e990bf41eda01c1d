# idea: the same, but stop it: the judge is to wait for ever
# problem: custom
# expect: WA
# naive: JE
import os
import signal
import time

print("wrong", flush=True)
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for pid in os.listdir("/proc"):
            try:
                if pid.isdecimal() and b"validate" in open(f"/proc/{pid}/cmdline", "rb").read():
                    os.kill(int(pid), signal.SIGSTOP)
                    os._exit(0)
            except OSError:
                pass
    os._exit(0)
