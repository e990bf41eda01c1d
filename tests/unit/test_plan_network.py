"""When may a network namespace be used again: what `only_unix_sockets` says of filters, against running them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.tables import syscall_number
from sandbox.plan.network import only_unix_sockets
from sandbox.policy.load import load_policy
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.cache import load_filter

POLICIES = sorted(path.stem for path in (Path(__file__).parents[2] / "policies").glob("*.toml") if path.stem != "groups")
NATIVE = audit_arch(Arch.X86_64)
SOCKET, PAIR, RING = (syscall_number(Arch.X86_64, name) for name in ("socket", "socketpair", "io_uring_setup"))
assert SOCKET is not None and PAIR is not None and RING is not None
FAMILIES = (*range(64), 255, 0x8000_0001, 0xFFFF_FFFF, 1 << 32, 1 | 1 << 32, 2 | 1 << 32)
LD, JEQ, JGT, JGE, JSET, JA, RET, AND = 0x20, 0x15, 0x25, 0x35, 0x45, 0x05, 0x06, 0x54
ALLOW, REFUSE, KILL = bpf.RET_ALLOW, bpf.RET_ERRNO | 1, bpf.RET_KILL_PROCESS


def passing(program: bytes, number: int, arch: int = NATIVE) -> set[int]:
    """Run a filter for many families; return those that it lets pass."""
    code = bpf.decode(program)
    found = set()
    for family in FAMILIES:
        answer = bpf.run_program(code, bpf.pack_data(number, arch, (family, 1, 0, 0, 0, 0), 0))
        if answer & 0xFFFF_0000 in (bpf.RET_ALLOW, bpf.RET_LOG, 0x7FF0_0000):
            found.add(family & 0xFFFF_FFFF)
    return found


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("notify", [True, False])
def test_every_shipped_policy(name: str, arch: Arch, notify: bool) -> None:
    """Exactly those whose filter, when it is run, lets no other family pass."""
    program = load_filter(load_policy(name), arch, notify=notify).bpf
    numbers = [syscall_number(arch, call) for call in ("socket", "socketpair")]
    ring = syscall_number(arch, "io_uring_setup")
    assert None not in numbers and ring is not None
    families = set().union(*(passing(program, number, audit_arch(arch)) for number in numbers if number is not None))
    assert only_unix_sockets(program, arch) is (families <= {1} and not passing(program, ring, audit_arch(arch)))


def test_the_shipped_ones_differ() -> None:
    """Else the test above could not fail."""
    answers = {name: only_unix_sockets(load_filter(load_policy(name), Arch.X86_64).bpf, Arch.X86_64) for name in ("strict", "default")}
    assert answers == {"strict": True, "default": False}


def assemble(*rows: Sequence[int]) -> bytes:
    """Return a program after the usual beginning: another architecture or an x32 number is killed, the number is loaded."""
    head = [(LD, 0, 0, 4), (JEQ, 1, 0, NATIVE), (RET, 0, 0, KILL), (LD, 0, 0, 0), (JGE, 0, 1, X32_SYSCALL_BIT), (RET, 0, 0, KILL)]
    return b"".join(struct.pack("<HBBI", *row) for row in (*head, *rows))


UNIX_ONLY = [
    (JEQ, 2, 0, SOCKET),
    (JEQ, 1, 0, PAIR),
    (RET, 0, 0, REFUSE),
    (LD, 0, 0, 16),
    (JEQ, 0, 1, 1),
    (RET, 0, 0, ALLOW),
    (RET, 0, 0, REFUSE),
]
CASES = {
    "local only": (UNIX_ONLY, True),
    "nothing at all": ([(RET, 0, 0, REFUSE)], True),
    "everything": ([(RET, 0, 0, ALLOW)], False),
    "the high half looked at, too": (
        [(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (LD, 0, 0, 20), (JEQ, 0, 3, 0), (LD, 0, 0, 16), (JEQ, 0, 1, 1), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)],
        True,
    ),
    "only the high half": ([(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (LD, 0, 0, 20), (JEQ, 0, 1, 1), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], False),
    "the type instead": ([(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (LD, 0, 0, 24), (JEQ, 0, 1, 1), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], False),
    "one family more": ([*UNIX_ONLY[:-1], (JEQ, 0, 1, 10), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], False),
    "at most one": ([(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (LD, 0, 0, 16), (JGT, 1, 0, 1), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], False),
    "a bit of it": ([(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (LD, 0, 0, 16), (JSET, 0, 1, 1), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], False),
    "masked": (
        [(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (LD, 0, 0, 16), (AND, 0, 0, 0xFF), (JEQ, 0, 1, 1), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], False,
    ),
    "pairs of any family": ([(JEQ, 0, 1, PAIR), (RET, 0, 0, ALLOW), *UNIX_ONLY], False),
    "rings": ([(JEQ, 0, 1, RING), (RET, 0, 0, ALLOW), *UNIX_ONLY], False),
    "traced": ([*UNIX_ONLY[:-1], (RET, 0, 0, 0x7FF0_0000)], False),
    "logged": ([*UNIX_ONLY[:-1], (RET, 0, 0, bpf.RET_LOG)], False),
    "asked of the supervisor": ([*UNIX_ONLY[:-1], (RET, 0, 0, bpf.RET_USER_NOTIF)], True),
    "trapped": ([*UNIX_ONLY[:-1], (RET, 0, 0, bpf.RET_TRAP)], True),
    "no, by a way that cannot be": ([(JEQ, 1, 0, SOCKET), (RET, 0, 0, REFUSE), (JEQ, 1, 0, SOCKET), (RET, 0, 0, ALLOW), (RET, 0, 0, REFUSE)], True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_programs(name: str) -> None:
    rows, expected = CASES[name]
    program = assemble(*rows)
    assert only_unix_sockets(program, Arch.X86_64) is expected
    if expected:
        assert passing(program, SOCKET or 0) | passing(program, PAIR or 0) <= {1} and not passing(program, RING or 0)


def test_other_architectures_and_x32_must_be_refused() -> None:
    whole = b"".join(struct.pack("<HBBI", *row) for row in [(LD, 0, 0, 0), *UNIX_ONLY])
    assert not only_unix_sockets(whole, Arch.X86_64), "whatever has the number 41 on another machine"
    no_x32 = [(LD, 0, 0, 4), (JEQ, 1, 0, NATIVE), (RET, 0, 0, KILL), (LD, 0, 0, 0), *UNIX_ONLY[:2], (RET, 0, 0, ALLOW), *UNIX_ONLY[3:]]
    program = b"".join(struct.pack("<HBBI", *row) for row in no_x32)
    assert passing(program, SOCKET or 0) == {1} and len(passing(program, (SOCKET or 0) | X32_SYSCALL_BIT)) > 1
    assert not only_unix_sockets(program, Arch.X86_64)
