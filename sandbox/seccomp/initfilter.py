"""The filter of pid 1: the few calls of its loop, everything else kills it.

Written by hand because it is ours, not the user's: a dozen numbers without conditions. Pure.
"""

from __future__ import annotations

import struct

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import InternalError

# What `reap` in init.c and its twin in the reference executor call.
INIT_CALLS = (
    "wait4",
    "ppoll",
    "read",
    "write",
    "kill",
    "getrusage",
    "clock_gettime",
    "signalfd4",
    "exit_group",
    "restart_syscall",
    "rt_sigreturn",
)
# What a Python interpreter needs besides, to run the same loop.
REFERENCE_CALLS = (
    "brk", "mmap", "munmap", "mprotect", "madvise", "mremap", "close", "futex", "exit", "getpid", "rt_sigaction", "rt_sigprocmask", "getrandom",
    "clock_nanosleep", "fcntl",
)  # fmt: skip

_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000


def build_init_filter(arch: Arch, *, reference: bool = False) -> bytes:
    """Return BPF that allows init's calls on one architecture and kills on anything else.

    Args:
        arch: the only architecture word that passes.
        reference: also allow what the Python executor needs.
    """
    numbers = []
    for name in INIT_CALLS + (REFERENCE_CALLS if reference else ()):
        number = syscall_number(arch, name)
        if number is None:
            raise InternalError(f"no number for syscall `{name}` on {arch}")
        numbers.append(number)
    program = [(_LOAD_WORD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, audit_arch(arch)), (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD_WORD, 0, 0, 0)]
    for index, number in enumerate(numbers):
        program.append((_JUMP_EQUAL, len(numbers) - index, 0, number))
    program += [(_RETURN, 0, 0, _KILL_PROCESS), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
