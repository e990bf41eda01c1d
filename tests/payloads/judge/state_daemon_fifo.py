# idea: the same by a FIFO and by a child that only waits, for judges without sockets
# problem: state
# expect: WA
# naive: AC
import os
import time

path = "/tmp/judge-mark-fifo"
seen = False
try:
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    seen = True
except OSError:
    pass
if not seen:
    try:
        os.mkfifo(path)
    except OSError:
        pass
    ready, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.write(told, b"x")
        time.sleep(60)
        os._exit(0)
    os.close(told)
    os.read(ready, 1)
print("second" if seen else "first")
