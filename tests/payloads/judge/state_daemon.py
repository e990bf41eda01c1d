# idea: a daemon in a session of its own survives the first case and answers the second
# problem: state
# expect: WA
# naive: AC
import os
import socket
import time

where = "\0judge-mark-daemon"
try:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(where)
    print("second", flush=True)
    os._exit(0)
except OSError:
    pass
print("first", flush=True)
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen()
        os.write(told, b"x")
        listener.settimeout(60)
        listener.accept()
        time.sleep(1)
    os._exit(0)
os.close(told)
os.read(ready, 1)
