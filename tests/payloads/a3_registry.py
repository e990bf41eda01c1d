"""A3: reach the supervisors of running sandboxes. Arguments: directories to look for entries in, then `--`, and the id of a run to kill.

Waits for a line, so that entries may come while it runs.
"""

import os
import socket
import sys

from attack import attempt, report

places = sys.argv[1 : sys.argv.index("--")]
victim = sys.argv[sys.argv.index("--") + 1]


def call(place, request):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(2)
        line.connect(f"{place}/{victim}.sock")
        line.send(request)
        return line.recv(2048).split(b"\n")[0].decode()


def forge(place):
    with open(f"{place}/19abcdef012-0123abcd", "w") as file:
        file.write("sandbox-run 1\n")


report("ready", "yes")
os.read(0, 1)
for number, place in enumerate(places):
    try:
        report(f"seen{number}", " ".join(sorted(os.listdir(place))) or "empty")
    except OSError as error:
        report(f"seen{number}", error.strerror)
    attempt(f"stats{number}", call, place, b"stats")
    attempt(f"kill{number}", call, place, b"kill")
    attempt(f"forge{number}", forge, place)
    attempt(f"remove{number}", os.rmdir, place)
    attempt(f"move{number}", os.rename, place, place + "2")
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in sorted(map(int, os.listdir("/proc/self/fd"))) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
report("descriptors", " ".join(links) or "none")
