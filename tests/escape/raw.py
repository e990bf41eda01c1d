"""Raw system calls from the inside, and policies with one rule missing: what the tests of A5 to A10 share on top of `support`.

A request is the text that tests/payloads/a5_calls.c takes; an answer is the kernel's raw result, so an errno is a negative number.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from escape.support import Run, run_payload

from sandbox.abi.arch import Arch, native_arch
from sandbox.abi.tables import syscall_number

ARCH = native_arch()
X86 = ARCH is Arch.X86_64
KILLED = "signal 31"  # SIGSYS
CLONE_NEWUSER = 0x10000000
NAMESPACES = {
    "user": CLONE_NEWUSER, "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x80,
}  # fmt: skip


def request(name: str, *arguments: int | str) -> str:
    """Return the request for a system call by name.

    Args:
        name: of the call; its number is this machine's.
        arguments: numbers, `@` the address of a zeroed page, `^` of one of garbage, `'text` of a string, `#1.2` of 64-bit words.
    """
    number = syscall_number(ARCH, name)
    assert number is not None, name
    return f"syscall:{number}:" + ",".join(map(str, arguments))


def calls(*requests: str, **how: Any) -> tuple[list[int | str], Run]:
    """Make calls inside, each in a process of its own; return what came of each (`-errno`, a result, ``signal N``, ``timeout``), and the run.

    Args:
        requests: from `request`, or ``int80:NUMBER:…``.
        how: as for `run_payload`.
    """
    # A busy machine is no reason to fail: what these tests are about is not time.
    limits = {"cpu": "none", **how.pop("limits", {})}
    run = run_payload("a5_calls.c", *requests, limits=limits, **how)
    lines = run.out.decode().splitlines()
    assert len(lines) == len(requests), (run.result.cause, run.err, lines)
    return [int(answer) if answer.lstrip("-").isdecimal() else answer for _, answer in (line.split("\t") for line in lines)], run


def refused(*names: str) -> list[int | str]:
    """Return answers by the names of their errnos: ``refused("EPERM", "ENOSYS")``."""
    return [-int(getattr(errno, name)) for name in names]


def write_policy(directory: Path, *rules: str, base: str = "strict", name: str = "weaker") -> str:
    """Write a policy on top of a shipped one, which a rule of it makes weaker, and return its path."""
    path = directory / f"{name}.toml"
    head = f'name = "{name}"\ndescription = "a rule is missing"\nextends = ["{base}"]\n'
    path.write_text("\n".join([head, *rules]))
    return str(path)


def allow(*syscalls: str, when: str = "") -> str:
    """Return a rule for `write_policy` that lets calls through."""
    return f'[[rule]]\nsyscalls = {list(syscalls)!r}\naction = "allow"\n' + (f'when = "{when}"\n' if when else "")


def outcomes(answers: Sequence[int | str]) -> list[str]:
    """Return answers in words: an errno's name, ``ok`` for a result, or how the caller ended."""
    return [a if isinstance(a, str) else errno.errorcode.get(-a, str(a)) if a < 0 else "ok" for a in answers]
