# idea: a daemon holds a lock on a file that both runs see; the second run finds it locked
# problem: state
# expect: WA
# naive: AC
import fcntl
import os
import time

seen = False
held = []
for path in (__file__, os.__file__, "/etc/passwd"):
    for take in (fcntl.flock, fcntl.lockf):
        try:
            file = open(path, "rb")
            take(file, (fcntl.LOCK_EX if take is fcntl.flock else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            held.append(file)
        except BlockingIOError:
            seen = True
        except OSError:
            pass
print("second" if seen else "first", flush=True)
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    time.sleep(6)
    os._exit(0)
time.sleep(0.2)
