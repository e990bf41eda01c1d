"""A3: find other sandboxes and what they hold. Arguments: a word of the neighbour's secret reversed, and host numbers of its processes.

Also runs without a sandbox, as a program of the same user, to show what it would do there.
"""

import ctypes
import fcntl
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS, NS_GET_USERNS = 0x10000000, 0x00020000, 0xB701


def report(name, value):
    print(f"{name}={value}", flush=True)


def attempt(name, function, *args):
    try:
        got = function(*args)
    except OSError as error:
        report(name, os.strerror(error.errno))
        return None
    report(name, "ok")
    return got


def read(path):
    with open(path, "rb") as file:
        return file.read()


def enter(pid):
    """Join the user and mount namespace of a process, and read its temporary directory."""
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    # The mounts belong to the outer user namespace, not to the process's own.
    owner = fcntl.ioctl(mounts, NS_GET_USERNS)
    for fd, kind in ((owner, CLONE_NEWUSER), (mounts, CLONE_NEWNS)):
        if libc.setns(fd, kind):
            raise OSError(ctypes.get_errno(), "setns")
    os.chdir("/")
    return read("/tmp/secret").decode()


def enter_by_pidfd(pid):
    if libc.setns(os.pidfd_open(pid), CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "setns")


token = sys.argv[1][::-1]
pids = [int(word) for word in sys.argv[2:]]
seen = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
report("others", sum(1 for pid in seen if pid not in (os.getpid(), os.getppid())))
found = set()
for pid in {*seen, *pids} - {os.getpid()}:
    for name in ("cmdline", "environ", "root/tmp/secret", "cwd/secret"):
        try:
            if token.encode() in read(f"/proc/{pid}/{name}"):
                found.add(name)
        except OSError:
            pass
report("found", " ".join(sorted(found)) or "nothing")
for path in ("/tmp/secret", "/dev/shm/secret"):
    attempt(f"left-{path.split('/')[1]}", read, path)


def apart(function, *args):
    """Call in a process of its own: who has entered a namespace cannot enter it again."""
    if os.fork() == 0:
        function(*args)
        os._exit(0)
    os.wait()


for index, pid in enumerate(pids):
    apart(attempt, f"pidfd-{index}", enter_by_pidfd, pid)
    apart(lambda name, pid: report(f"secret-{name}", attempt(f"enter-{name}", enter, pid)), index, pid)
