"""Which system calls can do one another's work: the knowledge behind the lint's ``bypass-…`` warnings. Data only; imported by `lint.py` and tests.

A family's members share *meanings* (the flags of an open, the signal of a kill). A member says where each meaning stands: in an argument of that name, as a
constant in quotes of its own (creat(2) is an open with three flags), or out of a filter's sight (clone3's flags lie in memory), where it may be anything.
A meaning that a member does not list is out of sight, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.record import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One system call of a family.

    `arguments` maps meanings to argument names, `constants` meanings to what the call has built in; `where` restricts the calls that count, as a condition on
    its arguments. A member is warned about as the way round (`is_way`) and as what is refused (`is_guard`).
    """

    syscall: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    is_guard: bool = True
    is_way: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """System calls that can do one another's work. `masks` are the bits of a meaning that count, `domain` the values of it that do ("" for all but 0)."""

    id: str
    what: str
    members: tuple[Member, ...]
    advice: str
    masks: Mapping[str, str] = field(default_factory=dict)
    domain: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _plain(*names: str, guards: bool = True, ways: bool = True, arguments: tuple[str, ...] = ()) -> tuple[Member, ...]:
    same = {name: name for name in arguments}
    return tuple(Member(syscall=name, arguments=same, is_guard=guards, is_way=ways) for name in names)


def _flag(name: str, constant: str = "") -> Member:
    """Return a member whose `flags` are an argument, or built in."""
    return Member(syscall=name, constants={"flags": constant}) if constant else Member(syscall=name, arguments={"flags": "flags"})


_BOTH = "decide all of them alike, or refuse the one that sees less"

_RING = (
    "open openat creat socket connect bind listen accept accept4 sendto sendmsg recvfrom recvmsg shutdown setsockopt read readv pread64 "
    "preadv preadv2 write writev pwrite64 pwritev pwritev2 rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat link linkat symlink symlinkat "
    "fallocate ftruncate fsync fdatasync sync_file_range statx setxattr fsetxattr getxattr fgetxattr splice tee epoll_ctl epoll_wait epoll_pwait madvise "
    "fadvise64 waitid futex pipe2 close poll ppoll"
).split()

FAMILIES = (
    Family(
        id="bypass-open",
        what="open files",
        members=(
            Member(syscall="open", arguments={"flags": "flags", "mode": "mode"}),
            Member(syscall="openat", arguments={"flags": "flags", "mode": "mode"}),
            Member(syscall="openat2", is_guard=False),  # to refuse what cannot be seen, and not the rest, is sound
            Member(syscall="creat", arguments={"mode": "mode"}, constants={"flags": "O_CREAT | O_WRONLY | O_TRUNC"}),
            Member(syscall="open_by_handle_at", arguments={"flags": "flags"}, is_guard=False),
        ),
        advice="open, openat, openat2, creat and open_by_handle_at all open files, and openat2's flags lie in memory: " + _BOTH,
        masks={"flags": "O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_DIRECTORY | O_NOFOLLOW | O_PATH"},
    ),
    Family(
        id="bypass-io-uring",
        what="do the same in a ring",
        members=(*_plain(*_RING, ways=False), *_plain("io_uring_setup", guards=False)),
        advice="requests in an io_uring are no system calls, so no filter sees them: refuse io_uring_setup",
    ),
    Family(
        id="bypass-namespace",
        what="make or join namespaces",
        members=(
            Member(syscall="clone", arguments={"kinds": "flags"}),
            Member(syscall="clone3", is_guard=False),
            Member(syscall="unshare", arguments={"kinds": "flags"}),
            Member(syscall="setns", is_guard=False),
        ),
        advice="clone3's flags lie in memory: answer it with errno ENOSYS, so that libc uses clone, and treat clone, unshare and setns alike",
        masks={"kinds": "CLONE_NEWNS|CLONE_NEWCGROUP|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWUSER|CLONE_NEWPID|CLONE_NEWNET"},
        domain={"kinds": ()},
    ),
    Family(
        id="bypass-fork",
        what="make processes",
        members=(
            Member(syscall="clone", arguments={"flags": "flags"}),
            Member(syscall="clone3", is_guard=False),
            Member(syscall="fork", constants={"flags": "SIGCHLD"}),
            Member(syscall="vfork", constants={"flags": "CLONE_VM | CLONE_VFORK | SIGCHLD"}),
        ),
        advice="fork and vfork are clones with fixed flags, and clone3's lie in memory: " + _BOTH,
        masks={"flags": "CLONE_VM | CLONE_VFORK | CLONE_THREAD"},
    ),
    Family(
        id="bypass-signal",
        what="send signals",
        members=(
            Member(syscall="kill", arguments={"pid": "pid", "sig": "sig"}),
            Member(syscall="tkill", arguments={"sig": "sig"}),
            Member(syscall="tgkill", arguments={"pid": "tgid", "sig": "sig"}),
            Member(syscall="rt_sigqueueinfo", arguments={"pid": "pid", "sig": "sig"}),
            Member(syscall="rt_tgsigqueueinfo", arguments={"pid": "tgid", "sig": "sig"}),
            Member(syscall="pidfd_send_signal", arguments={"sig": "sig"}),
        ),
        advice="every one of them reaches another process: " + _BOTH + "; a pid namespace is the wall, not this rule",
    ),
    Family(
        id="bypass-read",
        what="read",
        members=_plain("read", "pread64", "readv", "preadv", "preadv2"),
        advice="the launch itself needs read, so refusing the others takes nothing away",
    ),
    Family(
        id="bypass-write",
        what="write",
        members=_plain("write", "pwrite64", "writev", "pwritev", "pwritev2"),
        advice="the launch itself needs write, so refusing the others takes nothing away",
    ),
    Family(id="bypass-stat", what="ask about files", members=_plain("stat", "lstat", "fstat", "newfstatat", "statx"), advice=_BOTH),
    Family(
        id="bypass-chmod",
        what="change modes",
        members=_plain("chmod", "fchmod", "fchmodat", "fchmodat2", arguments=("mode",)),
        advice=_BOTH,
    ),
    Family(
        id="bypass-chown",
        what="change owners",
        members=_plain("chown", "lchown", "fchown", "fchownat", arguments=("user", "group")),
        advice=_BOTH,
    ),
    Family(id="bypass-rename", what="rename", members=(_flag("rename", "0"), _flag("renameat", "0"), _flag("renameat2")), advice=_BOTH),
    Family(
        id="bypass-unlink",
        what="remove names",
        members=(_flag("unlink", "0"), _flag("rmdir", "AT_REMOVEDIR"), _flag("unlinkat")),
        advice=_BOTH,
    ),
    Family(id="bypass-mkdir", what="make directories", members=_plain("mkdir", "mkdirat", arguments=("mode",)), advice=_BOTH),
    Family(id="bypass-mknod", what="make nodes", members=_plain("mknod", "mknodat", arguments=("mode", "dev")), advice=_BOTH),
    Family(id="bypass-link", what="link", members=_plain("link", "linkat"), advice=_BOTH),
    Family(id="bypass-symlink", what="make symbolic links", members=_plain("symlink", "symlinkat"), advice=_BOTH),
    Family(id="bypass-times", what="set times", members=_plain("utime", "utimes", "futimesat", "utimensat"), advice=_BOTH),
    Family(id="bypass-xattr", what="set attributes", members=_plain("setxattr", "lsetxattr", "fsetxattr", "setxattrat"), advice=_BOTH),
    Family(id="bypass-truncate", what="cut files", members=_plain("truncate", "ftruncate"), advice=_BOTH),
    Family(
        id="bypass-mount",
        what="change mounts",
        members=_plain("mount", "move_mount", "fsopen", "fspick", "fsconfig", "fsmount", "open_tree", "open_tree_attr", "mount_setattr"),
        advice="mount(2) and the calls by descriptor (fsopen, fsmount, move_mount, open_tree, mount_setattr) do the same: refuse all",
    ),
    Family(
        id="bypass-trace",
        what="read or steer other processes",
        members=(*_plain("ptrace", "process_vm_readv", "process_vm_writev"), *_plain("pidfd_getfd", guards=False)),
        advice="refuse ptrace, process_vm_readv, process_vm_writev and pidfd_getfd together",
    ),
    Family(
        id="bypass-exec",
        what="execute programs",
        members=(*_plain("execveat", ways=False), *_plain("execve", guards=False)),
        advice="the launch itself needs execve, and `/proc/self/fd/N` names a descriptor: refusing execveat takes nothing away",
    ),
    Family(
        id="bypass-clock",
        what="set the clock",
        members=_plain("clock_settime", "settimeofday", "adjtimex", "clock_adjtime"),
        advice="refuse all four: whether adjtimex and clock_adjtime set or ask lies in memory",
    ),
    Family(
        id="bypass-socket",
        what="make a datagram socket",
        members=(
            Member(syscall="socket", arguments={"family": "family", "type": "type"}, is_way=False),
            Member(syscall="socketpair", arguments={"family": "family", "type": "type"}, is_guard=False),
        ),
        advice="one end of a pair of datagram sockets sends to any address: allow pairs of SOCK_STREAM and SOCK_SEQPACKET only",
        masks={"type": "0xf"},
        domain={"type": ("SOCK_DGRAM", "SOCK_RAW"), "family": ("AF_UNIX",)},
    ),
    Family(
        id="bypass-message",
        what="send messages",
        members=_plain("sendto", "sendmsg", "sendmmsg", arguments=("flags",)),
        advice=_BOTH,
    ),
    Family(id="bypass-accept", what="accept connections", members=(_flag("accept", "0"), _flag("accept4")), advice=_BOTH),
    Family(
        id="bypass-limit",
        what="set limits",
        members=(
            Member(syscall="setrlimit", arguments={"resource": "resource"}),
            Member(syscall="prlimit64", arguments={"resource": "resource"}, where="new_rlim != 0"),
        ),
        advice="prlimit64 sets limits, too: condition both on `resource`",
    ),
    Family(
        id="bypass-priority",
        what="change scheduling",
        members=(*_plain("setpriority", "sched_setscheduler", "sched_setparam", ways=False), *_plain("sched_setattr", guards=False)),
        advice="sched_setattr sets niceness, policy and priority, all in memory: refuse it",
    ),
    Family(
        id="bypass-protection",
        what="change what memory may do",
        members=(
            *_plain("mmap", "mprotect", "pkey_mprotect", arguments=("prot",)),
            Member(syscall="shmat", constants={"prot": "PROT_READ | PROT_WRITE | PROT_EXEC"}, where="shmflg & SHM_EXEC != 0", is_guard=False),
        ),
        advice="a mapping's protection can be given by mmap, mprotect and pkey_mprotect, and by shmat with SHM_EXEC: treat all alike",
        masks={"prot": "PROT_READ | PROT_WRITE | PROT_EXEC"},
    ),
    Family(
        id="bypass-huge-pages",
        what="take huge pages",
        members=(
            Member(syscall="memfd_create", constants={"huge": "1"}, where="flags & MFD_HUGETLB != 0"),
            Member(syscall="mmap", constants={"huge": "1"}, where="flags & MAP_HUGETLB != 0"),
            Member(syscall="shmget", constants={"huge": "1"}, where="shmflg & SHM_HUGETLB != 0", is_guard=False),
        ),
        advice="mmap, memfd_create and shmget take from one pool of the host's: put a condition on the flag of each",
    ),
    Family(
        id="bypass-kernel",
        what="load kernel code",
        members=_plain("init_module", "finit_module", "kexec_load", "kexec_file_load"),
        advice="refuse all four",
    ),
    Family(
        id="bypass-filter",
        what="install a filter",
        members=(
            Member(syscall="seccomp", arguments={"op": "op", "flags": "flags"}, is_way=False),
            Member(
                syscall="prctl", constants={"op": "SECCOMP_SET_MODE_FILTER", "flags": "0"}, where="option == PR_SET_SECCOMP", is_guard=False
            ),
        ),
        advice="prctl(PR_SET_SECCOMP) installs filters, too: refuse that option",
    ),
)

PROBED = (
    "io_uring_setup", "clone3", "rseq", "set_robust_list", "statx", "faccessat2", "openat2", "close_range", "membarrier", "getrandom", "memfd_create",
    "landlock_create_ruleset", "pidfd_open", "epoll_pwait2", "copy_file_range", "preadv2", "prlimit64", "arch_prctl", "renameat2", "map_shadow_stack",
)  # fmt: skip
"""What libc and language runtimes try at every start, ready for a no."""

BLIND = {
    "clone3": "its flags",
    "openat2": "its flags and mode",
    "connect": "the address",
    "bind": "the address",
    "adjtimex": "whether it sets the clock",
    "clock_adjtime": "whether it sets the clock",
    "sched_setattr": "what it sets",
    "mount_setattr": "what it changes",
}
"""System calls whose decisive argument is a pointer, with what is behind it."""
