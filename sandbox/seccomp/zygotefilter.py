"""The filter of a zygote: a trusted interpreter that imports the modules a user named and then clones sandboxes of itself.

It must mount and clone in namespaces of its own, so it cannot have a policy's filter; each member gets that on top of this one. Refused is what neither an
import nor a member's rows need and no shipped policy allows: other architectures, other processes, the kernel's own doors. Written by hand because it is
ours. Pure.
"""

from __future__ import annotations

import struct

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.tables import syscall_number

REFUSED = (
    "acct", "add_key", "bpf", "chroot", "clock_adjtime", "clock_settime", "adjtimex", "create_module", "delete_module", "fanotify_init", "fanotify_mark",
    "finit_module", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load",
    "lookup_dcookie", "modify_ldt", "move_pages", "migrate_pages", "mount", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "perf_event_open",
    "pidfd_getfd", "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "quotactl_fd", "reboot",
    "request_key", "setdomainname", "setns", "settimeofday", "swapoff", "swapon", "syslog", "umount2", "userfaultfd", "uselib", "ustat", "vhangup", "vmsplice",
)  # fmt: skip

_LOAD_WORD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050001


def build_zygote_filter(arch: Arch) -> bytes:
    """Return BPF that refuses `REFUSED` with EPERM, kills on other architectures' calls and x32 ones, and allows the rest."""
    numbers = [number for name in REFUSED if (number := syscall_number(arch, name)) is not None]
    program = [(_LOAD_WORD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, audit_arch(arch)), (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD_WORD, 0, 0, 0)]
    if arch is Arch.X86_64:
        program += [(_JUMP_AT_LEAST, 0, 1, X32_SYSCALL_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    for index, number in enumerate(numbers):
        program.append((_JUMP_EQUAL, len(numbers) - index, 0, number))
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
