# idea: read the disk or the machine's memory below the file system
# problem: one
# expect: WA
# naive: -
# control: no such device in any sandbox; root could, and no submission is root
import glob
import os

for name in [
    *glob.glob("/dev/*"),
    "/dev/mem",
    "/dev/kmem",
    "/dev/port",
    "/proc/kcore",
    "/dev/sda",
    "/dev/vda",
    "/dev/nvme0n1",
    "/dev/dm-0",
]:
    if name in (
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/stdin",
        "/dev/fd",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/stdout",
        "/dev/stderr",
    ):
        continue
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        if b"token-" in os.read(descriptor, 1 << 16):
            print("token found in", name)
    except OSError:
        pass
    for kind in (0o020644, 0o060644):
        try:
            os.mknod(f"node{kind}", kind, os.makedev(8, 0))
            print("made a device")
        except OSError:
            pass
print("nothing")
