"""Numbers of the kernel's user API that the plan's rows are made of. Data only.

Source: include/uapi/linux/{mount,sched,prctl,landlock,seccomp,keyctl,openat2,securebits,time,fs}.h, asm-generic/{ioctls,resource,mman-common}.h.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_REMOVEDIR: Final = 0x200
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

O_RDONLY: Final = 0
O_WRONLY: Final = 1
O_RDWR: Final = 2
O_CREAT: Final = 0o100
O_EXCL: Final = 0o200
O_NOCTTY: Final = 0o400
O_CLOEXEC: Final = 0o2000000
O_PATH: Final = 0o10000000
O_DIRECTORY: Final = {"x86_64": 0o200000, "aarch64": 0o40000}
O_NOFOLLOW: Final = {"x86_64": 0o400000, "aarch64": 0o100000}

RESOLVE_NO_XDEV: Final = 1
RESOLVE_NO_MAGICLINKS: Final = 2
RESOLVE_NO_SYMLINKS: Final = 4
RESOLVE_BENEATH: Final = 8

OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_IDMAP: Final = 0x100000
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_PRIVATE: Final = 1 << 18
MS_REC: Final = 1 << 14
MNT_DETACH: Final = 2
PROT_READ: Final = 1
PROT_WRITE: Final = 2
MAP_PRIVATE: Final = 2
MAP_ANONYMOUS: Final = 0x20

CLONE_NEWTIME: Final = 0x00000080
CLONE_PIDFD: Final = 0x00001000
CLONE_PARENT: Final = 0x00008000
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

SIGKILL: Final = 9
SIGCHLD: Final = 17
SIG_SETMASK: Final = 2
POLLIN: Final = 1
MSG_CTRUNC: Final = 8
WALL: Final = 0x40000000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
CAPABILITY_VERSION_3: Final = 0x20080522
CAP_NUMBERS: Final = 64
# noroot, no_setuid_fixup, no_cap_ambient_raise, each set and locked; keep_caps locked off (capabilities(7), "The securebits flags")
SECUREBITS_ALL_LOCKED: Final = 0xEF
SECUREBITS_ROOT_LOCKED: Final = 0xCA  # no ambient capability; uid 0 keeps its meaning, which no process can change, nor take from others

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 32

KEYCTL_JOIN_SESSION_KEYRING: Final = 1

LANDLOCK_RULE_PATH_BENEATH: Final = 1

TIOCSCTTY: Final = 0x540E
TIOCSPTLCK: Final = 0x40045431
TIOCGPTPEER: Final = 0x5441
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 1
AF_INET: Final = 2
SOCK_DGRAM: Final = 2
SOCK_CLOEXEC: Final = O_CLOEXEC

STATX_TYPE: Final = 1
S_IFMT: Final = 0o170000
S_IFCHR: Final = 0o020000
S_IFREG: Final = 0o100000

RLIMIT_CPU: Final = 0
RLIMIT_FSIZE: Final = 1
RLIMIT_DATA: Final = 2
RLIMIT_STACK: Final = 3
RLIMIT_CORE: Final = 4
RLIMIT_NPROC: Final = 6
RLIMIT_NOFILE: Final = 7
RLIMIT_MEMLOCK: Final = 8
RLIMIT_AS: Final = 9
RLIMIT_SIGPENDING: Final = 11
RLIMIT_MSGQUEUE: Final = 12
RLIMIT_NICE: Final = 13
RLIMIT_RTPRIO: Final = 14
RLIM_INFINITY: Final = 0xFFFFFFFFFFFFFFFF
RLIMIT_NAMES: Final = {
    0: "RLIMIT_CPU", 1: "RLIMIT_FSIZE", 2: "RLIMIT_DATA", 3: "RLIMIT_STACK", 4: "RLIMIT_CORE", 6: "RLIMIT_NPROC", 7: "RLIMIT_NOFILE",
    8: "RLIMIT_MEMLOCK", 9: "RLIMIT_AS", 11: "RLIMIT_SIGPENDING", 12: "RLIMIT_MSGQUEUE", 13: "RLIMIT_NICE", 14: "RLIMIT_RTPRIO",
}  # fmt: skip
