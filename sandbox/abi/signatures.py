"""What the kernel makes of each argument of each syscall: its name, its C type, and how many of its 64 bits count.

A seccomp filter sees all 64 bits of an argument register; the kernel drops the upper ones of an `int` after the filter has run. A filter
that compares them all is bypassed by setting one (CVE-2019-7303, CVE-2019-10063: TIOCSTI | 1 << 32). So whoever compares an
argument masks it with `argument_mask` first.

Two types are not C's:
- ``u32-truncated``: declared wider, but the kernel drops the upper half before it looks (clone's flags: ``lower_32_bits``; the descriptors
  of readv and its kin, mmap's fd, ptrace's pid; mbind's mode: assigned to an int). Counts as 32 bits.
- ``per-command``: declared ``unsigned long``, but another argument (cmd, option, request) decides whether it is a pointer, a long or an
  int whose upper half is dropped. Compared in 64 bits, and a rule that *refuses* single values of it can be bypassed: see `is_per_command`.

Pure; the compiler, the explainers and the audit log import this. Nothing is parsed until a syscall is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from sandbox.abi.arch import Arch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

Signature = tuple[tuple[str, str], ...]

# Scalars by how many bits survive the cast in SYSCALL_DEFINE. A type that is in none of the three is a mistake in the prototypes.
_16 = frozenset({"umode_t"})
_32 = frozenset(
    "int|unsigned int|unsigned|u32|s32|__u32|__s32|pid_t|uid_t|gid_t|qid_t|key_t|key_serial_t|timer_t|clockid_t|mqd_t|rwf_t|"
    "enum landlock_rule_type|u32-truncated".split("|")
)
_64 = frozenset("long|unsigned long|size_t|off_t|loff_t|u64|__u64|aio_context_t|per-command".split("|"))


@cache
def _lines() -> dict[str, str]:
    from sandbox.abi.tables.prototypes import PROTOTYPES

    return {line.partition("(")[0]: line.partition("(")[2][:-1] for line in PROTOTYPES.splitlines()}


@cache
def _parse(key: str) -> Signature:
    text = _lines()[key]
    arguments = []
    for argument in text.split(", ") if text else ():
        head, name = argument.rsplit(" ", 1)
        stars = len(name) - len(name.lstrip("*"))
        arguments.append((name[stars:], f"{head} {'*' * stars}" if stars else head))
    return tuple(arguments)


def signature(name: str, arch: Arch) -> Signature:
    """Return (argument name, C type) in the order of the registers.

    Raises:
        KeyError: neither architecture has such a syscall.
    """
    own = f"{name}@{arch}"
    return _parse(own if own in _lines() else name)


class _Signatures(Mapping[str, Signature]):
    """Every syscall's signature in x86_64's order, parsed when looked up."""

    def __getitem__(self, name: str) -> Signature:
        return _parse(name)

    def __iter__(self) -> Iterator[str]:
        return (key for key in _lines() if "@" not in key)

    def __len__(self) -> int:
        return sum(1 for _ in self)


SIGNATURES: Mapping[str, Signature] = _Signatures()


def _of(name: str, index: int, arch: Arch | None) -> str | None:
    """Return the C type of an argument, None where the syscall has no such argument."""
    arguments = _shared(name) if arch is None else signature(name, arch)
    return arguments[index][1] if 0 <= index < len(arguments) else None


@cache
def _shared(name: str) -> Signature:
    """Return the signature that holds on every architecture; arguments whose place differs become nameless and the widest."""
    first, *others = [signature(name, arch) for arch in Arch]
    return tuple(
        argument if all(other[index] == argument for other in others) else (f"?{index}", "per-command")
        for index, argument in enumerate(first)
    )


def argument_index(name: str, argument: str, arch: Arch | None = None) -> int | None:
    """Return the place (0-5) of a named argument, or None where the syscall has none of that name.

    Args:
        name: a syscall of either architecture.
        argument: the name as in `SIGNATURES`.
        arch: needed only for clone's `tls` and `child_tid`, whose places differ by architecture; None where they do.
    """
    arguments = _shared(name) if arch is None else signature(name, arch)
    return next((index for index, (own, _) in enumerate(arguments) if own == argument), None)


def type_mask(c_type: str) -> int:
    """Return the bits of a register that an argument of this type keeps.

    Raises:
        KeyError: the type is not known.
    """
    if c_type.endswith("*") or c_type in _64:
        return 0xFFFF_FFFF_FFFF_FFFF
    if c_type in _32:
        return 0xFFFF_FFFF
    if c_type in _16:
        return 0xFFFF
    plain = c_type.removeprefix("const ").replace("const ", "").strip()
    if plain != c_type:
        return type_mask(plain)
    if "*" in c_type or c_type in ("cap_user_header_t", "cap_user_data_t"):
        return 0xFFFF_FFFF_FFFF_FFFF
    raise KeyError(c_type)


def argument_mask(name: str, index: int, arch: Arch | None = None) -> int:
    """Return the bits that the kernel looks at: 16 ones for `umode_t`, 32 for ints, 64 for the rest and for arguments beyond the last."""
    c_type = _of(name, index, arch)
    return 0xFFFF_FFFF_FFFF_FFFF if c_type is None else type_mask(c_type)


def argument_bits(name: str, index: int, arch: Arch | None = None) -> Literal[32, 64]:
    """Return how many low bits hold the value: 32 for ints (and for the 16 of `umode_t`, see `argument_mask`), else 64."""
    return 32 if argument_mask(name, index, arch) <= 0xFFFF_FFFF else 64


def is_signed(name: str, index: int, arch: Arch | None = None) -> bool:
    """Tell whether the argument's C type is signed, so that its value reads better with a minus (AT_FDCWD is -100)."""
    signed = "int|s32|pid_t|key_t|key_serial_t|timer_t|clockid_t|mqd_t|rwf_t|long|off_t|loff_t"
    return _of(name, index, arch) in signed.split("|")


def is_pointer(name: str, index: int, arch: Arch | None = None) -> bool:
    """Tell whether the argument is an address of user memory: a filter cannot see what is there, nor trust it (it may change)."""
    return (_of(name, index, arch) or "").endswith("*")


def is_per_command(name: str, index: int, arch: Arch | None = None) -> bool:
    """Tell whether another argument decides the type, so that refusing single values of this one proves nothing."""
    return _of(name, index, arch) == "per-command"
