"""Trials: short experiments, each in a forked child of its own, that a kernel feature works for this user.

A trial is a function that returns a word on what it saw or raises (mostly `OSError`); whatever it changes (namespaces, filters, rules,
mounts) dies with the child. Only `probe_deep` and tests may import this: it forks, so it is not for threaded programs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Callable

from sandbox.kernel import probe_calls as calls
from sandbox.record import dataclass

_DEADLINE_MS = 10_000
_ALL = calls.CLONE_NEWPID | calls.CLONE_NEWIPC | calls.CLONE_NEWUTS | calls.CLONE_NEWCGROUP


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended: `errno` 0 and a `detail`, or the errno and the failed call's words in `detail`."""

    errno: int = 0
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the trial succeeded."""
        return self.errno == 0


def try_in_child(trial: Callable[[], str]) -> Outcome:
    """Run a trial in a forked child and return how it ended; a child that hangs for 10 s is killed (ETIMEDOUT)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # whatever happens the child must not return into the caller's code
        try:
            os.close(reader)
            calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.write(writer, _encode(trial))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        in_time = bool(poll.poll(_DEADLINE_MS))
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        data = os.read(reader, 4096) if in_time else b""
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if not in_time:
        return Outcome(errno=errno.ETIMEDOUT, detail="no answer in 10 s")
    if not data:
        return Outcome(
            errno=errno.EIO, detail=f"the trial was killed by signal {status & 0x7F}" if status & 0x7F else "the trial gave no answer"
        )
    number, _, detail = data.decode("utf-8", "replace").partition("\0")
    return Outcome(errno=int(number), detail=detail)


def _encode(trial: Callable[[], str]) -> bytes:
    try:
        return f"0\0{trial()}".encode("utf-8", "replace")[:4000]
    except OSError as error:
        return f"{error.errno or errno.EIO}\0{error.strerror or error}".encode("utf-8", "replace")[:4000]
    except Exception as error:
        return f"{errno.EIO}\0{type(error).__name__}: {error}".encode("utf-8", "replace")[:4000]


def enter_user_namespace(flags: int = 0) -> None:
    """Enter a new user namespace, with `flags` namespaces in the same call, and map the caller's ids to themselves."""
    uid, gid = os.geteuid(), os.getegid()
    calls.unshare(calls.CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1\n"), ("gid_map", f"{gid} {gid} 1\n")):
        _write(f"/proc/self/{name}", text)


def user_namespace() -> str:
    """Make a user namespace, map the ids and use a capability in it (AppArmor may grant the first and refuse the rest)."""
    enter_user_namespace()
    calls.unshare(calls.CLONE_NEWUTS)
    socket.sethostname("probe")
    return "created, ids mapped, capabilities usable"


def clone3_call() -> str:
    """Ask clone3 for nothing: EINVAL means that it is there, ENOSYS that a filter hides it."""
    try:
        calls.raw("clone3", None, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return "answers"


def nested_user_namespace() -> str:
    """Make a second user namespace in the first: what locks the payload's mounts."""
    enter_user_namespace(calls.CLONE_NEWNS)
    enter_user_namespace(calls.CLONE_NEWNS)
    return "second user namespace inside the first"


def other_namespaces() -> str:
    """Make pid, ipc, uts and cgroup namespaces and be pid 1 in a child."""
    enter_user_namespace(_ALL)
    return _as_init(lambda: f"pid, ipc, uts, cgroup; child is pid {os.getpid()}")


def mounts() -> str:
    """Build a root of detached mounts and pivot into it, as a run does."""
    enter_user_namespace(calls.CLONE_NEWNS)
    tree = calls.open_tree("/usr")
    calls.mount_setattr(tree, calls.MOUNT_ATTR_RDONLY | calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV)
    null = calls.open_tree("/dev/null")
    root = calls.new_mount("tmpfs", {"size": "1m", "nr_inodes": "100", "mode": "0755"})
    calls.move_mount(root, "/tmp")
    os.fchdir(root)
    os.mkdir("usr")
    os.close(os.open("null", os.O_WRONLY | os.O_CREAT, 0o600))
    calls.move_mount(tree, "usr")
    calls.move_mount(null, "null")
    calls.pivot_root(".", ".")
    calls.umount2(".", calls.MNT_DETACH)
    os.chdir("/")
    with open("/null", "wb", buffering=0) as file:
        file.write(b"x")
    try:
        os.mkdir("/usr/x")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    else:
        raise OSError(errno.EIO, "a read-only mount was writable")
    return "tmpfs, recursive read-only, device nodes, pivot_root"


def mounts_without_pivot() -> str:
    """Move a mount over the root and chroot into it: the way where pivot_root is refused."""
    enter_user_namespace(calls.CLONE_NEWNS)
    root = calls.new_mount("tmpfs", {"size": "1m"})
    calls.move_mount(root, "/tmp")
    os.fchdir(root)
    calls.mount(".", "/", None, 8192)
    os.chroot(".")
    os.chdir("/")
    return "move-mount and chroot"


def fresh_proc(options: str = "", flags: int = 0) -> str:
    """Mount a procfs for a new pid namespace, with further mount flags."""
    enter_user_namespace(calls.CLONE_NEWNS | _ALL)

    def mount() -> str:
        calls.mount("proc", "/proc", "proc", calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC | flags, options or None)
        if os.readlink("/proc/self") != "1":
            raise OSError(errno.EIO, "the new /proc shows another pid namespace")
        return "mounted"

    return _as_init(mount)


def fresh_devpts() -> str:
    """Mount a devpts of one's own and open a pseudo terminal in it."""
    enter_user_namespace(calls.CLONE_NEWNS)
    calls.mount("devpts", "/tmp", "devpts", calls.MS_NOSUID | calls.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.close(os.open("/tmp/ptmx", os.O_RDWR | os.O_NOCTTY))
    return "own instance"


def overlay() -> str:
    """Mount an overlay with `userxattr` and delete a lower directory through it (needs user xattrs on tmpfs, Linux 6.6)."""
    enter_user_namespace(calls.CLONE_NEWNS)
    calls.mount("tmpfs", "/tmp", "tmpfs", 0, "size=1m")
    os.chdir("/tmp")
    for name in ("lower", "lower/d", "upper", "work", "merged"):
        os.mkdir(name)
    calls.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,userxattr")
    os.rmdir("merged/d")
    os.mkdir("merged/d")
    return "with whiteouts on tmpfs"


def network_namespace() -> str:
    """Make a network namespace and bring its loopback up."""
    enter_user_namespace(calls.CLONE_NEWNET)
    with socket.socket() as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh22x", b"lo", 0x41))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
        control.bind(("127.0.0.1", 0))
    return "loopback up"


def time_namespace() -> str:
    """Make a time namespace, shift its boot clock and read it back in a child."""
    enter_user_namespace(calls.CLONE_NEWTIME)
    _write("/proc/self/timens_offsets", "boottime 100000 0\n")

    def read() -> str:
        import time

        seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        if seconds < 100_000:
            raise OSError(errno.EIO, "the shifted clock was not seen")
        return "clock shifted"

    return _as_init(read)


def seccomp_filter() -> str:
    """Install a filter that gives getppid an errno of its own, and see it."""
    calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    calls.install_filter(filter_one_call("getppid", 0x00050000 | 77), 0)
    try:
        calls.raw("getppid")
    except OSError as error:
        if error.errno == 77:
            return "installed, answers"
        raise
    raise OSError(errno.EIO, "the filter had no effect")


def user_notification(flags: int = 0, *, isolated: bool = True, sync: bool = False) -> str:
    """Fetch a listener out of a child with pidfd_getfd and answer one call of it, as the supervisor does.

    Args:
        flags: further filter flags.
        isolated: put the child in a user namespace as a payload is (where Yama asks for less).
        sync: ask for synchronous wake-ups first.
    """
    ready, written = os.pipe()
    go, started = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 100
        try:
            if isolated:
                enter_user_namespace()
            calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
            fd = calls.install_filter(filter_one_call("getppid", 0x7FC00000), calls.SECCOMP_FILTER_FLAG_NEW_LISTENER | flags)
            os.write(written, struct.pack("ii", 0, fd))
            os.read(go, 1)
            try:
                calls.raw("getppid")
            except OSError as error:
                code = error.errno or 100
        except OSError as error:
            os.write(written, struct.pack("ii", error.errno or errno.EIO, 0))
        finally:
            os._exit(code)
    os.close(written)
    os.close(go)
    try:
        number, fd = struct.unpack("ii", os.read(ready, 8).ljust(8, b"\xff"))
        if number:
            raise OSError(number if number > 0 else errno.EIO, "seccomp(NEW_LISTENER)")
        pidfd = os.pidfd_open(pid)
        listener = calls.raw("pidfd_getfd", pidfd, fd, 0)
        if sync:
            fcntl.ioctl(listener, 0x40082104, 1)  # SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
        os.write(started, b"g")
        # 6.1 blocks in RECV for ever when the target is gone: never call it before poll says so
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        if not poll.poll(5000):
            raise OSError(errno.ETIMEDOUT, "no notification arrived")
        request = bytearray(80)
        fcntl.ioctl(listener, 0xC0502100, request)  # SECCOMP_IOCTL_NOTIF_RECV
        fcntl.ioctl(listener, 0xC0182101, bytearray(request[:8] + struct.pack("qiI", 0, -77, 0)))  # SECCOMP_IOCTL_NOTIF_SEND
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    if status != 77 << 8:
        raise OSError(errno.EIO, "the call did not get the supervisor's answer")
    return "listener fetched, call answered"


def landlock() -> str:
    """Forbid all opening of files for writing by Landlock and see it refused."""
    calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    calls.landlock_forbid_writing()
    try:
        os.close(os.open("/dev/null", os.O_WRONLY))
    except PermissionError:
        return "enforced"
    raise OSError(errno.EIO, "the ruleset had no effect")


def keyring() -> str:
    """Join a session keyring of one's own."""
    calls.raw("keyctl", calls.KEYCTL_JOIN_SESSION_KEYRING, None)
    return "own session keyring"


def perf_counter(kind: int, config: int) -> str:
    """Open a performance counter on oneself, user mode only."""
    os.close(calls.perf_event_open(kind, config))
    return "opens"


def id_range(commands: tuple[tuple[str, ...], ...]) -> str:
    """Map a range of ids for a child in a new user namespace: by newuidmap and newgidmap, or as root directly.

    Args:
        commands: the helpers' commands without the pid, which is inserted as the first argument; none for root.
    """
    ready, written = os.pipe()
    go, started = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(started)  # else this child would keep itself waiting when its parent has gone
            calls.unshare(calls.CLONE_NEWUSER)
            os.write(written, b"r")
            code = 0 if os.read(go, 1) and 65534 not in (os.getuid(), os.getgid()) else 2
        finally:
            os._exit(code)
    try:
        os.close(written)
        if not os.read(ready, 1):
            raise OSError(errno.EPERM, "unshare(CLONE_NEWUSER)")
        if not commands:
            for name in ("uid_map", "gid_map"):
                _write(f"/proc/{pid}/{name}", "0 0 1\n1 100000 65535\n")
        for command in commands:
            _run_helper((command[0], str(pid), *command[1:]))
        os.write(started, b"g")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if os.waitpid(pid, 0)[1]:
        raise OSError(errno.EIO, "the mapped ids were not seen inside")
    return "newuidmap and newgidmap work" if commands else "root maps ids itself"


def _run_helper(command: tuple[str, ...]) -> None:
    """Run a program to its end; its failure raises `OSError` with the first words it wrote."""
    output, answer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, answer, 1), (os.POSIX_SPAWN_DUP2, answer, 2)]
    helper = os.posix_spawn(command[0], command, {}, file_actions=actions)
    os.close(answer)
    text = os.read(output, 300).decode("utf-8", "replace").strip()
    os.close(output)
    if os.waitpid(helper, 0)[1]:
        raise OSError(errno.EPERM, text or f"{command[0]} failed")


def _as_init(action: Callable[[], str]) -> str:
    """Run an action in a further child (pid 1 of a new pid namespace) and hand its answer up."""
    outcome = try_in_child(action)
    if not outcome.ok:
        raise OSError(outcome.errno, outcome.detail)
    return outcome.detail


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def filter_one_call(name: str, action: int) -> bytes:
    """BPF: give one call an action, allow the others; other architectures are allowed, as this only ever filters a trial."""
    number, arch = calls.NUMBERS.get(name), calls.AUDIT_ARCH.get(os.uname().machine)
    if number is None or arch is None:
        raise OSError(errno.ENOSYS, f"seccomp: architecture {os.uname().machine} is not supported")
    rows = [(0x20, 0, 0, 4), (0x15, 0, 3, arch), (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("HBBI", *row) for row in rows)
