"""What the oracle knows of the kernel, written by hand from the manuals and headers, not taken from the product's tables.

Some forty syscalls with the width of each argument, and some sixty constants. A test holds these to `sandbox.abi`, so that an error on either side
shows.
"""

from __future__ import annotations

from collections.abc import Mapping

# name: argument:bits, in the order of the registers. `p` is a pointer, `c` a type that depends on the command, 64 bits each.
_SIGNATURES = """
socket       family:32 type:32 protocol:32
socketpair   family:32 type:32 protocol:32 sv:p
setsockopt   fd:32 level:32 optname:32 optval:p optlen:32
sendto       fd:32 buf:p len:64 flags:32 addr:p addrlen:32
ioctl        fd:32 cmd:32 arg:c
fcntl        fd:32 cmd:32 arg:c
mprotect     start:64 len:64 prot:64
mmap         addr:64 len:64 prot:64 flags:64 fd:32 offset:64
madvise      start:64 len:64 advice:32
fchmod       fd:32 mode:16
openat       dfd:32 filename:p flags:32 mode:16
mknodat      dfd:32 filename:p mode:16 dev:32
kill         pid:32 sig:32
prctl        option:32 arg2:c arg3:c arg4:c arg5:c
lseek        fd:32 offset:64 whence:32
pread64      fd:32 buf:p count:64 pos:64
readv        fd:32 vec:p vlen:64
personality  personality:32
futex        uaddr:p op:32 val:32 timeout:p uaddr2:p val3:32
close        fd:32
dup          fd:32
dup3         oldfd:32 newfd:32 flags:32
ptrace       request:64 pid:32 addr:c data:c
prlimit64    pid:32 resource:32 new_rlim:p old_rlim:p
setpriority  which:32 who:32 niceval:32
memfd_create name:p flags:32
seccomp      op:32 flags:32 args:p
unshare      flags:64
setns        fd:32 flags:32
statx        dfd:32 filename:p flags:32 mask:32 buffer:p
fadvise64    fd:32 offset:64 len:64 advice:32
shmget       key:32 size:64 shmflg:32
getrandom    buf:p len:64 flags:32
umask        mask:32
getpid
sync
sched_yield
"""

# clone's last two arguments change places between the architectures.
_CLONE = {
    "x86_64": "flags:32 stack:64 parent_tid:p child_tid:p tls:64",
    "aarch64": "flags:32 stack:64 parent_tid:p tls:64 child_tid:p",
}

# x86_64 only.
_OPEN = "filename:p flags:32 mode:16"

Argument = tuple[str, int, str]
"""name, bits that count, kind: `i` an integer, `p` a pointer, `c` by command."""


def _arguments(text: str) -> tuple[Argument, ...]:
    parts = (word.split(":") for word in text.split())
    return tuple((name, int(bits) if bits.isdigit() else 64, "i" if bits.isdigit() else bits) for name, bits in parts)


SIGNATURES: Mapping[str, Mapping[str, tuple[Argument, ...]]] = {
    arch: {
        **{line.split()[0]: _arguments(line.partition(" ")[2]) for line in _SIGNATURES.strip().splitlines()},
        "clone": _arguments(clone),
        **({"open": _arguments(_OPEN)} if arch == "x86_64" else {}),
    }
    for arch, clone in _CLONE.items()
}

_BOTH = """
AF_UNSPEC=0 AF_UNIX=1 AF_INET=2 AF_INET6=10 AF_NETLINK=16 AF_PACKET=17 AF_VSOCK=40 SOCK_STREAM=1 SOCK_DGRAM=2 SOCK_RAW=3 SOCK_SEQPACKET=5
SOCK_CLOEXEC=0x80000 SOCK_NONBLOCK=0x800 SOL_SOCKET=1 IPPROTO_TCP=6 TCGETS=0x5401 TIOCSTI=0x5412 TIOCLINUX=0x541c FIONREAD=0x541b F_DUPFD=0 F_GETFL=3
F_SETFL=4 F_SETLEASE=1024 PROT_READ=1 PROT_WRITE=2 PROT_EXEC=4 MAP_SHARED=1 MAP_PRIVATE=2 MAP_FIXED=0x10 MAP_ANONYMOUS=0x20 MADV_DONTNEED=4
CLONE_NEWUSER=0x10000000 CLONE_NEWNS=0x20000 CLONE_NEWPID=0x20000000 CLONE_NEWNET=0x40000000 CLONE_VM=0x100 CLONE_THREAD=0x10000 SIGKILL=9 SIGTERM=15
PR_SET_NAME=15 PR_SET_DUMPABLE=4 PR_SET_NO_NEW_PRIVS=38 SEEK_SET=0 SEEK_CUR=1 SEEK_END=2 FUTEX_WAIT=0 FUTEX_WAKE=1 FUTEX_PRIVATE_FLAG=128
RLIMIT_CORE=4 RLIMIT_NOFILE=7 PRIO_PROCESS=0 MFD_CLOEXEC=1 MFD_HUGETLB=4 PTRACE_TRACEME=0 S_IFMT=0o170000 S_IFREG=0o100000 S_IFIFO=0o10000
S_IFCHR=0o20000 AT_FDCWD=-100 O_WRONLY=1 O_RDWR=2 O_CREAT=0o100 O_TRUNC=0o1000 O_APPEND=0o2000 O_CLOEXEC=0o2000000 O_ACCMODE=3
"""
_OWN = {
    "x86_64": "O_DIRECTORY=0o200000 O_NOFOLLOW=0o400000 O_DIRECT=0o40000 O_TMPFILE=0o20200000",
    "aarch64": "O_DIRECTORY=0o40000 O_NOFOLLOW=0o100000 O_DIRECT=0o200000 O_TMPFILE=0o20040000",
}

CONSTANTS: Mapping[str, Mapping[str, int]] = {
    arch: {name: int(value, 0) for name, value in (word.split("=") for word in (_BOTH + own).split())} for arch, own in _OWN.items()
}

ERRNOS = {
    "EPERM": 1,
    "ENOENT": 2,
    "ESRCH": 3,
    "EAGAIN": 11,
    "EWOULDBLOCK": 11,
    "EACCES": 13,
    "EINVAL": 22,
    "ENOTTY": 25,
    "ENOSYS": 38,
    "ENOTSUP": 95,
}
