"""Words for the numbers of a denied call: its name, its architecture and what its arguments mean, by value.

The only module of `audit` that looks into `abi`'s tables. They are imported when the first record needs them, so a run without denials
pays nothing. Memory of the caller is never read: by the time anybody reads what a pointer pointed to, it may say something else.
"""

from __future__ import annotations

from sandbox.abi.arch import Arch, audit_arch

_NAMES = {audit_arch(arch): str(arch) for arch in Arch} | {0x40000003: "i386", 0x40000028: "arm"}


def name_arch(word: int) -> str:
    """Return ``x86_64`` for an AUDIT_ARCH word, or the word in hexadecimal when it is none of ours."""
    return _NAMES.get(word) or f"0x{word:08x}"


def name_syscall(arch: Arch, number: int) -> str:
    """Return a syscall's name, or ``#`` and the number when no table has it."""
    from sandbox.abi.tables import syscall_name

    return syscall_name(arch, number) or f"#{number}"


def decode_arguments(arch: Arch, syscall: str, args: tuple[int, ...]) -> tuple[str, ...]:
    """Return ``name=value`` for each argument that the syscall has; none for a call that no table has.

    Args:
        arch: whose numbers they are.
        syscall: from `name_syscall`.
        args: the six registers.
    """
    from sandbox.abi.constants import decode_argument
    from sandbox.abi.signatures import signature

    try:
        arguments = signature(syscall, arch)
    except KeyError:
        return ()
    return tuple(
        f"{name}={decode_argument(arch, syscall, index, value)}"
        for index, ((name, _), value) in enumerate(zip(arguments, args, strict=False))
    )
