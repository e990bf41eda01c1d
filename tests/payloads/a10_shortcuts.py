"""What a run might leave in what its server hands to the next one, and what it might reach through it. a10_shortcuts.py WHAT [ARGUMENT...]"""

import errno
import os
import socket
import struct
import sys

from attack import attempt, call, report

what, *rest = sys.argv[1:]
PLACES = ("/run", "/etc", "/var/empty", "/home", "/dev", "/tmp", "/dev/shm", os.path.expanduser("~"))
IPV6_FLOWLABEL_MGR = 32


def write(path):
    with open(path, "w") as file:
        file.write("from another run")


def read(path):
    with open(path) as file:
        return file.read()


def flow_label():
    """A lease of a flow label, which outlives its socket by `linger` seconds. Source: net/ipv6/ip6_flowlabel.c."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
        # dst, label, action get, share any, flags create|exclusive, expires, linger
        request = bytes(15) + b"\1" + struct.pack(">I", 0x12345) + struct.pack("<BBHHHI", 0, 255, 3, 100, 100, 0)
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, request)


def address(name, up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        import fcntl

        if up:
            fcntl.ioctl(made, 0x8914, struct.pack("16sh22x", name, 1))
        fcntl.ioctl(made, 0x8916, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton("10.9.8.7")))


if what == "leave-files":
    for place in PLACES:
        attempt(place.strip("/").replace("/", "_"), write, f"{place}/left")
elif what == "look-files":
    for place in PLACES:
        attempt(place.strip("/").replace("/", "_"), read, f"{place}/left")
elif what == "listen":
    # An abstract name whose socket also lies in a queue outside: it stays when everything in here is dead.
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0left")
    server.listen(1)
    report("bound", "ok")
    if rest == ["outside"]:
        with socket.socket(fileno=0) as outside:
            attempt("sent", socket.send_fds, outside, [b"x"], [server.fileno()])
    if rest == ["cycle"]:
        one, two = socket.socketpair()
        socket.send_fds(one, [b"x"], [one.fileno(), two.fileno(), server.fileno()])
        report("sent", "ok")
    if rest == ["hold"]:
        sys.stdin.read()
elif what == "connect":
    client = socket.socket(socket.AF_UNIX)
    attempt("connected", client.connect, "\0left")
elif what == "leave-network":
    attempt("label", flow_label)
    attempt("address", address, b"lo", True)
    attempt("sysctl", write, "/proc/sys/net/unix/max_dgram_qlen") if rest else report("sysctl", "not tried")
elif what == "set-sysctl":
    with open("/proc/sys/net/unix/max_dgram_qlen", "w") as file:
        attempt("sysctl", lambda: (file.write("77"), file.flush()))
elif what == "look-network":
    report("label", "ok" if " " in read("/proc/self/net/ip6_flowlabel").partition("\n")[2] else "none")
    routes = read("/proc/self/net/fib_trie") if os.path.exists("/proc/self/net/fib_trie") else ""
    report("address", "ok" if "10.9.8.7" in routes else "none")
    path = "/proc/sys/net/unix/max_dgram_qlen"
    report("sysctl", read(path).strip() if os.path.exists(path) else "hidden")
    report("sockets", read("/proc/self/net/sockstat").splitlines()[0])
    with socket.socket(socket.AF_INET) as client:
        attempt("loopback", client.connect, ("127.0.0.1", 9))
elif what == "descriptors":
    found = []
    for number in range(3, 2048):
        try:
            os.fstat(number)
        except OSError as error:
            assert error.errno == errno.EBADF
            continue
        found.append(number)
    report("found", " ".join(map(str, found)) or "none")
    if 96 in found:
        with socket.socket(fileno=os.dup(96)) as requests:
            attempt("request", requests.send, b"x" * 16)
elif what == "kill":
    attempt("kill", os.kill, -1, 9)
    attempt("signal-1", os.kill, 1, 9)
    report("after", "alive")
elif what == "look-proc":
    attempt("umount", call, "umount2", b"/proc", 2)
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    report("pids", " ".join(map(str, pids)))
    report("neighbour", "seen" if any(b"sleep" in open(f"/proc/{pid}/cmdline", "rb").read() for pid in pids) else "none")
elif what == "watches":
    made = []
    try:
        while len(made) < 200:
            made.append(call("inotify_init1", 0))
    except OSError as error:
        report("error", errno.errorcode[error.errno])
    report("made", len(made))
    sys.stdin.read()
elif what == "lock":
    import fcntl

    with open(rest[0]) as file:
        attempt("lock", fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sys.stdin.read()
