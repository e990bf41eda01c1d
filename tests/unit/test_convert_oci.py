"""Containers' seccomp profiles: what is read, what is refused, and that a conversion is libseccomp's own filter."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox.abi.arch import Arch
from sandbox.errors import CompileError, PolicyError
from sandbox.policy import locate
from sandbox.policy.emulation import without_emulation
from sandbox.policy.load import load_policy
from sandbox.seccomp import convert_comparison, convert_toml
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.convert import Converted, convert_policy, convert_profile
from sandbox.seccomp.convert_oci_read import read_oci, select
from sandbox.seccomp.convert_oci_write import convert_to_oci
from sandbox.seccomp.evaluate import RET_ALLOW, RET_ERRNO, RET_LOG, RET_TRAP, decode, run_program
from sandbox.seccomp.prove import ProgramDecider, describe_value, differences

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import docker

X86 = Arch.X86_64
NATIVE = Arch(os.uname().machine)
SHIPPED = tuple(sorted(path.stem for path in locate.data_dir("policies").glob("*.toml") if path.stem != "groups"))
LAUNCH = ["read", "write", "execve", "exit_group", "rt_sigreturn"]
HIGH = 1 << 32

EVERYTHING = """\
{
  "defaultAction": "SCMP_ACT_ERRNO",
  "defaultErrnoRet": 38,
  "archMap": [
    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}
  ],
  "flags": ["SECCOMP_FILTER_FLAG_LOG"],
  "syscalls": [
    {"names": ["read", "write", "execve", "exit_group", "rt_sigreturn", "waitpid", "read"], "action": "SCMP_ACT_ALLOW", "args": []},
    {"name": "getpid", "action": "SCMP_ACT_LOG", "args": null, "comment": "who is \\"it\\"?\\n next line", "includes": {}, "excludes": {}},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_LT"}]},
    {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 41, "valueTwo": 0, "op": "SCMP_CMP_GT"}]},
    {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [
      {"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 5, "op": "SCMP_CMP_GE"}]},
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
     "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]}},
    {"names": ["clone", "mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
    {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.0"}},
    {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
    {"names": ["lseek"], "action": "SCMP_ACT_TRAP", "args": [
      {"index": 1, "value": 4294967295, "op": "SCMP_CMP_LE"}, {"index": 1, "value": 9223372036854775808, "op": "SCMP_CMP_GE"}]},
    {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"}]},
    {"names": ["munmap"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 0, "value": 4096, "op": "SCMP_CMP_NE"}]},
    {"names": ["sync"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 5, "value": 1, "op": "SCMP_CMP_EQ"}]},
    {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
  ]
}
"""


def profile(*rules: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": LAUNCH, "action": "SCMP_ACT_ALLOW"}, *rules], **top}


def rule(name: str, action: str = "ALLOW", *args: tuple[int, str, int, int] | tuple[int, str, int], **keys: Any) -> dict[str, Any]:
    tests = [{"index": arg[0], "op": f"SCMP_CMP_{arg[1]}", "value": arg[2], "valueTwo": arg[3] if len(arg) > 3 else 0} for arg in args]
    return {"names": [name], "action": f"SCMP_ACT_{action}", "args": tests, **keys}


def convert(table: dict[str, Any] | str, *, exact: bool = True, arch: Arch = X86, **options: Any) -> Converted:
    content = table if isinstance(table, str) else json.dumps(table)
    options = {"kernel": (6, 1), "name": "p", "description": "d", **options}
    return convert_profile(content.encode(), "p.json", arch, exact=exact, **options)


# ---------------------------------------------------------------- the conversion is libseccomp's filter


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("kernel", [(4, 7), (4, 8), (6, 0)])
@pytest.mark.parametrize("capabilities", [frozenset[str](), frozenset({"CAP_SYS_ADMIN"})], ids=["none", "sys_admin"])
def test_every_feature_converts_to_what_libseccomp_makes_of_it(capabilities: frozenset[str], kernel: tuple[int, int], arch: Arch) -> None:
    if arch is not NATIVE and NATIVE is not X86:
        pytest.skip("libseccomp makes filters for both architectures on x86_64 only")
    table = json.loads(EVERYTHING)
    program = docker.reference(table, arch, capabilities, kernel, docker.by_name)
    made = convert(EVERYTHING, arch=arch, capabilities=capabilities, kernel=kernel)
    assert docker.compare(made, program, arch) == () == made.differences
    assert len(program) == made.foreign_instructions or arch is not NATIVE
    # The text is a policy for both architectures, with and without a listener.
    for other in Arch:
        for notify in (True, False):
            assert compile_filter(made.policy, other, notify=notify).proof


def test_the_text_is_read_by_people() -> None:
    text = convert(EVERYTHING, exact=False).text
    assert text.startswith("# Converted from p.json for x86_64, Linux 6.1, capabilities: none.\n")
    for line in (
        'syscalls = ["read", "write", "execve", "exit_group", "rt_sigreturn"]',
        'reason = "who is \\"it\\"? next line"',
        'when = "family < AF_VSOCK or family > AF_KCM"',
        'when = "family == AF_VSOCK and type >= SOCK_SEQPACKET"',
        'action = "errno EAFNOSUPPORT"',
        'else = "errno ENOSYS"',
        'when = "flags & (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET) == 0"',
        'when = "offset <= 0xffffffff or offset >= 0x8000000000000000"',
        'when = "personality == 0xffffffff"',
        'when = "addr != 4096"',
        'when = "register(5) == 1"',
    ):
        assert f"\n{line}\n" in text, line
    assert "waitpid" not in text and "unshare" not in text and "bpf" not in text


def test_by_type_the_bits_that_the_kernel_drops_decide_nothing() -> None:
    table = profile(rule("socket", "ALLOW", (0, "NE", 40)))
    loose, tight = convert(table), convert(table, exact=False)
    assert loose.differences == () and 'when = "register(family) != AF_VSOCK"' in loose.text
    (found,) = tight.differences
    assert found.syscall == "socket" and found.call.arguments[0] == 40 | HIGH
    assert (describe_value(found.left), describe_value(found.right)) == ("errno EPERM", "allow")
    results = [[run_program(decode(made.filter.bpf), docker_call(41, family)) for family in (1, 40, 40 | HIGH)] for made in (loose, tight)]
    assert results == [[RET_ALLOW, RET_ERRNO | 1, RET_ALLOW], [RET_ALLOW, RET_ERRNO | 1, RET_ERRNO | 1]]


def docker_call(number: int, *arguments: int) -> tuple[int, ...]:
    from sandbox.seccomp.evaluate import pack_data

    return pack_data(number, 0xC000003E, arguments)


@pytest.mark.parametrize(
    ("test", "word"),
    [
        ((0, "EQ", (1 << 64) - 1), "personality == 0xffffffff"),  # the int -1
        ((0, "EQ", 8 | HIGH), None),  # no int is that
        ((0, "NE", 8 | HIGH), ""),
        ((0, "LT", HIGH), ""),
        ((0, "LE", HIGH - 1), ""),
        ((0, "GT", HIGH - 1), None),
        ((0, "GE", HIGH), None),
        ((0, "GE", 0), ""),
        ((0, "LT", 0), None),
        ((0, "MASKED_EQ", 0xFF, 8 | HIGH), "personality & 0xff == PER_LINUX32"),  # bits outside the mask are dropped
        ((0, "MASKED_EQ", 0xFF | HIGH, 8), "personality & 0xff == PER_LINUX32"),
        ((0, "MASKED_EQ", 0xFF | HIGH, 8 | HIGH), None),
        ((0, "MASKED_EQ", 0, 0), ""),
        ((0, "MASKED_EQ", HIGH - 1, 8), "personality == PER_LINUX32"),
    ],
)
def test_values_that_no_int_has(test: tuple[int, str, int], word: str | None) -> None:
    made = convert(profile(rule("personality", "ALLOW", test)), exact=False)
    entries = made.policy.rules.get("personality")
    if word is None:
        assert entries is None and any("never matches" in note for note in made.notes)
    else:
        assert entries is not None and entries[0].rule.condition_text == word


_TESTS = st.tuples(
    st.integers(0, 5),
    st.sampled_from(["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]),
    st.sampled_from([0, 1, 2, 5, 0xF, 0xFFFF_FFFF, HIGH, HIGH | 5, (1 << 63), (1 << 64) - 1, 0xFF00_0000_0000_00FF]),
    st.sampled_from([0, 1, 5, 0xFF, HIGH, (1 << 64) - 1]),
)
_RULES = st.builds(
    lambda name, action, tests, errno: rule(
        name,
        action,
        *((*test[:3], test[3] if test[1] == "MASKED_EQ" else 0) for test in tests),
        **({"errnoRet": errno} if action == "ERRNO" else {}),
    ),
    st.sampled_from(["socket", "personality", "clone", "fcntl", "lseek", "munmap", "sync", "mkdir", "ioctl"]),
    st.sampled_from(["ALLOW", "ALLOW", "ALLOW", "ERRNO", "LOG", "TRAP", "KILL_PROCESS"]),
    st.lists(_TESTS, max_size=3),
    st.sampled_from([1, 22, 38]),
)


def said(table: dict[str, Any], name: str, arguments: tuple[int, ...]) -> int:
    """Return what a profile's rules say about a call, by their text alone."""
    default = docker.action_of(table, "defaultAction", "defaultErrnoRet")
    found: list[int] = []
    for each in table["syscalls"]:
        action = docker.action_of(each, "action", "errnoRet")
        if name not in each["names"] or action == default:
            continue
        tests = [holds(arguments[arg["index"]], arg["op"], arg["value"], arg["valueTwo"]) for arg in each.get("args", [])]
        indexes = [arg["index"] for arg in each.get("args", [])]
        if not tests:
            return action
        if any(tests) if len(set(indexes)) < len(indexes) else all(tests):
            found.append(action)
    return found[0] if found else default


def holds(actual: int, op: str, value: int, two: int) -> bool:
    table = {"NE": actual != value, "LT": actual < value, "LE": actual <= value, "EQ": actual == value}
    table |= {"GE": actual >= value, "GT": actual > value, "MASKED_EQ": actual & value == two & value}
    return table[op.removeprefix("SCMP_CMP_")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([rule("socket", "ALLOW", (0, "NE", 0)), rule("socket", "ERRNO", (0, "NE", 0), errnoRet=1), rule("socket", "ALLOW")], "KILL_PROCESS")
@given(st.lists(_RULES, min_size=1, max_size=6), st.sampled_from(["ERRNO", "ALLOW", "KILL_PROCESS", "LOG"]))
def test_any_profile_is_converted_exactly_or_refused(rules: list[dict[str, Any]], default: str) -> None:
    table = {**profile(*rules), "defaultAction": f"SCMP_ACT_{default}"}
    try:
        loose = convert(table, arch=NATIVE, exact=False)
    except PolicyError as error:
        assert "with different actions match the same call" in error.message or "too complex" in error.message
        return
    except CompileError as error:
        # Two rules that differ in nothing but the action, with one after them that makes both idle: our reading is sound, libseccomp's is none.
        assert "File exists (EEXIST)" in error.message and "differ in nothing but the action" in (error.hint or "")
        with pytest.raises(OSError, match="17"):
            docker.reference(table, NATIVE, frozenset(), (6, 1), docker.by_name)
        return
    program = docker.reference(table, NATIVE, frozenset(), (6, 1), docker.by_name)
    assert docker.compare(loose, program, NATIVE) == loose.differences
    if not loose.misread:
        assert docker.compare(convert(table, arch=NATIVE), program, NATIVE) == ()
        return
    # A mistake of libseccomp's own: the rules' text agrees with us, and an exact conversion is refused.
    for one in loose.misread:
        assert one.left == said(table, one.syscall, one.call.arguments) != one.right == run_program(program, one.call.data())
    with pytest.raises(CompileError, match="libseccomp makes something else"):
        convert(table, arch=NATIVE)


def test_what_libseccomp_gets_wrong_is_not_copied() -> None:
    table = profile(rule("lseek", "ALLOW", (1, "LE", 0)), rule("lseek", "ALLOW", (1, "LT", HIGH)))
    with pytest.raises(CompileError, match="libseccomp gives errno EPERM, the rules say allow"):
        convert(table)
    made = convert(table, exact=False)
    assert made.misread == made.differences and made.misread[0].call.arguments[1] == 1
    assert run_program(decode(made.filter.bpf), docker_call(8, 0, 1)) == RET_ALLOW


# ---------------------------------------------------------------- what libseccomp does with rules that meet


def test_a_rule_without_tests_swallows_those_with_tests_and_the_first_stays() -> None:
    table = profile(rule("mkdir", "ALLOW", (1, "EQ", 5)), rule("mkdir", "LOG"), rule("mkdir", "TRAP"), rule("mkdir", "ALLOW", (1, "EQ", 6)))
    made = convert(table)
    assert docker.compare(made, docker.reference(table, X86, frozenset(), (6, 1), docker.by_name), X86) == ()
    assert [run_program(decode(made.filter.bpf), docker_call(83, 0, mode)) for mode in (5, 6, 7)] == [RET_LOG] * 3
    assert sum("has no effect" in note for note in made.notes) == 3


def test_rules_for_one_register_twice_are_alternatives() -> None:
    made = convert(profile(rule("lseek", "TRAP", (1, "GE", 5), (1, "LE", 2), (2, "EQ", 1))))
    calls = {(5, 0): RET_TRAP, (2, 0): RET_TRAP, (3, 0): RET_ERRNO | 1, (3, 1): RET_TRAP}
    assert {call: run_program(decode(made.filter.bpf), docker_call(8, 0, *call)) for call in calls} == calls


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (rule("mkdir", "ALLOW", (1, "EQ", 5)), rule("mkdir", "TRAP", (1, "EQ", 5))),
        (rule("mkdir", "ALLOW", (1, "EQ", 5)), rule("mkdir", "TRAP", (0, "EQ", 7))),
        (rule("mkdir", "ALLOW", (1, "EQ", 5)), rule("mkdir", "TRAP", (1, "EQ", 5), (0, "EQ", 1))),
        (rule("mkdir", "ALLOW", (1, "GT", 5)), rule("mkdir", "TRAP", (1, "EQ", 7))),
    ],
)
def test_what_only_libseccomps_order_decides_is_refused(one: dict[str, Any], two: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as caught:
        convert(profile(one, two))
    assert (
        caught.value.message
        == "two rules for `mkdir` with different actions match the same call; libseccomp decides by an order of its own"
    )
    assert caught.value.origin == "p.json:1, syscalls[1]; p.json:1, syscalls[2]"


def test_actions_that_meet_only_in_the_c_width_are_refused_there() -> None:
    table = profile(rule("mkdir", "ALLOW", (1, "EQ", 0xFFFF)), rule("mkdir", "TRAP", (1, "EQ", (1 << 64) - 1)))
    assert convert(table).differences == ()
    with pytest.raises(PolicyError, match="in their C width") as caught:
        convert(table, exact=False)
    assert caught.value.hint == "`--exact` compares whole registers"


# ---------------------------------------------------------------- the comparison can fail


def test_a_wrong_comparison_is_caught_with_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(convert_comparison._SIGNS, "LT", "<=")
    with pytest.raises(
        CompileError, match=r"libseccomp makes something else of profile `p.json` than its rules say: `socket\(family=AF_VSOCK"
    ):
        convert(profile(rule("socket", "ALLOW", (0, "LT", 40))))


def test_a_comparison_of_64_bits_in_32_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    table = profile(rule("socket", "ALLOW", (0, "NE", 40)))
    real = convert_toml.test_of
    monkeypatch.setattr(convert_toml, "test_of", lambda *words, exact, action: real(*words, exact=False, action=action))
    with pytest.raises(CompileError, match=r"register 0x100000028\)"):
        convert(table)


def test_a_lost_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_toml, "meanings", lambda profile, notes: convert_meanings(profile, notes)[:-1])
    from sandbox.seccomp.convert_meaning import meanings as convert_meanings

    with pytest.raises(CompileError, match="`mkdir"):
        convert(profile(rule("mkdir")))


def test_what_applies_to_a_container() -> None:
    read = read_oci(EVERYTHING.encode(), "p.json")

    def names(arch: Arch = X86, capabilities: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 1)) -> set[str]:
        return {name for rule in select(read, arch, capabilities, kernel).rules if not rule.args for name, _ in rule.names}

    assert names() >= {"ptrace", "arch_prctl", "getpid"} and not names() & {"mount", "bpf"}
    assert names(kernel=(4, 7)) >= {"bpf"} and "ptrace" not in names(kernel=(4, 7)) and "ptrace" in names(kernel=(4, 8))
    assert names(capabilities=("CAP_SYS_ADMIN",)) >= {"mount", "clone"}
    assert "arch_prctl" not in names(Arch.AARCH64)


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("arch", "notify"), [(X86, True), (X86, False), (Arch.AARCH64, False)], ids=["x86_64-notify", "x86_64-alone", "aarch64-alone"]
)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_policy_means_the_same_as_json(name: str, arch: Arch, notify: bool) -> None:
    text = convert_policy(load_policy(name), arch, notify=notify)
    table = json.loads(text)
    assert table["architectures"] == [f"SCMP_ARCH_{arch.upper()}"]
    if arch is NATIVE:
        # Again, with nothing of ours between the JSON and libseccomp.
        program = docker.reference(table, arch, frozenset(), (6, 1), docker.by_number)
        ours = compile_filter(without_emulation(load_policy(name)), arch, notify=notify)
        assert differences(ProgramDecider(program), ProgramDecider(decode(ours.bpf)), arch) == ()


def test_a_wrong_text_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.errors import InternalError
    from sandbox.seccomp import convert as conversions

    def spoiled(*words: Any, **options: Any) -> str:
        return convert_to_oci(*words, **options).replace('"errnoRet": 1,', '"errnoRet": 2,', 1)

    monkeypatch.setattr(conversions, "convert_to_oci", spoiled)
    with pytest.raises(InternalError, match="means something else as JSON"):
        convert_policy(load_policy("strict"), X86, notify=False)


def test_json_goes_there_and_back() -> None:
    made = convert(EVERYTHING, exact=False)
    back = convert(convert_policy(made.policy, X86, notify=False), exact=False)
    assert differences(ProgramDecider(decode(back.filter.bpf)), ProgramDecider(decode(made.filter.bpf)), X86) == ()


# ---------------------------------------------------------------- other people's profiles


def test_podmans_profile_converts_exactly() -> None:
    path = "/usr/share/containers/seccomp.json"
    if not os.path.exists(path):
        pytest.skip(f"there is no {path} (Debian: golang-github-containers-common)")
    lines: list[str] = []
    assert docker.study(path, [frozenset(), frozenset({"CAP_SYS_ADMIN"})], lines.append, arches=[NATIVE], kernels=[(6, 1)])
    assert sum("exact" in line and line.endswith("EQUAL for every call") for line in lines) == 4


@pytest.mark.slow
def test_dockers_profile_converts_exactly() -> None:
    path = os.environ.get("SANDBOX_DOCKER_PROFILE")
    if not path:
        pytest.skip("SANDBOX_DOCKER_PROFILE does not name moby's seccomp/default.json, which is not part of this repository")
    lines: list[str] = []
    assert docker.study(path, [frozenset(), frozenset({"CAP_SYS_ADMIN"})], lines.append)
    assert sum("exact" in line and line.endswith("EQUAL for every call") for line in lines) >= 12
