"""Looks for a way from a root of layers to what it is made of: mount tables, links, sockets, FIFOs, attributes of overlayfs, devices, set-id files.

Arguments: words that must not be in a mount table; what is at fixed paths is the test's.
"""

import errno
import os
import socket
import stat
import subprocess
import sys

from attack import attempt, report

words = sys.argv[1:]


def read(path):
    with open(path, "rb") as file:
        return file.read()


seen = b"".join(read(f"/proc/self/{name}") for name in ("mountinfo", "mounts") if os.path.exists(f"/proc/self/{name}"))
report("mount-words", ",".join(word for word in words if os.fsencode(word) in seen) or "none")
root = [line for line in seen.decode("utf-8", "replace").splitlines() if " / / " in line or " / overlay " in line]
report("root-line", root[0] if root else "none")


def look(path):
    try:
        return read(path).decode("utf-8", "replace").strip() or "empty"
    except OSError as error:
        return errno.errorcode[error.errno]


for name in ("absolute", "relative", "up"):
    report(f"link-{name}", look(f"/trap/{name}"))
report("through-proc", look("/proc/1/root/etc/issue"))
report("dotdot", os.path.samefile("/", "/.."))


def reach():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/trap/socket")
        sock.sendall(b"hello")


attempt("socket", reach)


def fill():
    fd = os.open("/trap/fifo", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fd, b"hello")
    finally:
        os.close(fd)


attempt("fifo", fill)
os.mkdir("/trap/dir")
attempt("xattr-opaque", os.setxattr, "/trap/dir", "user.overlay.opaque", b"y")
attempt("xattr-redirect", os.setxattr, "/trap/dir", "user.overlay.redirect", b"/etc")
attempt("xattr-trusted", os.setxattr, "/trap/dir", "trusted.overlay.opaque", b"y")
attempt("xattr-capability", os.setxattr, "/trap/dir", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))
attempt("whiteout", os.mknod, "/trap/char", stat.S_IFCHR | 0o600, 0)
attempt("device", os.mknod, "/trap/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
attempt("block", os.mknod, "/trap/block", stat.S_IFBLK | 0o666, os.makedev(254, 0))
for name in ("char", "null", "real"):
    if os.path.lexists(f"/trap/{name}"):
        attempt(f"open-{name}", lambda name=name: os.close(os.open(f"/trap/{name}", os.O_RDWR)))
if os.path.exists("/trap/set-id"):
    done = subprocess.run(["/trap/set-id", "-I", "-S", "-c", "import os; print(os.geteuid())"], capture_output=True, text=True, check=False)
    report("set-id", done.stdout.strip() or done.stderr.strip())
report("euid", os.geteuid())
report("nosuid", bool(os.statvfs("/trap").f_flag & os.ST_NOSUID))
report("nodev", bool(os.statvfs("/trap").f_flag & os.ST_NODEV))
