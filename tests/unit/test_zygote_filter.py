"""The zygote's filter: what it refuses, and that members' rows and an import pass."""

from __future__ import annotations

import pytest

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.abi.tables import syscall_number, syscall_table
from sandbox.launch.zygote import serving_text, zygote_text
from sandbox.policy.load import load_policy
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import check_program, decode, pack_data, run_program
from sandbox.seccomp.zygotefilter import REFUSED, build_zygote_filter

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
# What a member's init and payload call, and a Python that imports.
NEEDED = (
    "clone3", "clone", "unshare", "fork", "fsopen", "fsconfig", "fsmount", "move_mount", "mkdirat", "mknodat", "symlinkat", "openat", "write",
    "prctl", "capset", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "prlimit64", "keyctl", "setsid", "umask",
    "chdir", "close_range", "execve", "mmap", "wait4", "personality",
)  # fmt: skip


def answer(arch: Arch, number: int, word: int | None = None) -> int:
    """Run the filter for a call."""
    return run_program(decode(build_zygote_filter(arch)), pack_data(number, audit_arch(arch) if word is None else word, (0,) * 6, 0))


@pytest.mark.parametrize("arch", list(Arch))
def test_every_call(arch: Arch) -> None:
    check_program(decode(build_zygote_filter(arch)))
    for name, number in syscall_table(arch).items():
        assert answer(arch, number) == (REFUSE if name in REFUSED else ALLOW), name
    for name in NEEDED:
        assert name not in REFUSED
    other = next(each for each in Arch if each is not arch)
    assert answer(arch, 0, audit_arch(other)) == KILL
    if arch is Arch.X86_64:
        assert answer(arch, X32_SYSCALL_BIT) == answer(arch, 0xFFFF_FFFF) == KILL


@pytest.mark.parametrize("name", ["strict", "python", "default", "build", "judge"])
def test_no_shipped_policy_allows_what_it_refuses(name: str) -> None:
    """Else a member would be refused what its own policy allows."""
    policy = load_policy(name)
    for call in REFUSED:
        number = syscall_number(Arch.X86_64, call)
        if number is not None:
            assert str(decide(policy, Arch.X86_64, number, (0,) * 6).action) != "allow", call


@pytest.mark.parametrize("arch", list(Arch))
def test_the_text_is_whole(arch: Arch) -> None:
    """It compiles, imports nothing of ours, and its numbers are the machine's."""
    text = serving_text(arch)
    names: dict[str, object] = {"__name__": "zygote"}
    assert not [line for line in text.splitlines() if line.strip().startswith(("from sandbox", "import sandbox"))]
    exec(compile(text, "<test>", "exec"), names)
    assert names["_CLONE3"] == syscall_number(arch, "clone3") and callable(names["serve_forked"])
    compile(zygote_text(arch, ("json",)) + "print(1)", "<test>", "exec")
