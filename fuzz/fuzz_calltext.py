"""Calls as people write them: only `CallError` comes out, what is read means the numbers that were written, and `explain`'s cases are what is decided.

An even first byte: the rest is a call's text. An odd one: the rest decides how a call is written, whose registers are then known.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz import facts, grammar
    from fuzz.choose import Bytes, Chooser
    from fuzz.policies import oracle_of
    from sandbox.abi.arch import Arch, audit_arch
    from sandbox.policy.load import load_policy
    from sandbox.policy.model import SyscallPolicy
    from sandbox.seccomp.explain import Case, explain_shape
    from sandbox.seccomp.shape import ABIS, CallError, CallShape, parse_call

ALL_BITS = (1 << 64) - 1
WORDS = (
    "AF_VSOCK", "SOCK_STREAM|SOCK_CLOEXEC", "ioctl(cmd=TIOCSTI)", "openat(AT_FDCWD, \"/etc/x\", O_RDONLY|O_CLOEXEC, 0644)", "_", "...", "NULL", "#41",
    "0x40000029", "-1", "~0", "(register 0x100005412)", "clone", "fcntl", "9" * 4200, "prctl(", "0o17", "0b1", "08", '"\\"', "))", "((((",
)  # fmt: skip
SEEDS = tuple(b"\0" + word.encode() for word in WORDS) + tuple(
    b"\1" + bytes((seed * each) & 255 for each in range(1, 80)) for seed in range(1, 12)
)
POLICIES = ("strict", "default", "permissive")


@functools.cache
def policy_of(name: str) -> SyscallPolicy:
    """Return a shipped policy."""
    return load_policy(name)


def one_input(data: bytes) -> str:
    """Read one call's text."""
    kind, rest = data[:1], data[1:]
    chooser = Bytes(rest)
    if kind and kind[0] & 1:
        return written(chooser)
    text = rest.decode("utf-8", "replace")
    chooser = Bytes(rest[::-1])
    abi = chooser.pick(ABIS)
    try:
        shape = parse_call(text, abi)
    except CallError as error:
        assert error.message and not error.message.endswith(".")
        lines = (error.origin or "").rsplit("\n", 1)
        assert len(lines) == 2 and lines[1].strip() == "^", error.origin
        return "".join(letter for letter in error.message.partition("`")[0] if not letter.isdigit())
    return explained(chooser, shape)


def written(chooser: Chooser) -> str:
    """Write a call with known registers, read it, and compare."""
    arch = chooser.pick(tuple(Arch))
    name = chooser.pick(tuple(facts.SIGNATURES[arch]))
    arguments = facts.SIGNATURES[arch][name]
    wanted: dict[int, tuple[int, int]] = {}
    parts: list[str] = []
    named = False
    for place, (argument, bits, kind) in enumerate(arguments[: chooser.integer(0, len(arguments))]):
        mask = (1 << bits) - 1
        form = chooser.integer(0, 3)
        if form == 0:
            text = '"text"' if kind == "p" else "_"
        else:
            text, value = grammar.number(chooser, bits)
            wanted[place] = (mask, value & mask)
            if form == 3:
                whole = chooser.integer(0, ALL_BITS)
                text += f" (register {whole:#x})"
                wanted[place] = (ALL_BITS, whole)
        named = named or chooser.odds(4)
        parts.append(f"{argument}={text}" if named else text)
    shape = parse_call(f"{name}({', '.join(parts)})", str(arch))  # type: ignore[arg-type]
    assert shape.fixed == wanted, f"{shape.text}: {shape.fixed}, written {wanted}"
    return explained(chooser, shape)


def explained(chooser: Chooser, shape: CallShape) -> str:
    """Hold the cases of a call to what a naive reading of the policy decides for random calls of that shape."""
    policy = policy_of(chooser.pick(POLICIES))
    cases = explain_shape(policy, shape)
    assert cases, shape.text
    for care, value in shape.fixed.values():
        assert value & ~care == 0 and 0 <= value <= ALL_BITS
    if shape.arch_word != audit_arch(shape.arch):
        return "foreign"
    judge = oracle_of_cached(policy.name)
    for case in cases:
        decided(judge.decide(shape.arch, shape.number, case.arguments), case, shape)
    for _ in range(6):
        registers = [chooser.integer(0, ALL_BITS) for _ in range(6)]
        for place, (care, value) in shape.fixed.items():
            registers[place] = registers[place] & ~care | value
        found = [case for case in cases if any(inside(box, registers) for box in case.boxes)]
        assert len(found) == 1, f"{shape.text}: {len(found)} cases for {[hex(each) for each in registers]}"
        decided(judge.decide(shape.arch, shape.number, registers), found[0], shape)
    return f"{len(cases)} cases, {len(shape.fixed)} fixed"


oracle_of_cached = functools.cache(lambda name: oracle_of(policy_of(name)))


def inside(box: dict[int, tuple[tuple[int, int], ...]], registers: list[int]) -> bool:
    """Tell whether a call lies in a box: in one of the sets of each register it names."""
    return all(any(registers[place] & care == value for care, value in cubes) for place, cubes in box.items())


def decided(wanted: tuple[str, int], case: Case, shape: CallShape) -> None:
    """Compare a case with a decision."""
    said = (str(case.outcome.action), case.outcome.errno)
    assert said == wanted, f"{shape.text}: explained {said} ({case.condition}), the text says {wanted}"


if __name__ == "__main__":
    engine.main("calltext", one_input, SEEDS, WORDS)
