# idea: a daemon holds a lock on a file that both runs see; the second run finds it locked
# problem: state
# expect: WA
# naive: AC
import fcntl
import os
import struct
import time

# The program is the judge's; the other files are the machine's, where others may have locks: nobody else has one on this byte.
OWN, SHARED, BYTE = __file__, (__file__, os.__file__, "/etc/passwd"), int("@NUMBER@")
LAYOUT = "@hhqqi0q"


def ask(file, command, kind):
    return struct.unpack(LAYOUT, fcntl.fcntl(file, command, struct.pack(LAYOUT, kind, os.SEEK_SET, BYTE, 1, 0)))[0]


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except BlockingIOError:
        return "locked"
    except OSError:
        return None


files = [file for file in (attempt(open, path, "rb") for path in SHARED) if file]
own = attempt(open, OWN, "rb")
seen = attempt(fcntl.flock, own, fcntl.LOCK_EX | fcntl.LOCK_NB) == "locked"
seen = any(attempt(ask, file, fcntl.F_GETLK, fcntl.F_WRLCK) == fcntl.F_RDLCK for file in files) or seen
print("second" if seen else "first", flush=True)
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for file in files:
        attempt(ask, file, fcntl.F_SETLK, fcntl.F_RDLCK)
    os.write(told, b"x")
    time.sleep(60)
    os._exit(0)
os.close(told)
os.read(ready, 1)
