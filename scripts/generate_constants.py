#!/usr/bin/env python3
"""Write sandbox/abi/tables/values.py: the kernel's named constants, by family, as a C compiler evaluates them.

Usage:
    scripts/generate_constants.py --x86_64 INCLUDE [INCLUDE ...] --aarch64 INCLUDE [INCLUDE ...] [--output FILE]

INCLUDE directories hold sanitised kernel headers (linux/, asm-generic/ and asm/), e.g. two trees made by `make headers_install ARCH=…`.
Needs gcc and glibc's headers of any 64-bit machine: both architectures are LP64 with the same struct layouts, so one compiler gives the
ioctl numbers of both. Constants that only the C library names (AF_*, SOCK_*, SPLICE_F_*) are taken from glibc and are the same on both.
The output depends on the headers alone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# family: (headers, pattern of its names, pattern of names to leave out). `libc:` headers are glibc's; a name may stand in one family only.
NOT_API = r"_LAST$|_MAX$|__\w*MASK$|__RESERVED$"
FAMILIES: dict[str, tuple[str, str, str]] = {
    "access": ("libc:unistd.h", r"[RWXF]_OK", ""),
    "af": ("libc:sys/socket.h", r"AF_\w+", r"AF_MAX"),
    "sock": ("libc:sys/socket.h", r"SOCK_\w+", r"SOCK_(NONBLOCK|CLOEXEC)"),
    "sock_flag": ("libc:sys/socket.h", r"SOCK_(NONBLOCK|CLOEXEC)", ""),
    "msg": ("libc:sys/socket.h", r"MSG_\w+", ""),
    "shut": ("libc:sys/socket.h", r"SHUT_\w+", ""),
    "sol": ("libc:sys/socket.h libc:netinet/in.h libc:netinet/tcp.h libc:netinet/udp.h", r"SOL_(?!DECNET)\w+", ""),
    "so": ("asm/socket.h", r"SO_\w+", r"SO_\w+_(OLD|NEW)"),
    "ipproto": ("linux/in.h linux/in6.h", r"IPPROTO_\w+", ""),
    "tcp": (
        "linux/tcp.h",
        r"TCP_[A-Z0-9_]+",
        r"TCP_(MSS_DE\w+|REPAIR_O\w+|MD5SIG_(FLAG|MAXKEYLEN)\w*|\w+_HINT|ESTABLISHED|CLOSE|\w+_WAIT\d?|LISTEN|CLOSING|LAST_ACK|SYN_\w+)",
    ),
    "netlink": (
        "linux/netlink.h",
        r"NETLINK_(ROUTE|UNUSED|USERSOCK|FIREWALL|SOCK_DIAG|INET_DIAG|NFLOG|XFRM|SELINUX|ISCSI|AUDIT|FIB_LOOKUP|CONNECTOR|NETFILTER"
        r"|IP6_FW|DNRTMSG|KOBJECT_UEVENT|GENERIC|SCSITRANSPORT|ECRYPTFS|RDMA|CRYPTO|SMC)",
        "",
    ),
    "clone": ("linux/sched.h", r"CLONE_\w+|CSIGNAL", r"CLONE_ARGS_\w+"),
    "sched": ("linux/sched.h", r"SCHED_(NORMAL|FIFO|RR|BATCH|ISO|IDLE|DEADLINE|EXT|RESET_ON_FORK)", ""),
    "tty": (
        "asm/ioctls.h asm/termbits.h linux/serial.h",
        r"(TC|TIOC|FIO)[A-Z0-9]\w*",
        r"TIOC(PKT|SER)_\w+|TCSA\w+|TC[IO]?(OFF|ON|FLUSH|OFLUSH|IOFLUSH)|TIOCM_\w+",
    ),
    "tty_queue": ("asm/termbits.h", r"TC[IO](OFF|ON|FLUSH)|TCOO(FF|N)|TCIOFLUSH|TCSA\w+", ""),
    "fs_ioctl": (
        "linux/fs.h linux/fiemap.h linux/fscrypt.h linux/fsverity.h linux/msdos_fs.h",
        r"FS_IOC_\w+|FS_IOC32_\w+|FICLONE\w*|FIDEDUPERANGE|FITRIM|FIBMAP|FIGETBSZ|FIFREEZE|FITHAW|BLK[A-Z]\w+|FAT_IOCTL_\w+",
        r"BLK_\w+|BLKTRACE\w+|FS_IOC32_\w+",
    ),
    "socket_ioctl": ("linux/sockios.h asm/sockios.h", r"SIOC[A-Z]\w+", r"SIOC\w+_(OLD|NEW)|SIOCPROTOPRIVATE|SIOCDEVPRIVATE"),
    "ns_ioctl": ("linux/nsfs.h", r"NS_(GET|MNT_GET|ID)\w+", r"NS_ID\w*"),
    "pidfd_ioctl": ("linux/pidfd.h", r"PIDFD_GET_\w+", ""),
    "uffd_ioctl": ("linux/userfaultfd.h", r"UFFDIO_[A-Z]+|USERFAULTFD_IOC_NEW", r"UFFDIO"),
    "perf_ioctl": ("linux/perf_event.h", r"PERF_EVENT_IOC_\w+", r"PERF_EVENT_IOC_FLAGS\w*"),
    "seccomp_ioctl": ("linux/seccomp.h", r"SECCOMP_IOCTL_\w+", ""),
    "clock_ioctl": (
        "linux/rtc.h linux/ptp_clock.h",
        r"RTC_(SET|RD|AIE|UIE|PIE|WIE|ALM|IRQP|EPOCH|WKALM|VL|PARAM)_\w+|PTP_(CLOCK_|EXTTS_REQ|PEROUT_REQ|ENABLE|SYS|PIN_)\w+",
        r"PTP_ENABLE_FEATURE|RTC_PARAM_(FEATURES|CORRECTION|BACKUP\w+)|RTC_VL_(DATA_INVALID|BACKUP_\w+|ACCURACY_LOW)",
    ),
    "loop_ioctl": ("linux/loop.h", r"LOOP_(SET|CLR|GET|CHANGE|CONFIGURE|CTL)\w*", r"LOOP_(SET|CONFIGURE)_\w+_FLAGS"),
    "tun_ioctl": ("linux/if_tun.h", r"TUN(SET|GET)\w+", ""),
    "console_ioctl": (
        "linux/kd.h linux/vt.h",
        r"(KD|GIO_|PIO_|KI)[A-Z]\w+|VT_(OPENQRY|GETMODE|SETMODE|GETSTATE|SENDSIG|RELDISP|ACTIVATE|WAITACTIVE|DISALLOCATE|RESIZEX?|LOCKSWITCH|UNLOCKSWITCH|GETHIFONTMASK|WAITEVENT|SETACTIVATE|GETCONSIZECSRPOS)",
        r"KD_FONT\w*|KD_(TEXT|GRAPHICS|TEXT0|TEXT1)",
    ),
    "random_ioctl": ("linux/random.h", r"RND[A-Z]+\w*", ""),
    "pr": (
        "linux/prctl.h",
        r"PR_(SET|GET)_\w+|PR_CAPBSET_\w+|PR_TASK_\w+|PR_MCE_KILL(_GET)?|PR_MPX_\w+|PR_CAP_AMBIENT|PR_SCHED_CORE|PR_LOCK_\w+|PR_FUTEX_HASH"
        r"|PR_TIMER_CREATE_RESTORE_IDS|PR_PPC_[GS]ET_DEXCR|PR_S[VM]E_[GS]ET_VL|PR_PAC_\w+_KEYS|PR_RISCV_(V_[GS]ET_CONTROL|SET_ICACHE\w+)"
        r"|PR_RSEQ_SLICE_EXTENSION",
        r"PR_SET_PTRACER_ANY|PR_SET_MM_\w+|PR_SET_VMA_ANON_NAME|PR_PAC_AP\w+",
    ),
    "pr_value": (
        "linux/prctl.h",
        r"PR_(MDWE|SPEC|CAP_AMBIENT|MM|SCHED_CORE|TSC|THP_DISABLE|SYS_DISPATCH|CFI|FUTEX_HASH|SHADOW_STACK|SET_MM)_\w+|PR_SET_PTRACER_ANY"
        r"|PR_SET_VMA_ANON_NAME|PR_MCE_KILL_(CLEAR|SET|LATE|EARLY|DEFAULT)",
        "",
    ),
    "arch_prctl": ("asm/prctl.h", r"ARCH_\w+", r"ARCH_XCOMP\w+"),
    "fcntl": ("linux/fcntl.h", r"F_[A-Z]\w+", r"F_(RDLCK|WRLCK|UNLCK|EXLCK|SHLCK|SEAL_\w+|OWNER_\w+|\w+64|LINUX_SPECIFIC_BASE)"),
    "fcntl_value": ("linux/fcntl.h", r"F_(RDLCK|WRLCK|UNLCK|SEAL_\w+)|DN_\w+|FD_CLOEXEC", ""),
    "lock": ("asm/fcntl.h", r"LOCK_\w+", ""),
    # One bit means something else in each call, so the calls that differ have families of their own.
    "at": ("linux/fcntl.h", r"AT_\w+", r"AT_(FDCWD|EACCESS|REMOVEDIR|HANDLE_\w+|RENAME_\w+|STATX_SYNC_\w+)"),
    "at_statx": ("linux/fcntl.h", r"AT_STATX_SYNC_\w+", ""),
    "at_access": ("linux/fcntl.h", r"AT_EACCESS", ""),
    "at_unlink": ("linux/fcntl.h", r"AT_REMOVEDIR", ""),
    "at_handle": ("linux/fcntl.h", r"AT_HANDLE_\w+", ""),
    "at_rename": ("linux/fcntl.h", r"AT_RENAME_\w+", ""),
    "fdcwd": ("linux/fcntl.h", r"AT_FDCWD", ""),
    "open": ("asm/fcntl.h linux/openat2.h", r"O_\w+", r"O_(RDONLY|WRONLY|RDWR|NDELAY)"),
    "open_access": ("asm/fcntl.h", r"O_(RDONLY|WRONLY|RDWR)", ""),
    "seek": ("linux/fs.h", r"SEEK_\w+", ""),
    "mode": ("linux/stat.h", r"S_I[A-Z]+", r"S_IF\w+|S_IS(REG|DIR|CHR|BLK|FIFO|LNK|SOCK)"),
    "file_type": ("linux/stat.h", r"S_IF[A-Z]+", ""),
    "statx": ("linux/stat.h", r"STATX_[A-Z_]+", r"STATX_ATTR_\w+"),
    "rename": ("linux/fs.h", r"RENAME_\w+", ""),
    "rwf": ("linux/fs.h", r"RWF_\w+", r"RWF_SUPPORTED"),
    "falloc": ("linux/falloc.h", r"FALLOC_FL_\w+", ""),
    "fadvise": ("linux/fadvise.h", r"POSIX_FADV_\w+", ""),
    "sync_range": ("linux/fs.h", r"SYNC_FILE_RANGE_\w+", ""),
    "xattr": ("linux/xattr.h", r"XATTR_(CREATE|REPLACE)", ""),
    "splice": ("libc:fcntl.h", r"SPLICE_F_\w+", ""),
    "close_range": ("linux/close_range.h", r"CLOSE_RANGE_\w+", ""),
    "mount": ("linux/mount.h", r"MS_\w+", r"MS_RMT_MASK"),
    "umount": ("libc:sys/mount.h", r"MNT_\w+|UMOUNT_NOFOLLOW", ""),
    "open_tree": ("linux/mount.h asm/fcntl.h", r"OPEN_TREE_\w+", ""),
    "move_mount": ("linux/mount.h", r"MOVE_MOUNT_\w+", ""),
    "fsopen": ("linux/mount.h", r"FSOPEN_\w+", ""),
    "fsmount": ("linux/mount.h", r"FSMOUNT_\w+", ""),
    "fspick": ("linux/mount.h", r"FSPICK_\w+", ""),
    "fsconfig": ("linux/mount.h", r"FSCONFIG_\w+", ""),
    "mount_attr": ("linux/mount.h", r"MOUNT_ATTR_[A-Z]\w+", r"MOUNT_ATTR_SIZE\w+"),
    "futex": (
        "linux/futex.h",
        r"FUTEX_(WAIT|WAKE|FD|REQUEUE|CMP_REQUEUE|WAKE_OP|LOCK_PI2?|UNLOCK_PI|TRYLOCK_PI|WAIT_BITSET|WAKE_BITSET|WAIT_REQUEUE_PI|CMP_REQUEUE_PI)",
        "",
    ),
    "futex_flag": ("linux/futex.h", r"FUTEX_(PRIVATE_FLAG|CLOCK_REALTIME|CMD_MASK|ROBUST_UNLOCK|ROBUST_LIST32)", ""),
    "futex_private": ("linux/futex.h", r"FUTEX_\w+_PRIVATE|FUTEX_UNLOCK_\w+_LIST(32|64)", r"FUTEX2_\w+"),
    "futex2": ("linux/futex.h", r"FUTEX2_\w+", ""),
    "prot": ("linux/mman.h asm/mman.h", r"PROT_\w+", ""),
    "map": ("linux/mman.h asm/mman.h", r"MAP_\w+", r"MAP_HUGE_\w+|MAP_(SHARED|PRIVATE|SHARED_VALIDATE|FILE)|MAP_DROPPABLE"),
    "map_type": ("linux/mman.h asm/mman.h", r"MAP_(SHARED|PRIVATE|SHARED_VALIDATE|DROPPABLE)", ""),
    "madvise": ("asm/mman.h", r"MADV_\w+", ""),
    "mremap": ("linux/mman.h", r"MREMAP_\w+", ""),
    "mlockall": ("asm/mman.h", r"MCL_\w+", ""),
    "mlock": ("asm/mman.h", r"MLOCK_\w+", ""),
    "msync": ("asm/mman.h", r"MS_(ASYNC|SYNC|INVALIDATE)", ""),
    "pkey": ("asm/mman.h", r"PKEY_DISABLE_\w+", ""),
    "memfd": ("linux/memfd.h", r"MFD_(?!HUGE_)\w+", ""),
    "mempolicy": ("linux/mempolicy.h", r"MPOL_(DEFAULT|PREFERRED|BIND|INTERLEAVE|LOCAL|PREFERRED_MANY|WEIGHTED_INTERLEAVE)", ""),
    "mempolicy_flag": ("linux/mempolicy.h", r"MPOL_F_(STATIC_NODES|RELATIVE_NODES|NUMA_BALANCING)", ""),
    "mempolicy_move": ("linux/mempolicy.h", r"MPOL_MF_(STRICT|MOVE|MOVE_ALL|LAZY)", ""),
    "persona": ("linux/personality.h", r"PER_\w+", ""),
    "persona_flag": (
        "linux/personality.h",
        r"UNAME26|ADDR_\w+|FDPIC_FUNCPTRS|MMAP_PAGE_ZERO|READ_IMPLIES_EXEC|SHORT_INODE|WHOLE_SECONDS|STICKY_TIMEOUTS",
        "",
    ),
    "keyctl": ("linux/keyctl.h", r"KEYCTL_\w+", r"KEYCTL_(SUPPORTS|CAPS\d|MOVE_EXCL|NOTIFY)\w*|KEYCTL_CAPS_\w+"),
    "key_spec": ("linux/keyctl.h", r"KEY_SPEC_\w+", ""),
    "seccomp": ("linux/seccomp.h", r"SECCOMP_(SET_MODE_\w+|GET_ACTION_AVAIL|GET_NOTIF_SIZES)", ""),
    "seccomp_flag": ("linux/seccomp.h", r"SECCOMP_FILTER_FLAG_\w+", ""),
    "seccomp_mode": ("linux/seccomp.h", r"SECCOMP_MODE_\w+", ""),
    "ptrace": ("linux/ptrace.h asm/ptrace.h", r"PTRACE_[A-Z]\w*", r"PTRACE_(EVENT|O|EVENTMSG|PEEKSIGINFO|SYSCALL_INFO|SYSEMU_OPTION)_\w+"),
    "signal": ("linux/signal.h", r"SIG[A-Z]+\d?", r"SIGEV\w*|SIGRTMAX|SIGRTMIN|SIGSTKSZ|SIGSWI"),
    "sig_how": ("linux/signal.h", r"SIG_(BLOCK|UNBLOCK|SETMASK)", ""),
    "rlimit": ("linux/resource.h", r"RLIMIT_\w+", ""),
    "rusage": ("linux/resource.h", r"RUSAGE_\w+", ""),
    "prio": ("linux/resource.h", r"PRIO_(PROCESS|PGRP|USER)", ""),
    "ioprio": ("linux/ioprio.h", r"IOPRIO_WHO_\w+", ""),
    "ipc_get": ("linux/ipc.h", r"IPC_(CREAT|EXCL|NOWAIT)", ""),
    "ipc_key": ("linux/ipc.h", r"IPC_PRIVATE", ""),
    "ipc_ctl": ("linux/ipc.h", r"IPC_(RMID|SET|STAT|INFO)", ""),
    "shm_ctl": ("linux/shm.h", r"SHM_(LOCK|UNLOCK|STAT|INFO|STAT_ANY)", ""),
    "shm_get": ("linux/shm.h", r"SHM_(HUGETLB|NORESERVE)", ""),
    "shm_at": ("linux/shm.h", r"SHM_(RDONLY|RND|REMAP|EXEC)", ""),
    "sem_ctl": ("linux/sem.h", r"GETPID|GETVAL|GETALL|GETNCNT|GETZCNT|SETVAL|SETALL|SEM_(STAT|INFO|STAT_ANY)", ""),
    "msg_ctl": ("linux/msg.h", r"MSG_(STAT|INFO|STAT_ANY)", ""),
    "msg_flag": ("linux/msg.h", r"MSG_(NOERROR|EXCEPT|COPY)", ""),
    "uffd": ("linux/userfaultfd.h", r"UFFD_USER_MODE_ONLY", ""),
    "perf": ("linux/perf_event.h", r"PERF_FLAG_\w+", ""),
    "landlock_create": ("linux/landlock.h", r"LANDLOCK_CREATE_RULESET_\w+", ""),
    "landlock_rule": ("linux/landlock.h", r"LANDLOCK_RULE_\w+", ""),
    "landlock_restrict": ("linux/landlock.h", r"LANDLOCK_RESTRICT_SELF_\w+", ""),
    "landlock_add": ("linux/landlock.h", r"LANDLOCK_ADD_RULE_\w+", ""),
    "landlock_access": ("linux/landlock.h", r"LANDLOCK_(ACCESS|SCOPE)_\w+", ""),
    "bpf": (
        "linux/bpf.h",
        r"BPF_(MAP_(CREATE|LOOKUP_ELEM|UPDATE_ELEM|DELETE_ELEM|GET_NEXT_KEY|GET_NEXT_ID|GET_FD_BY_ID|FREEZE|LOOKUP_AND_DELETE_ELEM|LOOKUP_BATCH|LOOKUP_AND_DELETE_BATCH|UPDATE_BATCH|DELETE_BATCH)|PROG_(LOAD|ATTACH|DETACH|TEST_RUN|GET_NEXT_ID|GET_FD_BY_ID|QUERY|BIND_MAP|STREAM_READ_BY_FD|ASSOC_STRUCT_OPS)|OBJ_(PIN|GET|GET_INFO_BY_FD)|RAW_TRACEPOINT_OPEN|BTF_(LOAD|GET_FD_BY_ID|GET_NEXT_ID)|TASK_FD_QUERY|LINK_(CREATE|UPDATE|GET_FD_BY_ID|GET_NEXT_ID|DETACH)|ENABLE_STATS|ITER_CREATE|TOKEN_CREATE)",
        "",
    ),
    "io_uring_register": (
        "linux/io_uring.h",
        r"IORING_(UN)?REGISTER_\w+",
        r"IORING_REGISTER_(FILES_SKIP|USE_REGISTERED_RING|SRC_\w+|DST_\w+)|IORING_REGISTER_LAST",
    ),
    "io_uring_enter": ("linux/io_uring.h", r"IORING_ENTER_\w+", ""),
    "clock": ("linux/time.h", r"CLOCK_\w+", r"CLOCK_AUX_LAST|CLOCK_ID\w*"),
    "timer_flag": ("linux/time.h", r"TIMER_ABSTIME", ""),
    "itimer": ("linux/time.h", r"ITIMER_\w+", ""),
    "timerfd": ("linux/timerfd.h", r"TFD_(TIMER_\w+|CLOEXEC|NONBLOCK)", ""),
    "eventfd": ("linux/eventfd.h", r"EFD_\w+", ""),
    "signalfd": ("linux/signalfd.h", r"SFD_\w+", ""),
    "epoll_create": ("linux/eventpoll.h", r"EPOLL_CLOEXEC", ""),
    "epoll_ctl": ("linux/eventpoll.h", r"EPOLL_CTL_\w+", ""),
    "inotify": ("linux/inotify.h", r"IN_[A-Z_]+", r"IN_(CLOEXEC|NONBLOCK)"),
    "inotify_init": ("linux/inotify.h", r"IN_(CLOEXEC|NONBLOCK)", ""),
    "fanotify_init": ("linux/fanotify.h", r"FAN_(CLOEXEC|NONBLOCK|CLASS_\w+|UNLIMITED_\w+|ENABLE_AUDIT|REPORT_\w+)", ""),
    "fanotify_mark": ("linux/fanotify.h", r"FAN_MARK_\w+", ""),
    "fanotify_mask": (
        "linux/fanotify.h",
        r"FAN_(ACCESS|MODIFY|ATTRIB|CLOSE\w*|OPEN\w*|MOVED_FROM|MOVED_TO|MOVE|CREATE|DELETE|DELETE_SELF|MOVE_SELF|FS_ERROR|RENAME|PRE_ACCESS|MNT_ATTACH|MNT_DETACH|ONDIR|EVENT_ON_CHILD|ACCESS_PERM)",
        "",
    ),
    "getrandom": ("linux/random.h", r"GRND_\w+", ""),
    "kcmp": ("linux/kcmp.h", r"KCMP_\w+", r"KCMP_TYPES"),
    "membarrier": ("linux/membarrier.h", r"MEMBARRIER_CMD_\w+", r"MEMBARRIER_CMD_FLAG_\w+"),
    "membarrier_flag": ("linux/membarrier.h", r"MEMBARRIER_CMD_FLAG_\w+", ""),
    "wait": ("linux/wait.h", r"W(NOHANG|UNTRACED|STOPPED|EXITED|CONTINUED|NOWAIT)|__W(NOTHREAD|ALL|CLONE)", ""),
    "wait_which": ("linux/wait.h", r"P_(ALL|PID|PGID|PIDFD)", ""),
    "pidfd": ("linux/pidfd.h", r"PIDFD_(NONBLOCK|THREAD|STALE|AUTOKILL)", ""),
    "pidfd_signal": ("linux/pidfd.h", r"PIDFD_SIGNAL_\w+", ""),
    "swap": ("libc:sys/swap.h", r"SWAP_FLAG_\w+", ""),
    "reboot": ("linux/reboot.h", r"LINUX_REBOOT_CMD_\w+", ""),
    "reboot_magic": ("linux/reboot.h", r"LINUX_REBOOT_MAGIC\w+", ""),
    "kexec": ("linux/kexec.h", r"KEXEC_(ON_CRASH|PRESERVE_CONTEXT|UPDATE_ELFCOREHDR|CRASH_HOTPLUG_SUPPORT)", ""),
    "kexec_file": ("linux/kexec.h", r"KEXEC_FILE_\w+", ""),
    "module_init": ("linux/module.h", r"MODULE_INIT_\w+", ""),
    "quota": ("linux/quota.h linux/dqblk_xfs.h", r"Q_[A-Z]\w+", r"Q_XGETQSTATV?_VERSION\d?"),
    "quota_type": ("linux/quota.h", r"(USR|GRP|PRJ)QUOTA", ""),
    "lsm_attr": ("linux/lsm.h", r"LSM_ATTR_\w+", ""),
    "rseq": ("linux/rseq.h", r"RSEQ_FLAG_\w+", ""),
    "shadow_stack": ("asm/mman.h", r"SHADOW_STACK_SET_\w+", ""),
}


def gcc(*arguments: str, text: str = "") -> str:
    """Run gcc with a program on stdin; return its stdout.

    Raises:
        RuntimeError: gcc failed; the message holds its errors.
    """
    done = subprocess.run(["gcc", *arguments], input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def evaluate(headers: str, pattern: str, leave_out: str, flags: list[str]) -> dict[str, int]:
    """Return name → value for the macros and enumerators of some headers that match.

    A name whose replacement is no integer constant is left out, as is one that the architecture's headers lack.
    """
    includes = "".join(f"#include <{header.removeprefix('libc:')}>\n" for header in headers.split())
    libc = headers.startswith("libc:")
    # Kernel headers alone: struct layouts that differ from glibc's would give wrong ioctl numbers.
    options = ["-D_GNU_SOURCE"] if libc else ["-nostdinc", *flags]
    found = set(re.findall(r"^#define (\w+) \S", gcc("-E", "-dM", "-xc", "-", *options, text=includes), re.MULTILINE))
    for body in re.findall(r"\benum\b[^;{]*\{(.*?)\}", gcc("-E", "-P", "-xc", "-", *options, text=includes), re.DOTALL):
        found |= set(re.findall(r"(?:^|,)\s*(\w+)", body))
    names = sorted(
        n for n in found if re.fullmatch(pattern, n) and not (leave_out and re.fullmatch(leave_out, n)) and not re.search(NOT_API, n)
    )
    # What some headers use without including it.
    needed = "" if libc else "typedef unsigned long size_t;\n#include <linux/const.h>\n#include <linux/ioctl.h>\n#include <asm/ioctls.h>\n"
    prelude = includes + needed + "int printf(const char *, ...);\n"
    while True:
        lines = [
            f'if ((X) >= 0) printf("%s %llu\\n", "{n}", (unsigned long long)(X)); else printf("%s %lld\\n", "{n}", (long long)(X));'
            for n in names
        ]
        body = "".join(f'\n#line {i + 1} "names"\n' + line.replace("(X)", f"({names[i]})") for i, line in enumerate(lines))
        with tempfile.TemporaryDirectory() as directory:
            program = f"{directory}/a"
            try:
                gcc(
                    "-w",
                    "-Werror=implicit-function-declaration",
                    "-xc",
                    "-",
                    "-o",
                    program,
                    *options,
                    text=f"{prelude}int main(void) {{{body}\nreturn 0; }}\n",
                )
            except RuntimeError as error:
                bad = {int(line) - 1 for line in re.findall(r"^names:(\d+):\d+: (?:error|note: in expansion)", str(error), re.MULTILINE)}
                if not bad:
                    raise
                print("no integer constant:", *(names[index] for index in sorted(bad)), file=sys.stderr)
                names = [name for index, name in enumerate(names) if index not in bad]
                continue
            output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
        return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def render(families: dict[str, dict[str, int]]) -> str:
    """Return the module's text: for each family one dict entry of lines ``NAME VALUE``, by value, wrapped."""
    lines = [
        '"""Named constants of the kernel\'s interface by family. Generated by scripts/generate_constants.py: change that, not this.',
        "",
        "`family@arch` holds what differs on that architecture. Parsed by `sandbox.abi.constants` alone.",
        '"""',
        "",
        "VALUES: dict[str, str] = {",
    ]
    for family, values in families.items():
        if not values:
            continue
        lines.append(f'    "{family}": """')
        row = ""
        for name, value in sorted(values.items(), key=lambda entry: (entry[1], entry[0])):
            item = f"{name}={value if abs(value) < 4096 else hex(value)}"
            if len(row) + len(item) > 130:
                lines.append(row)
                row = ""
            row = f"{row} {item}".strip()
        lines += [row, '""",']
    return "\n".join([*lines, "}", ""])


def main() -> int:
    """Evaluate every family for both architectures and write the module; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--x86_64", nargs="+", required=True, metavar="INCLUDE")
    parser.add_argument("--aarch64", nargs="+", required=True, metavar="INCLUDE")
    parser.add_argument("--output", type=Path, default=ROOT / "sandbox" / "abi" / "tables" / "values.py")
    options = parser.parse_args()
    x86_flags = [f"-I{directory}" for directory in options.x86_64]
    arm_flags = ["-U__x86_64__", "-U__i386__", "-D__aarch64__", *(f"-I{directory}" for directory in options.aarch64)]
    families: dict[str, dict[str, int]] = {}
    owner: dict[str, str] = {}
    for family, (headers, pattern, leave_out) in FAMILIES.items():
        only_x86 = family in ("arch_prctl",)
        x86 = evaluate(headers, pattern, leave_out, x86_flags)
        arm = {} if only_x86 else evaluate(headers, pattern, leave_out, arm_flags)
        if not x86:
            raise SystemExit(f"no constants for family {family}")
        for name in x86 | arm:
            if owner.setdefault(name, family) != family:
                raise SystemExit(f"{name} is in the families {owner[name]} and {family}")
        shared = {name: value for name, value in x86.items() if arm.get(name) == value}
        families[family] = shared
        for arch, values in (("x86_64", x86), ("aarch64", arm)):
            own = {name: value for name, value in values.items() if name not in shared}
            if own:
                families[f"{family}@{arch}"] = own
    options.output.write_text(render(families))
    print(f"{len(owner)} constants in {len(FAMILIES)} families")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
