"""The two architectures, their audit words, and the bit that marks a foreign numbering.

Facts only: no syscall is made but uname(2) in `native_arch`. Any module may import this one; it is on the run path.
"""

from __future__ import annotations

import os

from sandbox.enums import StrEnum

X32_SYSCALL_BIT = 0x40000000
"""Set in the number of every x32 call; its audit word is x86_64's, so a filter must test the number (Source: asm/unistd.h)."""

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class Arch(StrEnum):
    """An architecture that policies are compiled for; the value is uname(2)'s machine word."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


def native_arch() -> Arch:
    """Return the architecture of the running kernel.

    Raises:
        ValueError: the machine is neither x86_64 nor aarch64.
    """
    machine = os.uname().machine
    try:
        return Arch(machine)
    except ValueError:
        raise ValueError(f"architecture `{machine}` is not supported: only {', '.join(Arch)}") from None


def audit_arch(arch: Arch) -> int:
    """Return AUDIT_ARCH_*, the word that seccomp_data.arch holds for a native call.

    Source: linux/audit.h, EM_* | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE.
    """
    return _AUDIT[arch]
