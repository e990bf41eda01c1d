"""What the targets that read policies share: files on disk, the product's reading of them, and what an error must look like."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fuzz import engine
from fuzz.oracle import Oracle
from sandbox.abi.arch import Arch
from sandbox.errors import PolicyError
from sandbox.policy.groups import load_groups
from sandbox.policy.load import load_policy
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp.decide import decide

_PLACE = re.compile(r"^(?P<file>[^\n]*?\.toml):(?P<line>\d+)", re.MULTILINE)


def write_files(files: Mapping[str, bytes], folder: str = "") -> str:
    """Write files below the scratch directory and return their directory."""
    root = os.path.join(engine.scratch(), folder)
    os.makedirs(root, exist_ok=True)
    for name, content in files.items():
        path = os.path.join(root, name)
        with open(path, "wb") as file:
            file.write(content)
    return root


def load(path: str) -> SyscallPolicy | PolicyError:
    """Return what loading gives: a policy, or the one error it may raise, whose words and place are looked at."""
    try:
        return load_policy(path)
    except PolicyError as error:
        check_error(error)
        return error


def check_error(error: PolicyError) -> None:
    """Hold an error to the house's rules: a place that exists, one line of message, no period."""
    assert error.message and not error.message.endswith("."), error.message
    assert error.origin, f"no place: {error.message}"
    for file, line in _PLACE.findall(error.origin):
        with open(file, "rb") as source:
            lines = source.read().count(b"\n") + 1
        assert 1 <= int(line) <= lines, f"{error.origin}: the file has {lines} lines"


def oracle_of(policy: SyscallPolicy) -> Oracle:
    """Return the naive reading of the files that a policy came from."""
    return Oracle(top=policy.sources[0], groups={name: group.syscalls for name, group in load_groups().items()})


def agree(policy: SyscallPolicy, judge: Oracle, arch: Arch, number: int, registers: tuple[int, ...]) -> tuple[str, int]:
    """Return the decision on a call after making sure that both readings take it."""
    decision = decide(policy, arch, number, registers)
    actual = (str(decision.action), decision.errno)
    wanted = judge.decide(arch, number, registers)
    assert actual == wanted, f"{arch} {number} {[hex(each) for each in registers]}: decided {actual}, the text says {wanted}"
    return actual


def outcome(error: PolicyError) -> str:
    """Return an error's kind: its message without its operands."""
    return re.sub(r"`[^`]*`|\d+", "`", error.message)
