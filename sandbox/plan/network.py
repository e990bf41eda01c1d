"""What a filter leaves a program: any socket but a local one, which decides if its network namespace may be used again; any call for keys, which decides
if its session keyring may be its server's; one call or another.

The program is followed along every way it can take for the calls in question, with all arguments unknown. Pure.
"""

from __future__ import annotations

from functools import lru_cache

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.tables import syscall_number
from sandbox.seccomp import evaluate as bpf

_AF_UNIX = 1
_NUMBER, _ARCH, _FAMILY = 0, 4, 16  # offsets in struct seccomp_data; the kernel takes the family as an int
_NEVER = ("io_uring_setup",)  # its rings make sockets without a system call
_SOCKETS = ("socket", "socketpair")
_KEYS = ("add_key", "request_key", "keyctl")
_REFUSING = (bpf.RET_ERRNO, bpf.RET_TRAP, bpf.RET_KILL_PROCESS, 0, bpf.RET_USER_NOTIF)  # the supervisor never lets a denied call go on
_ACTION = 0xFFFF_0000
_WAYS = 100_000

Facts = tuple[tuple[int, int], ...]
"""Words of struct seccomp_data whose value is known on a way: (offset, value)."""


@lru_cache(maxsize=16)
def only_unix_sockets(filter_bpf: bytes, arch: Arch) -> bool:
    """Return whether no call that the filter lets pass makes a socket of another family than AF_UNIX.

    Exact where it says so: True means that on every way through the program to an answer that is no refusal the family was found to be AF_UNIX. A program
    that decides in a manner that is not followed here gets False.

    Args:
        filter_bpf: the filter, as it is installed.
        arch: the machine's; calls of any other must be refused altogether.
    """
    program = bpf.decode(filter_bpf)
    native = audit_arch(arch)
    for name in _SOCKETS + _NEVER:
        number = syscall_number(arch, name)
        if number is None:
            return False
        known = {_ARCH: native, _NUMBER: number}
        for family in _families(program, known):
            if name in _NEVER or family != _AF_UNIX:
                return False
        if arch is Arch.X86_64 and _families(program, {_ARCH: native, _NUMBER: number | X32_SYSCALL_BIT}):
            return False
    return not _families(program, {}, foreign=native)


def refuses_keys(filter_bpf: bytes, arch: Arch) -> bool:
    """Return whether the filter lets no call pass that finds, reads or makes a key of the kernel's; exact where it says so, as `only_unix_sockets`."""
    return always_refused(filter_bpf, arch, _KEYS)


@lru_cache(maxsize=16)
def always_refused(filter_bpf: bytes, arch: Arch, names: tuple[str, ...]) -> bool:
    """Return whether the filter lets none of these calls pass, whatever their arguments; exact where it says so, like `only_unix_sockets`."""
    program = bpf.decode(filter_bpf)
    native = audit_arch(arch)
    for name in names:
        number = syscall_number(arch, name)
        if number is None:
            continue  # this machine has no such call
        for word in (number, number | X32_SYSCALL_BIT) if arch is Arch.X86_64 else (number,):
            if _families(program, {_ARCH: native, _NUMBER: word}):
                return False
    return not _families(program, {}, foreign=native)


def _families(program: tuple[bpf.Instruction, ...], known: dict[int, int], *, foreign: int | None = None) -> set[int | None]:
    """Return the families with which the program lets a call pass; None for one that it did not look at.

    Args:
        program: the instructions.
        known: words of the call.
        foreign: the architecture word is unknown, but not this.
    """
    found: set[int | None] = set()
    # (place, offset of the word in the accumulator or None, its value or None, what was found out)
    stack: list[tuple[int, int | None, int | None, Facts]] = [(0, None, None, ())]
    for _ in range(_WAYS):
        if not stack:
            return found
        at, source, value, facts = stack.pop()
        if at >= len(program):
            return {None}  # no program that a kernel takes
        code, jt, jf, k = program[at]
        match code:
            case 0x20:  # ld [k]
                stack.append((at + 1, k, {**known, **dict(facts)}.get(k), facts))
            case 0x05:  # ja
                stack.append((at + 1 + k, source, value, facts))
            case 0x06:  # ret
                if k & _ACTION not in _REFUSING:
                    found.add(dict(facts).get(_FAMILY))
            case 0x15 | 0x25 | 0x35 | 0x45:  # jeq, jgt, jge, jset
                if value is not None:
                    holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k, 0x45: bool(value & k)}[code]
                    stack.append((at + 1 + (jt if holds else jf), source, value, facts))
                    continue
                stack.append((at + 1 + jf, source, value, facts))
                if code == 0x15 and source is not None:
                    if not (source == _ARCH and k == foreign):
                        stack.append((at + 1 + jt, source, k, (*facts, (source, k))))
                else:
                    stack.append((at + 1 + jt, source, value, facts))
            case _ if code & 7 in (bpf.LD, bpf.ALU):  # something computed: unknown from here on
                stack.append((at + 1, None, None, facts))
            case _ if code & 7 in (bpf.ST, bpf.STX, bpf.LDX, bpf.MISC):
                stack.append(
                    (at + 1, None if code == (bpf.MISC | bpf.TXA) else source, None if code == (bpf.MISC | bpf.TXA) else value, facts)
                )
            case _:
                return {None}
    return {None}
