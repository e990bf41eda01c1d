"""A5, the filter: an argument is compared in the width that the kernel keeps of it.

CVE-2019-7303 (snapd) and CVE-2019-10063 (flatpak): TIOCSTI | 1 << 32 passed a 64-bit comparison. Every condition of every shipped policy is
executed with dirty upper bits, and a policy with a condition that has no sample here fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from escape.raw import ARCH, NAMESPACES, X86, allow, calls, refused, request, write_policy

from sandbox.abi import signatures
from sandbox.abi.signatures import argument_index
from sandbox.policy import conditions
from sandbox.policy.conditions import leaves
from sandbox.policy.load import load_policy
from sandbox.seccomp import cache, lower

POLICIES = ("strict", "python", "build", "default", "judge", "permissive")
UPPER = {"1": 1 << 32, "31": 1 << 63, "all": 0xFFFFFFFF << 32}

TIOCSTI, TIOCLINUX, TCGETS, F_SETLEASE, F_GETFD = 0x5412, 0x541C, 0x5401, 1024, 1
AF_UNIX, AF_INET, AF_ALG, AF_VSOCK = 1, 2, 38, 40

# (syscall, argument) → calls that a policy with a condition on it refuses, as (position of the argument, arguments). In all of them the refusal hangs on
# the bits of that argument alone.
REFUSED: dict[tuple[str, str], list[tuple[int, tuple[int | str, ...]]]] = {
    ("clone", "flags"): [(0, (flag | 17, 0, 0, 0, 0)) for name, flag in NAMESPACES.items() if name != "time"],
    ("ioctl", "cmd"): [(1, (0, TIOCSTI, "'x")), (1, (0, TIOCLINUX, "'x"))],
    ("fcntl", "cmd"): [(1, (1, F_SETLEASE, 0))],
    ("prctl", "option"): [(0, (35, 1, 0, 0, 0))],  # PR_SET_MM
    ("personality", "personality"): [(0, (0x0400000,))],  # READ_IMPLIES_EXEC
    ("arch_prctl", "option"): [(0, (0x1012, 0))] if X86 else [],  # ARCH_SET_CPUID
    ("futex", "op"): [(1, ("@", 6, 0, 0, "@", 0))],  # FUTEX_LOCK_PI
    ("memfd_create", "flags"): [(1, ("'name", 4))],  # MFD_HUGETLB
    ("mmap", "flags"): [(3, (0, 0x200000, 3, 0x40022, -1, 0))],  # MAP_HUGETLB
    ("shmget", "shmflg"): [(2, (0, 0x200000, 0o5600))],  # SHM_HUGETLB
    ("seccomp", "op"): [(0, (77, 0, 0))],
    ("seccomp", "flags"): [(1, (1, 8, "@")), (1, (1, 1, "@"))],  # NEW_LISTENER, TSYNC
    ("sched_setscheduler", "policy"): [(1, (0, 1, "@")), (1, (0, 5, "@"))],  # SCHED_FIFO, SCHED_IDLE
    ("setpriority", "which"): [(0, (1, 0, 10)), (0, (2, 0, 10))],  # PRIO_PGRP, PRIO_USER
    ("setsockopt", "level"): [(1, (0, 6, 31, "'tls", 4))],
    ("setsockopt", "optname"): [(2, (0, 6, 31, "'tls", 4))],
    ("socket", "family"): [(0, (AF_ALG, 5, 0)), (0, (AF_VSOCK, 1, 0)), (0, (17, 3, 0)), (0, (33, 2, 0))],
    ("socket", "type"): [(1, (AF_INET, 3, 255))],
    ("socket", "protocol"): [(2, (AF_INET, 1, 262)), (2, (16, 3, 9))],  # MPTCP, NETLINK_AUDIT
    ("socketpair", "family"): [(0, (AF_INET, 1, 0, "@"))],
    ("socketpair", "type"): [(1, (AF_UNIX, 2, 0, "@"))],  # SOCK_DGRAM
    ("setrlimit", "resource"): [(0, (4, "@"))],  # RLIMIT_CORE
    ("prlimit64", "pid"): [(0, (1, 7, 0, 0))],  # init
    ("prlimit64", "resource"): [(1, (0, 4, 1, 0))],  # RLIMIT_CORE, set
    ("prlimit64", "new_rlim"): [(2, (0, 4, 1, 0))],
    ("mknod", "mode"): [(1, ("'/tmp/device", 0o020600, 0x103)), (1, ("'/tmp/device", 0o060600, 0x800))],
    ("mknodat", "mode"): [(2, (-100, "'/tmp/device", 0o020600, 0x103))],
}
# Allowed ones, which upper bits must not make refused: a program may leave rubbish there, and many do.
ALLOWED: list[tuple[str, int, tuple[int | str, ...]]] = [
    ("ioctl", 1, (0, 0x541B, "@")),  # FIONREAD
    ("fcntl", 1, (0, F_GETFD, 0)),
    ("clone", 0, (17, 0, 0, 0, 0)),
    ("futex", 1, ("@", 1, 1, 0, 0, 0)),  # FUTEX_WAKE
    ("memfd_create", 1, ("'name", 1)),
    ("socketpair", 0, (AF_UNIX, 1, 0, "@")),
    ("mknodat", 2, (-100, "'/tmp/fifo", 0o010600, 0)),
]


def dirty(arguments: tuple[int | str, ...], position: int, bits: int) -> tuple[int | str, ...]:
    word = arguments[position]
    assert isinstance(word, int)
    return (*arguments[:position], hex((word & 0xFFFFFFFF) | bits), *arguments[position + 1 :])


def conditions_of(policy: str) -> set[tuple[str, str]]:
    loaded = load_policy(policy)
    return {
        (syscall, leaf.argument)
        for syscall, entries in loaded.rules.items()
        for entry in entries
        if entry.rule.condition is not None
        for leaf in leaves(entry.rule.condition)
        if argument_index(syscall, leaf.argument, ARCH) is not None
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_dirty_upper_bits_change_nothing(policy: str) -> None:
    """Rule: the compiler knows each argument's C type. Removed in the next test: that knowledge."""
    found = conditions_of(policy)
    assert not found - REFUSED.keys(), "conditions without a sample in this test"
    clean, sharp, names = [], [], []
    for key in sorted(found):
        for position, arguments in REFUSED[key]:
            clean.append(request(key[0], *arguments))
            sharp += [request(key[0], *dirty(arguments, position, bits)) for bits in UPPER.values()]
            names.append((key, arguments))
    first, first_run = calls(*clean, policy=policy)
    again, run = calls(*sharp, policy=policy)
    width = len(UPPER)
    for index, (key, arguments) in enumerate(names):
        assert again[width * index : width * (index + 1)] == [first[index]] * width, (key, arguments)
    # Each of them was refused by the filter, and not for example by the kernel, for want of a capability.
    for (syscall, _), _ in names:
        assert first_run.result.denials.get(syscall, 0) > 0, syscall
        assert run.result.denials.get(syscall, 0) == width * first_run.result.denials.get(syscall, 0), syscall


@pytest.mark.parametrize("policy", ["strict", "default"])
def test_dirty_upper_bits_of_allowed_calls(policy: str) -> None:
    """Rule: an `int` argument's upper half is rubbish that the kernel drops; it must not make an honest call fail either."""
    attack = [request(name, *dirty(arguments, position, bits)) for name, position, arguments in ALLOWED for bits in UPPER.values()]
    answers, run = calls(*attack, policy=policy)
    assert not run.result.denials
    assert [answer for answer in answers if isinstance(answer, str) or answer < 0] == [-17, -17]  # the FIFO exists from the first time


def test_a_compiler_that_ignores_types_lets_them_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removed: the knowledge of C types. TIOCSTI with an upper bit reaches the terminal driver (ENOTTY, as this is a pipe)."""
    attack = request("ioctl", 1, TIOCSTI | 1 << 32, "'x")
    policy = write_policy(tmp_path, base="default", name="same")
    assert calls(attack, policy=policy)[0] == refused("EPERM")

    def wide(syscall: str, index: int, arch: object) -> int:
        return (1 << 64) - 1

    for module in (signatures, conditions, lower, cache):
        if hasattr(module, "argument_mask"):
            monkeypatch.setattr(module, "argument_mask", wide)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    policy = write_policy(tmp_path, base="default", name="typeless")
    reached, run = calls(attack, policy=policy)
    assert reached == refused("ENOTTY") and not run.result.denials


def test_huge_pages_have_no_door_left(tmp_path: Path) -> None:
    """Rule: the flag of `mmap` and of `memfd_create`. Removed: the first, and the kernel looks into the host's pool, with or without pages in it."""
    attack = [request("mmap", 0, 0x200000, 3, 0x40022, -1, 0), request("memfd_create", "'name", 4)]
    assert calls(*attack, policy="strict")[0] == refused("EPERM", "EPERM")
    (mapped, made), run = calls(*attack, policy=write_policy(tmp_path, allow("mmap")))
    assert [mapped] == refused("ENOMEM") or (isinstance(mapped, int) and mapped > 0)
    assert [made] == refused("EPERM") and run.result.denials.keys() == {"memfd_create"}
