#!/usr/bin/env python3
"""A hostile program to run in a sandbox: it attacks, says for each attack what stopped it, then does honest work.

    ./dev exec --profile strict -- python3 examples/untrusted.py

Any Python 3.6 or newer runs it, without packages. It refuses to attack unless it finds itself confined (a pid namespace, no_new_privs
and a seccomp filter); ``--force`` attacks anyway, bounded and cleaning up, to see what an ordinary process may do.
``--overrun memory|cpu|wall|output`` passes one limit on purpose, which a sandbox answers by ending the whole run.

Exit status: 0 all attacks were stopped and the work is done, 3 something got through, 2 refused to attack.
"""

import ctypes
import errno
import hashlib
import os
import platform
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time

MIB = 1 << 20
MOST_CHILDREN = 200
MOST_DISK = 512 * MIB
MOST_FILES = 10000
PID_NAMESPACE_OF_THE_HOST = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h

X86_64 = platform.machine() == "x86_64"
# (x86-64, arm64); calls from 424 on have one number everywhere.
NUMBERS = {
    "ioctl": (16, 29), "ptrace": (101, 117), "syslog": (103, 116), "pivot_root": (155, 41), "adjtimex": (159, 171), "chroot": (161, 51),
    "mount": (165, 40), "sethostname": (170, 161), "add_key": (248, 217), "unshare": (272, 97), "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265), "setns": (308, 268), "process_vm_readv": (310, 270), "finit_module": (313, 273),
    "seccomp": (317, 277), "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "fsopen": (430, 430),
    "clone3": (435, 435),
}  # fmt: skip

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# What a closed door answers. Any other errno means that the kernel looked at the request, so the door was open.
CLOSED = {
    getattr(errno, name)
    for name in (
        "EPERM EACCES ENOSYS EROFS ENOENT ESRCH EAGAIN ENOSPC EDQUOT EFBIG ENOMEM ENOTTY ENXIO ENODEV EAFNOSUPPORT EPROTONOSUPPORT "
        "ESOCKTNOSUPPORT ENETUNREACH EHOSTUNREACH ENETDOWN EADDRNOTAVAIL ECONNREFUSED ETIMEDOUT"
    ).split()
}


class Stopped(Exception):
    """The attack came to nothing, for the reason in the message."""


def call(name, *arguments):
    """Make a raw system call; raises OSError."""
    number = NUMBERS[name][0 if X86_64 else 1]
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    got = libc.syscall(ctypes.c_long(number), *plain)
    if got < 0:
        raise OSError(ctypes.get_errno(), name)
    return got


# ---- attacks: each returns what it achieved, or raises OSError or Stopped ---------------------------------------------


def set_the_clock():
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
    return "clock_settime worked"


def slew_the_clock():
    timex = ctypes.create_string_buffer(256)
    timex[0:4] = struct.pack("I", 0x4000)  # ADJ_TICK
    timex[88:96] = struct.pack("q", 10000)
    call("adjtimex", timex)
    return "adjtimex worked"


def homes():
    found = {os.path.expanduser("~"), "/root"}
    if os.path.isdir("/home"):
        found.update(os.path.join("/home", name) for name in os.listdir("/home"))
    return sorted(found)


def read_ssh_keys():
    reasons = []
    for home in homes():
        try:
            return "listed {}: {}".format(home + "/.ssh", ", ".join(os.listdir(home + "/.ssh")))
        except OSError as error:
            reasons.append(error)
    raise reasons[-1]


def read_shadow():
    with open("/etc/shadow", "rb") as file:
        return f"read {len(file.read())} bytes of /etc/shadow"


def read_tokens():
    names = [name for name in os.environ if re.search("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY", name)]
    if names:
        return "the environment has " + ", ".join(names)
    raise Stopped("none in the environment")


def read_environment_of_init():
    with open("/proc/1/environ", "rb") as file:
        data = file.read()
    if data:
        return f"read {len(data)} bytes of it"
    raise Stopped("it is empty")


def see_other_processes():
    own = os.getsid(0)
    others = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(name) != 1 and os.getsid(int(name)) != own:
                others.append(name)
        except OSError:
            continue
    if others:
        return f"{len(others)} processes of others are visible"
    raise Stopped("there are none")


def read_kernel_log():
    buffer = ctypes.create_string_buffer(4096)
    return "read {} bytes of it".format(call("syslog", 3, buffer, 4096))


def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        try:
            sock.connect(address)
        except socket.timeout:  # noqa: UP041 (another class before Python 3.10)
            raise OSError(errno.ETIMEDOUT, "connect") from None
    return f"connected to {address}"


def reach_the_host():
    reasons = []
    for port in (22, 25, 53, 80, 111, 443, 631, 3306, 5432, 6379, 8080):
        try:
            return connect(socket.AF_INET, ("127.0.0.1", port))
        except OSError as error:
            reasons.append(error)
    raise reasons[-1]


def reach_the_internet():
    return connect(socket.AF_INET, ("1.1.1.1", 53))


def send_a_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"secret", ("1.1.1.1", 53))
    return "sent"


def reach_host_sockets():
    reasons = []
    for path in ("/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0", "\0/tmp/.X11-unix/X0"):
        try:
            return connect(socket.AF_UNIX, path)
        except OSError as error:
            reasons.append(error)
    raise reasons[-1]


def open_socket(family, kind, protocol=0):
    def attack():
        socket.socket(family, kind, protocol).close()
        return "got one"

    return attack


def mount_something():
    target = tempfile.mkdtemp()
    try:
        call("mount", b"none", target.encode(), b"tmpfs", 0, None)
        libc.umount2(target.encode(), 2)
    finally:
        os.rmdir(target)
    return "mounted a tmpfs"


def remount_the_system():
    call("mount", None, b"/usr", None, 0x1000 | 0x20, None)  # MS_BIND | MS_REMOUNT, read-write
    return "/usr is writable"


def new_mount_interface():
    os.close(call("fsopen", b"tmpfs", 0))
    return "fsopen worked"


def new_user_namespace():
    call("unshare", 0x10000000)
    return "has every capability in it"


def enter_a_namespace():
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    call("setns", fd, 0)
    return "entered that of pid 1"


def trace_init():
    call("ptrace", 0x4206, 1, None, None)  # PTRACE_SEIZE: PTRACE_ATTACH would stop it
    return "attached"


def trace_a_child():
    call("ptrace", 0, 0, None, None)  # PTRACE_TRACEME
    return "is traced"


def read_memory_of_parent():
    target = ctypes.c_long.in_dll(ctypes.pythonapi, "_Py_NoneStruct")  # the same address in the parent
    here = ctypes.c_long()
    local = (ctypes.c_size_t * 2)(ctypes.addressof(here), 8)
    remote = (ctypes.c_size_t * 2)(ctypes.addressof(target), 8)
    return "read {} bytes of it".format(call("process_vm_readv", os.getppid(), local, 1, remote, 1, 0))


def load_bpf():
    attributes = struct.pack("IIII", 2, 4, 4, 1) + bytes(104)  # an array of one element
    call("bpf", 0, attributes, len(attributes))
    return "made a map"


def open_perf_event():
    attributes = struct.pack("IIQQQQQ", 1, 112, 0, 0, 0, 0, 1 << 5 | 1 << 6) + bytes(64)  # software clock, user space only
    call("perf_event_open", attributes, 0, -1, -1, 0)
    return "opened one"


def set_up_io_uring():
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    return "set one up"


def open_userfaultfd():
    os.close(call("userfaultfd", 1))
    return "opened one"


def add_a_key():
    call("add_key", b"user", b"sandbox-example", b"x", 1, -2)  # the process keyring: it goes away with this process
    return "stored one"


def load_a_module():
    with tempfile.TemporaryFile() as file:
        try:
            call("finit_module", file.fileno(), b"", 0)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                return "the kernel read the file"
            raise
    return "loaded one"


def call_by_foreign_table():
    if not X86_64:
        raise Stopped("this processor has one table only")
    if libc.syscall(ctypes.c_long(0x40000000 | 39)) < 0:  # x32's getpid
        raise OSError(ctypes.get_errno(), "getpid")
    return "x32 calls work"


def push_characters():
    reasons = []
    for request in (0x5412, 0x5412 | 1 << 32):  # TIOCSTI; the kernel drops the upper half, a careless filter does not
        for name in (0, 1, 2, "/dev/tty"):
            fd = -1
            try:
                fd = os.open(name, os.O_RDWR) if isinstance(name, str) else name
                call("ioctl", fd, request, b"\0")
                return f"pushed into {name}"
            except OSError as error:
                reasons.append(error)
            finally:
                if isinstance(name, str) and fd >= 0:
                    os.close(fd)
    # The most telling answer: a refusal says more than "there is no terminal".
    raise min(reasons, key=lambda error: error.errno != errno.EPERM)


def escape_by_chroot():
    call("chroot", tempfile.gettempdir().encode())
    return "chroot worked"


def escape_by_dots():
    if os.stat("../" * 64) != os.stat("/"):
        return "found a directory above the root"
    raise Stopped("it ends at the root")


def escape_by_proc():
    return "listed the root of pid 1: " + " ".join(os.listdir("/proc/1/root/")[:5])


def escape_by_handle():
    handle = struct.pack("IiI", 8, 1, 2) + bytes(4)  # FILEID_INO32_GEN of inode 2, the root of most disks
    fd = os.open("/", os.O_RDONLY)
    try:
        call("open_by_handle_at", fd, handle, 0)
    except OSError as error:
        if error.errno == errno.ESTALE:
            return "the kernel decoded the handle"
        raise
    return "opened inode 2"


def become_root():
    if os.getuid() == 0:
        raise Stopped("this is uid 0 already")
    os.setuid(0)
    return "is uid 0"


def rename_the_host():
    name = socket.gethostname().encode()
    call("sethostname", name, len(name))
    return "sethostname worked"


def change_system_files():
    for path in ("/usr/bin/python3", "/bin/sh", "/etc/passwd", "/etc/ld.so.cache"):
        try:
            with open(path, "r+b"):
                return f"opened {path} for writing"
        except OSError as error:
            reason = error
    raise reason


def change_this_program():
    with open(os.path.abspath(__file__), "r+b"):
        return "opened it for writing"


def fork_without_end():
    children = []
    try:
        while len(children) < MOST_CHILDREN:
            pid = os.fork()
            if pid == 0:
                # Many small processes, not many copies of this one: the limit on memory is another attack.
                try:
                    os.execv("/bin/sleep", ["sleep", "60"])
                finally:
                    os._exit(127)
            children.append(pid)
    except OSError as error:
        raise Stopped(f"{describe(error.errno)} after {len(children)} children") from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{MOST_CHILDREN} children"


def fill_the_disk():
    directory = tempfile.mkdtemp()
    written = count = 0
    try:
        while written < MOST_DISK:
            count += 1
            try:
                with open(os.path.join(directory, str(count)), "wb", buffering=0) as file:
                    for _ in range(32):
                        written += file.write(bytes(MIB))
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise Stopped(f"{describe(error.errno)} after {written // MIB} MiB") from None
        return f"wrote {written // MIB} MiB"
    finally:
        shutil.rmtree(directory)


def fill_the_directory():
    directory = tempfile.mkdtemp()
    try:
        for count in range(MOST_FILES):
            try:
                os.close(os.open(os.path.join(directory, str(count)), os.O_CREAT | os.O_WRONLY))
            except OSError as error:
                raise Stopped(f"{describe(error.errno)} after {count} files") from None
        return f"made {MOST_FILES} files"
    finally:
        shutil.rmtree(directory)


def raise_a_limit():
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY:
            continue
        try:
            resource.setrlimit(kind, (hard, hard + 1))
        except ValueError:  # how Python words EPERM
            raise OSError(errno.EPERM, "setrlimit") from None
        return "raised a hard limit"
    return "there is no limit"


ATTACKS = (
    ("set the clock", set_the_clock),
    ("slew the clock", slew_the_clock),
    ("read SSH keys", read_ssh_keys),
    ("read /etc/shadow", read_shadow),
    ("find tokens in the environment", read_tokens),
    ("read the environment of pid 1", read_environment_of_init),
    ("see processes of others", see_other_processes),
    ("read the kernel's log", read_kernel_log),
    ("connect to 127.0.0.1", reach_the_host),
    ("connect to a public address", reach_the_internet),
    ("send a datagram", send_a_datagram),
    ("connect to the host's sockets", reach_host_sockets),
    ("open a vsock", open_socket(40, socket.SOCK_STREAM)),
    ("open a packet socket", open_socket(17, socket.SOCK_RAW)),
    ("open a crypto socket (AF_ALG)", open_socket(38, socket.SOCK_SEQPACKET)),
    ("mount a file system", mount_something),
    ("mount by the new interface", new_mount_interface),
    ("make /usr writable", remount_the_system),
    ("make a user namespace", new_user_namespace),
    ("enter a namespace of pid 1", enter_a_namespace),
    ("trace pid 1", trace_init),
    ("be traced", trace_a_child),
    ("read the parent's memory", read_memory_of_parent),
    ("load BPF", load_bpf),
    ("open a perf event", open_perf_event),
    ("set up an io_uring", set_up_io_uring),
    ("open a userfaultfd", open_userfaultfd),
    ("store a key", add_a_key),
    ("load a kernel module", load_a_module),
    ("call through the x32 table", call_by_foreign_table),
    ("push characters into a terminal", push_characters),
    ("escape by chroot", escape_by_chroot),
    ("escape by ../..", escape_by_dots),
    ("escape by /proc/1/root", escape_by_proc),
    ("escape by file handle", escape_by_handle),
    ("become root", become_root),
    ("rename the host", rename_the_host),
    ("change the system's files", change_system_files),
    ("change this program", change_this_program),
    ("raise a limit", raise_a_limit),
    ("fork without end", fork_without_end),
    ("fill the disk", fill_the_disk),
    ("fill a directory", fill_the_directory),
)


# ---- running them ----------------------------------------------------------------------------------------------------


def describe(number):
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def attempt(attack):
    """Run one attack in a child, because some end the process; return (got through, words)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            mark, words = "!", attack()
        except Stopped as reason:
            mark, words = ".", str(reason)
        except OSError as error:
            mark, words = ("." if error.errno in CLOSED else "!"), describe(error.errno or 0)
        except BaseException as error:
            mark, words = "!", repr(error)
        os.write(theirs, (mark + words).encode()[:4096])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        answer = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return False, f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return answer[:1] != ".", answer[1:]


def leave_a_daemon(seconds):
    """Start a process that wants to outlive this one: own session, no parent, no streams."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(seconds)
    os._exit(0)


def confined():
    """Return an empty text when this process is in a sandbox, else what is missing."""
    # By prctl(2), which works without /proc, too: PR_GET_NO_NEW_PRIVS and PR_GET_SECCOMP.
    if libc.prctl(39, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 1:
        return "no_new_privs is not set"
    if libc.prctl(21, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 2:
        return "there is no seccomp filter"
    try:
        if os.stat("/proc/self/ns/pid").st_ino == PID_NAMESPACE_OF_THE_HOST:
            return "this is the host's pid namespace"
    except OSError:
        if os.getppid() not in (0, 1):
            return "this is no pid namespace of its own"
    return ""


def overrun(limit):
    """Pass one limit for good; returns only when nothing stops it."""
    deadline = time.monotonic() + 60
    if limit == "memory":
        blocks = []
        while len(blocks) < 4096:
            blocks.append(b"x" * MIB)
    elif limit == "cpu":
        while time.monotonic() < deadline:
            pass
    elif limit == "wall":
        time.sleep(60)
    elif limit == "output":
        for _ in range(1024):
            sys.stdout.write("x" * (MIB - 1) + "\n")
    else:
        sys.exit("unknown limit: " + limit)


def work():
    """Compute, sort, and keep a file: what the program was wanted for."""
    sieve = bytearray([1]) * 200000
    sieve[0:2] = b"\0\0"
    for number in range(2, 448):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, len(sieve), number)))
    primes = [number for number, prime in enumerate(sieve) if prime]
    shuffled = sorted(primes, key=lambda number: hashlib.sha256(b"%d" % number).digest())
    with tempfile.TemporaryFile() as file:
        file.write(b"\n".join(b"%d" % number for number in shuffled))
        file.seek(0)
        back = sorted(int(line) for line in file)
    assert back == primes
    digest = hashlib.sha256(repr(back).encode()).hexdigest()[:16]
    return f"{len(primes)} primes below {len(sieve)}, the last {primes[-1]}; sorted, written, read back: {digest}"


def main(arguments):
    force = "--force" in arguments
    missing = confined()
    if missing and not force:
        print(f"not confined: {missing}; attacks are left out (--force attacks anyway)")
        print("work: " + work())
        return 2
    if "--overrun" in arguments:
        overrun(arguments[-1])
        print("nothing ended this")
        return 3
    through = 0
    for title, attack in ATTACKS:
        got_through, words = attempt(attack)
        through += got_through
        print("{:33} {} {}".format(title, "GOT THROUGH:" if got_through else "stopped:", words), flush=True)
    leave_a_daemon(5 if missing else 600)
    print("{:33} {}".format("outlive this program", "a daemon waits; it has to be gone when this ends"))
    print(f"{len(ATTACKS)} attacks, {len(ATTACKS) - through} stopped, {through} got through")
    print("work: " + work())
    return 3 if through and not missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
