"""Compiled filters against the direct reading of the policy's text: every shipped policy, both architectures, and random policies."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.tables import syscall_names, syscall_number
from sandbox.errors import CompileError
from sandbox.policy import locate
from sandbox.policy.check import check_policy
from sandbox.policy.conditions import condition_values
from sandbox.policy.load import GROUPS, load_policy, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.seccomp import compile as compiler
from sandbox.seccomp.decide import decide
from sandbox.seccomp.disassemble import disassemble
from sandbox.seccomp.evaluate import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_LOG,
    RET_TRAP,
    RET_USER_NOTIF,
    decode,
    pack_data,
    run_program,
)
from sandbox.seccomp.filter import Filter

SHIPPED = tuple(sorted(path.stem for path in locate.data_dir("policies").glob("*.toml") if path.stem != "groups"))
GOLDEN = Path(__file__).parent.parent / "golden" / "policies"
UPPER = (1 << 32, 1 << 63, 0xFFFF_FFFF << 32)
NUMBERS = (*range(1024), -1, -2, 0x3FFF_FFFF, 0x7FFF_FFFF, -0x8000_0000)


@cache
def policy_of(name: str) -> SyscallPolicy:
    return load_policy(name)


@cache
def filter_of(name: str, arch: Arch, notify: bool = True) -> Filter:
    return compiler.compile_filter(policy_of(name), arch, notify=notify)


def expected(policy: SyscallPolicy, arch: Arch, number: int, arguments: tuple[int, ...], notify: bool) -> int:
    """Return the BPF value of the text's decision, spelled out here rather than borrowed from the compiler."""
    decision = decide(policy, arch, number, arguments)
    errno_value = RET_ERRNO + decision.errno
    return {
        Action.ALLOW: RET_ALLOW,
        Action.LOG: RET_LOG,
        Action.ERRNO: errno_value,
        Action.NOTIFY: RET_USER_NOTIF if notify else errno_value,
        Action.EMULATE: RET_USER_NOTIF if notify else RET_ALLOW,
        Action.TRAP: RET_TRAP,
        Action.KILL_PROCESS: RET_KILL_PROCESS,
    }[decision.action]


def edges(policy: SyscallPolicy, syscall: str, arch: Arch) -> list[tuple[int, ...]]:
    """Return calls around every value that the policy's conditions name for a syscall, with and without upper bits."""
    points: dict[int, set[int]] = {}
    for entry in policy.rules[syscall]:
        if entry.rule.condition is not None:
            for index, value in condition_values(entry.rule.condition, syscall, arch):
                near = {value - 1, value, value + 1, value ^ 1 << 31, (1 << 64) - 1}
                points.setdefault(index, set()).update(each & (1 << 64) - 1 for each in near)
    calls: list[tuple[int, ...]] = [(0,) * 6]
    for index, values in sorted(points.items()):
        wide = sorted(values | {value | upper for value in values for upper in UPPER})
        # Every value of one register with every base call so far, but only plain bases: products of edges would grow without bound.
        bases = [base for base in calls if all(register < 1 << 32 for register in base)][:10]
        calls += [(*base[:index], value, *base[index + 1 :]) for base in bases for value in wide]
    return calls


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("name", SHIPPED)
def test_filter_does_what_the_policy_says(name: str, arch: Arch) -> None:
    policy, word = policy_of(name), audit_arch(arch)
    program = decode(filter_of(name, arch).bpf)
    for number in NUMBERS:
        assert run_program(program, pack_data(number, word, ())) == expected(policy, arch, number, (0,) * 6, True), number
    checked = 0
    for syscall, entries in policy.rules.items():
        number = syscall_number(arch, syscall)
        if number is None or all(entry.rule.condition is None for entry in entries):
            continue
        for arguments in edges(policy, syscall, arch):
            checked += 1
            actual = run_program(program, pack_data(number, word, arguments))
            assert actual == expected(policy, arch, number, arguments, True), (syscall, [hex(each) for each in arguments])
    assert checked > 200


def test_filter_without_a_listener_never_asks_for_one() -> None:
    policy, arch = policy_of("strict"), Arch.X86_64
    program = decode(filter_of("strict", arch, notify=False).bpf)
    assert not [at for at, (code, _, _, k) in enumerate(program) if code == 0x06 and k == RET_USER_NOTIF]
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is not None:
            for arguments in edges(policy, syscall, arch)[:200]:
                assert run_program(program, pack_data(number, audit_arch(arch), arguments)) == expected(
                    policy, arch, number, arguments, False
                )


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("name", SHIPPED)
def test_foreign_calls_are_killed(name: str, arch: Arch) -> None:
    program = decode(filter_of(name, arch).bpf)
    own = audit_arch(arch)
    words = {0, 1, own ^ 0x8000_0000, own ^ 0x4000_0000, own ^ 1, 0x4000_0003, 0xFFFF_FFFF, *(audit_arch(other) for other in Arch)} - {own}
    for word in words:
        for number in (0, 1, 59, 231, -1, 0x4000_0000):
            assert run_program(program, pack_data(number, word, ())) == RET_KILL_PROCESS
    if arch is Arch.X86_64:
        for number in (*range(600), 0x3FFF_FFFF):
            assert run_program(program, pack_data(number | 0x4000_0000, own, ())) == RET_KILL_PROCESS


# What threats.md names: each call, and the registers with which it is dangerous.
ALWAYS_REFUSED = [
    *(
        (name, ())
        for name in (
            "clock_settime settimeofday adjtimex clock_adjtime mount umount2 pivot_root move_mount open_tree open_tree_attr fsopen fsconfig fsmount "
            "fspick mount_setattr unshare setns chroot fchroot add_key request_key keyctl bpf perf_event_open io_uring_setup io_uring_enter io_uring_register "
            "userfaultfd ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd vmsplice name_to_handle_at open_by_handle_at "
            "modify_ldt kexec_load kexec_file_load swapon swapoff init_module finit_module delete_module reboot quotactl quotactl_fd fanotify_init "
            "fanotify_mark nfsservctl acct syslog iopl ioperm lookup_dcookie move_pages migrate_pages mbind memfd_secret clone3"
        ).split()
    ),
    *(("clone", (1 << bit | 17,)) for bit in (17, 25, 26, 27, 28, 29, 30)),
    *(("ioctl", (0, cmd)) for cmd in (0x5412, 0x541C, 0x5423, 0x541D)),
    *(("fcntl", (3, cmd)) for cmd in (1024, 1026)),
    *(("socket", (family, 3)) for family in (3, 4, 5, 9, 17, 21, 29, 31, 38, 40, 44)),
    *(("socket", (16, 3, protocol)) for protocol in (2, 6, 9, 12, 15)),
    *(("seccomp", (1, flags)) for flags in (1, 8, 9)),
]


@pytest.mark.parametrize("name", SHIPPED)
def test_dangerous_calls_are_refused_everywhere(name: str) -> None:
    for arch in Arch:
        program = decode(filter_of(name, arch).bpf)
        for syscall, arguments in ALWAYS_REFUSED:
            number = syscall_number(arch, syscall)
            for upper in (0, *UPPER) if number is not None else ():
                data = pack_data(number or 0, audit_arch(arch), [value | upper for value in arguments])
                value = run_program(program, data)
                assert value == RET_USER_NOTIF or value & 0xFFFF_0000 == RET_ERRNO, (syscall, arguments, arch)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_syscall_has_been_thought_of(name: str) -> None:
    known = syscall_names(Arch.X86_64) | syscall_names(Arch.AARCH64)
    missing = known - set(policy_of(name).rules)
    # `base` is the ground of the others, who decide the rest.
    assert not missing or name == "base"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_refusal_gives_its_reason(name: str) -> None:
    for layer in policy_of(name).stack:
        for rule in layer.rules:
            outcomes = [rule.outcome, rule.otherwise]
            recorded = any(outcome is not None and outcome.action is Action.NOTIFY for outcome in outcomes)
            assert rule.reason or not recorded, str(rule.place)


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("name", SHIPPED)
def test_listing_is_as_reviewed(name: str, arch: Arch) -> None:
    listing = disassemble(filter_of(name, arch))
    path = GOLDEN / f"{name}.{arch}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(listing)
    assert path.read_text() == listing, "the filter changed; review it with UPDATE_GOLDEN=1 and git diff"


def test_compiling_twice_gives_the_same_bytes() -> None:
    again = compiler.compile_filter(load_policy("strict"), Arch.X86_64)
    assert again == filter_of("strict", Arch.X86_64)
    assert again.instructions == len(again.bpf) // 8


def build(text: str) -> SyscallPolicy:
    policy = merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)
    check_policy(policy)
    return policy


LAUNCH = '[[rule]]\nsyscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]\naction = "allow"\n'


@pytest.mark.parametrize("missing", compiler.LAUNCH_CALLS)
@pytest.mark.parametrize("how", ["absent", "refused", "conditional"])
def test_launch_calls_must_be_allowed(missing: str, how: str) -> None:
    text = 'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n' + LAUNCH.replace(f'"{missing}"', '"getpid"')
    if how == "refused":
        text += f'[[rule]]\nsyscalls = ["{missing}"]\naction = "errno EPERM"\n'
    if how == "conditional" and missing in ("read", "write"):
        text += f'[[rule]]\nsyscalls = ["{missing}"]\naction = "allow"\nwhen = "fd == 1"\nelse = "errno EPERM"\n'
    with pytest.raises(CompileError, match=f"syscall `{missing}` must be allowed unconditionally"):
        compiler.compile_filter(build(text), Arch.X86_64)


# ------------------------------------------------------------- random policies

ARGUMENTS = {"socket": ("family", "type", "protocol"), "mprotect": ("prot",), "fchmod": ("mode",), "clone": ("flags",), "close": ("fd",)}
VALUES = st.sampled_from([0, 1, 2, 3, 5, 8, 0x10, 0x7F, 0x80, 0xFFFF]) | st.integers(0, 0xFFFF)


@st.composite
def comparisons(draw: st.DrawFn, argument: str) -> str:
    kind = draw(st.sampled_from(["compare", "mask", "in"]))
    if kind == "compare":
        return f"{argument} {draw(st.sampled_from(['==', '!=', '<', '<=', '>', '>=']))} {draw(VALUES)}"
    if kind == "mask":
        mask = draw(VALUES)
        return f"{argument} & {mask} {draw(st.sampled_from(['==', '!=']))} {draw(VALUES) & mask}"
    values = draw(st.lists(VALUES, min_size=1, max_size=4, unique=True))
    return f"{argument} {draw(st.sampled_from(['in', 'not in']))} {{{', '.join(map(str, values))}}}"


@st.composite
def conditions(draw: st.DrawFn, syscall: str) -> str:
    parts = [draw(comparisons(draw(st.sampled_from(ARGUMENTS[syscall])))) for _ in range(draw(st.integers(1, 3)))]
    if len(parts) == 3:
        return f"{parts[0]} and ({parts[1]} or {parts[2]})"
    return draw(st.sampled_from([" and ", " or "])).join(parts)


@st.composite
def policies(draw: st.DrawFn) -> str:
    actions = st.sampled_from(["allow", "errno EPERM", "errno EACCES", "log", "kill-process", "trap"])
    text = f'name = "p"\ndescription = "d"\ndefault = "{draw(actions)}"\n' + LAUNCH
    for syscall in draw(st.lists(st.sampled_from(sorted(ARGUMENTS)), min_size=1, max_size=3, unique=True)):
        for _ in range(draw(st.integers(0, 2))):
            audit = ""
            action = draw(actions)
            if action.startswith("errno"):
                audit = f"audit = {draw(st.sampled_from(['true', 'false']))}\n"
            text += f'[[rule]]\nsyscalls = ["{syscall}"]\naction = "{action}"\nwhen = "{draw(conditions(syscall))}"\n{audit}'
        text += f'[[rule]]\nsyscalls = ["{syscall}"]\naction = "{draw(actions)}"\n'
    return text


REGISTERS = VALUES | st.builds(lambda low, high: low | high, VALUES, st.sampled_from(UPPER)) | st.integers(0, (1 << 64) - 1)


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    text=policies(),
    calls=st.lists(st.tuples(*[REGISTERS] * 6), min_size=8, max_size=8),
    arch=st.sampled_from(list(Arch)),
    notify=st.booleans(),
)
def test_random_policies_compile_to_their_meaning(text: str, calls: list[tuple[int, ...]], arch: Arch, notify: bool) -> None:
    policy = merge_layers((parse_layer(text.encode(), "p.toml", GROUPS),), GROUPS)
    # Rules that cannot matter are refused by check_policy; here they must be harmless.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "check_policy", lambda policy: None)
        try:
            program = decode(compiler.compile_filter(policy, arch, notify=notify).bpf)
        except CompileError as error:
            # Complements of several registers multiply; what does not fit is refused, never shortened.
            assert "more tests than a filter can hold" in error.message or "the kernel would refuse" in error.message
            reject()
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        assert number is not None
        for arguments in (*calls, *edges(policy, syscall, arch)[:150]):
            actual = run_program(program, pack_data(number, audit_arch(arch), arguments))
            assert actual == expected(policy, arch, number, arguments, notify), (syscall, [hex(each) for each in arguments])
