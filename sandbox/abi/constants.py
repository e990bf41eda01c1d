"""The kernel's named constants: by name for policies, and back from a value to names for whoever reads an audit log.

Values come from the kernel's headers (`tables/values.py`, generated); which family explains which argument is in `tables/meanings.py`.
Decoding looks at register values only and follows no pointer. Pure; any module may import it; the texts are read when first needed.
"""

from __future__ import annotations

from functools import cache

from sandbox.abi.arch import Arch
from sandbox.abi.signatures import Signature, argument_mask, is_signed, signature

# Names that C libraries and manuals use for what the kernel's headers call otherwise.
_ALIASES = {
    "SCHED_OTHER": "SCHED_NORMAL",
    "MAP_ANON": "MAP_ANONYMOUS",
    "PTRACE_PEEKUSER": "PTRACE_PEEKUSR",
    "PTRACE_POKEUSER": "PTRACE_POKEUSR",
}

# Second names of a value: understood, never printed.
_SECOND = frozenset(
    "AF_FILE AF_LOCAL AF_ROUTE TIOCINQ SIOCINQ SIOCOUTQ SIGIOT SIGPOLL SIGUNUSED WSTOPPED MSG_TRYHARD NETLINK_INET_DIAG "
    "MEMBARRIER_CMD_SHARED IPPROTO_HOPOPTS MS_VERBOSE AT_STATX_SYNC_AS_STAT".split()
)
# Masks over bits, not bits.
_NO_FLAGS = frozenset(
    "O_ACCMODE MAP_TYPE CSIGNAL AT_STATX_SYNC_TYPE FUTEX_CMD_MASK PER_MASK FUTEX2_SIZE_MASK MS_MGC_MSK S_IFMT STATX_ALL".split()
)

_WORD = 0xFFFF_FFFF_FFFF_FFFF


@cache
def _family(name: str, arch: Arch) -> dict[str, int]:
    """Return one family's name → value, in the order of values."""
    from sandbox.abi.tables.values import VALUES

    text = VALUES.get(name, "") + VALUES.get(f"{name}@{arch}", "")
    return {key: int(value, 0) for key, _, value in (item.partition("=") for item in text.split())}


@cache
def _text(arch: Arch) -> str:
    from sandbox.abi.tables.values import VALUES

    texts = (text for family, text in VALUES.items() if "@" not in family or family.endswith(f"@{arch}"))
    return f" {' '.join(' '.join(texts).split())} "


@cache
def constant(name: str, arch: Arch) -> int | None:
    """Return a constant's value on an architecture, or None where it has no such constant.

    Negative for what C writes as a negative number (AT_FDCWD): mask it with the argument's width before comparing.
    """
    # A search in 40 KB costs microseconds; parsing all of it would cost a run milliseconds for the handful of names that its policy uses.
    name = _ALIASES.get(name, name)
    text = _text(arch)
    start = text.find(f" {name}=")
    if start < 0 or not name:
        return None
    start += len(name) + 2
    return int(text[start : text.index(" ", start)], 0)


@cache
def constant_names() -> tuple[str, ...]:
    """Return every name that `constant` knows on either architecture, sorted."""
    words = {item.partition("=")[0] for arch in Arch for item in _text(arch).split()}
    return tuple(sorted(words | set(_ALIASES)))


@cache
def _how() -> dict[str, dict[str, str]]:
    from sandbox.abi.tables.meanings import MEANINGS

    return {words[0]: dict(word.split("=", 1) for word in words[1:]) for words in map(str.split, MEANINGS.splitlines())}


def _meaning(syscall: str, argument: str) -> str | None:
    own = _how().get(syscall, {})
    return own.get(argument) or _how()["*"].get(argument)


@cache
def _named(family: str, arch: Arch) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, value in _family(family, arch).items():
        if name not in _SECOND | _NO_FLAGS:
            names.setdefault(value, name)
    return names


@cache
def _flags(family: str, arch: Arch) -> tuple[tuple[str, int], ...]:
    """Return flags with the widest first, so that O_SYNC is not read as O_DSYNC and a rest."""
    usable = [(name, value) for name, value in _family(family, arch).items() if value > 0 and name not in _SECOND | _NO_FLAGS]
    return tuple(sorted(usable, key=lambda flag: -flag[1].bit_count()))


@cache
def choices(syscall: str, argument: str) -> frozenset[str]:
    """Return the constants of which an argument holds exactly one (``family``, ``cmd``); empty for flags and for what has no names."""
    how = _meaning(syscall, argument) or ""
    if not how.startswith("="):
        return frozenset()
    # One flag stands among io_uring's opcodes.
    names = {name for family in how[1:].split(",") for arch in Arch for name in _family(family, arch)}
    names |= {alias for alias, name in _ALIASES.items() if name in names}
    return frozenset(names) - {"IORING_REGISTER_USE_REGISTERED_RING"}


def flag_fields(syscall: str, argument: str, arch: Arch) -> tuple[int, int] | None:
    """Return (bits that hold one value, bits that are flags) of an argument of flags, as (0xf, …) for a socket's type; None for any other.

    Args:
        syscall: a name of either table.
        argument: the name of one of its arguments.
        arch: whose flags.
    """
    how = _meaning(syscall, argument) or ""
    if not how or how[0] == "=" or how in ("dirfd", "hex", "octal"):
        return None
    field = flags = 0
    for part in how.split("|"):
        family, _, mask = part.partition("&")
        if mask:
            field |= int(mask, 0)
        elif part == "octal":
            flags |= 0o7777
        else:
            for _, flag in _flags(family, arch):
                flags |= flag
    return field, flags & ~field


def _decode_parts(how: str, value: int, arch: Arch) -> str:
    """Render a value by flags and by fields of bits; see `tables/meanings.py`."""
    parts = how.split("|")
    rest = value
    for part in parts:
        if "&" in part:
            rest &= ~int(part.partition("&")[2], 0)
    words: list[str] = []
    for part in parts:
        family, _, mask = part.partition("&")
        if mask:
            field = value & int(mask, 0)
            if field in _named(family, arch):
                words.append(_named(family, arch)[field])
            elif field:
                words.append(str(field))
            continue
        for name, flag in _flags(family, arch):
            if rest & flag == flag:
                words.append(name)
                rest &= ~flag
    if "octal" in parts:
        words.append(f"0{rest:o}")
    elif rest:
        words.append(hex(rest))
    return "|".join(words) or "0"


def _decode_plain(value: int, bits: int, c_type: str, signed: bool) -> str:
    if c_type.endswith("*"):
        return hex(value) if value else "NULL"
    if bits == 16:
        return f"0{value:o}" if value else "0"
    if bits == 32 or signed:
        # -1 in an unsigned int is what people mean by 4294967295.
        return str(value - (1 << bits) if value >> (bits - 1) else value)
    return str(value) if c_type == "size_t" else hex(value) if value > 9 else str(value)


def decode_argument(arch: Arch, syscall: str, index: int, value: int) -> str:
    """Return how a person would write an argument: ``AF_VSOCK``, ``CLONE_NEWUSER|SIGCHLD``, ``TIOCSTI``, ``AT_FDCWD``, ``0x7ffd8``, ``-1``.

    The text holds printable ASCII only, whatever the value. Bits that the kernel drops are not decoded; when they are neither zero nor
    the sign, the whole register is added in brackets, because somebody tried to slip past a filter that compares them.

    Args:
        arch: whose numbers they are.
        syscall: a name of either table; an unknown one gives plain hexadecimal.
        index: 0-5.
        value: the register, 64 bits.
    """
    value &= _WORD
    try:
        arguments: Signature = signature(syscall, arch)
    except KeyError:
        arguments = ()
    if index >= len(arguments):
        return hex(value)
    name, c_type = arguments[index]
    mask = argument_mask(syscall, index, arch)
    bits = mask.bit_length()
    kept = value & mask
    signed = kept - (1 << bits) if kept >> (bits - 1) else kept
    text = _decode_value(arch, syscall, name, kept, signed)
    if text is None:
        text = _decode_plain(kept, bits, c_type, is_signed(syscall, index, arch))
    if bits == 32 and value >> 32 and value != signed & _WORD:
        text += f" (register {value:#x})"
    return text


def _decode_value(arch: Arch, syscall: str, name: str, kept: int, signed: int) -> str | None:
    """Return the decoding by meaning, None for a value that has none."""
    how = _meaning(syscall, name)
    if how is None:
        return None
    if how == "hex":
        return hex(kept)
    if how == "octal":
        return f"0{kept:o}" if kept else "0"
    if how == "dirfd":
        how = "=fdcwd"
    if how.startswith("="):
        for family in how[1:].split(","):
            named = _named(family, arch)
            if kept in named or signed in named:
                return named.get(kept) or named[signed]
        return hex(kept) if name in ("cmd", "request") and kept > 0xFFF else None
    if signed == -1:
        return hex(kept)  # no flags: a question (personality) or nonsense
    return _decode_parts(how, kept, arch)
