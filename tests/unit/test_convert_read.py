"""Reading containers' seccomp profiles: what is refused, and with which words and place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.abi.arch import Arch
from sandbox.errors import CompileError, PolicyError
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.convert import Converted, convert_profile
from sandbox.seccomp.convert_meaning import action_word
from sandbox.seccomp.decide import decide
from sandbox.seccomp.evaluate import RET_ERRNO, RET_LOG

X86 = Arch.X86_64
LAUNCH = ["read", "write", "execve", "exit_group", "rt_sigreturn"]


def profile(*rules: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": LAUNCH, "action": "SCMP_ACT_ALLOW"}, *rules], **top}


def rule(name: str, action: str = "ALLOW", *args: tuple[int, str, int, int] | tuple[int, str, int], **keys: Any) -> dict[str, Any]:
    tests = [{"index": arg[0], "op": f"SCMP_CMP_{arg[1]}", "value": arg[2], "valueTwo": arg[3] if len(arg) > 3 else 0} for arg in args]
    return {"names": [name], "action": f"SCMP_ACT_{action}", "args": tests, **keys}


def convert(table: dict[str, Any] | str, *, exact: bool = True, arch: Arch = X86, **options: Any) -> Converted:
    content = table if isinstance(table, str) else json.dumps(table)
    options = {"kernel": (6, 1), "name": "p", "description": "d", **options}
    return convert_profile(content.encode(), "p.json", arch, exact=exact, **options)


BAD: list[tuple[str, str, str, str | None]] = [
    ("", "profile is not valid JSON: a value is needed, but the text ends there", ":1", None),
    ('{"a" 1}', "profile is not valid JSON: `:` is needed, not `1`", ":1, a", None),
    ("{\n'a'}", "profile is not valid JSON: a key or `}` is needed, not `'`", ":2", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW"}\n\n}', "profile is not valid JSON: it goes on with `}` where it should end", ":3", None),
    ('{"syscalls": [1,]}', "profile is not valid JSON: a value is needed, not `]`", ":1, syscalls[1]", None),
    ("[" * 40, "profile is nested more than 16 deep", ":1", None),
    ("[]", "profile must be an object", ":1", None),
    ("{}", "profile has no `defaultAction`", ":1", None),
    ('{"defaultAction": 3}', "`defaultAction` must be text", ":1, defaultAction", None),
    ('{"defaultAction": "SCMP_ACT_ALOW"}', "unknown action `SCMP_ACT_ALOW`", ":1, defaultAction", "did you mean `SCMP_ACT_ALLOW`?"),
    ('{"defaultAction": "SCMP_ACT_ALLOW",\n"sycalls": []}', "unknown key `sycalls`", ":2, sycalls", "did you mean `syscalls`?"),
    ('{"defaultAction": "SCMP_ACT_ALLOW",\n"defaultAction": "x"}', "key `defaultAction` is there twice, before in line 1", ":2", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}', "unknown flag `X`", ":1, flags[0]", None),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}', "`defaultErrnoRet` is 70000; at most 4095", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1}', "number `-1` is not an integer from 0 to 2^64 - 1", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}', "`defaultErrnoRet` goes with SCMP_ACT_ERRNO and", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPREM"}', "unknown errno `EPREM`", ":1", "did you mean `EPERM`?"),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "2147418112"}', "`defaultErrno` is 2147418112; at most 4095 is possible", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "' + "9" * 5000 + '"}', "unknown errno `999", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "١"}', "unknown errno `١`", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPERM", "defaultErrnoRet": 2}', "`defaultErrno` is EPERM but `def", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "archMap": [{}]}', "both `architectures` and", ":1", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x86"]}', "unknown architecture `x86`", ":1, architectures[0]", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}', "profile is not for x86_64: its architectures", "", None),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}', "`syscalls` must be a list", ":1, syscalls", None),
]


@pytest.mark.parametrize(("text", "message", "origin", "hint"), BAD)
def test_bad_profiles_are_refused_with_their_place(text: str, message: str, origin: str, hint: str | None) -> None:
    with pytest.raises(PolicyError) as caught:
        convert(text)
    assert caught.value.message.startswith(message)
    assert (caught.value.origin or "").startswith(f"p.json{origin}")
    if hint is not None:
        assert caught.value.hint == hint


BAD_RULES: list[tuple[str, str, str]] = [
    ('{"action": "SCMP_ACT_ALLOW"}', "`syscalls[0]` names no syscall", "syscalls[0]"),
    ('{"names": ["read"]}', "`syscalls[0]` has no `action`", "syscalls[0]"),
    ('{"names": ["read"], "name": "write", "action": "SCMP_ACT_ALLOW"}', "both `name` and `names` are given", "syscalls[0].name"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "arg": []}', "unknown key `arg`", "syscalls[0].arg"),
    ('{"names": ["read\\n"], "action": "SCMP_ACT_ALLOW"}', "`read\n` is not a syscall's name", "syscalls[0].names[0]"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}', "`syscalls[0].errnoRet` goes with", "syscalls[0].errnoRet"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}',
     "`syscalls[0].args[0].index` is 6; at most 5 is possible", "syscalls[0].args[0].index"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQUAL"}]}',
     "unknown operator `SCMP_CMP_EQUAL`", "syscalls[0].args[0].op"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": "1", "op": "SCMP_CMP_EQ"}]}',
     "`syscalls[0].args[0].value` must be a number", "syscalls[0].args[0].value"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]}',
     "`valueTwo` goes with SCMP_CMP_MASKED_EQ only", "syscalls[0].args[0].valueTwo"),
    ('{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errno": "2147418112"}',
     "`syscalls[0].errno` is 2147418112; at most 4095 is possible", "syscalls[0].errno"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}',
     "`syscalls[0].args[0]` has no `value`", "syscalls[0].args[0]"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMN"]}}',
     "unknown capability `CAP_SYS_ADMN`", "syscalls[0].includes.caps[0]"),
    ('{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4"}}',
     "kernel version `4` is not two numbers, as `4.8`", "syscalls[0].includes.minKernel"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "path"), BAD_RULES)
def test_bad_rules_are_refused_with_line_and_path(text: str, message: str, path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        convert('{"defaultAction": "SCMP_ACT_ERRNO",\n"syscalls": [\n' + text + "]}")
    assert caught.value.message.startswith(message)
    assert caught.value.origin == f"p.json:3, {path}"


@pytest.mark.parametrize(
    ("action", "message", "instead"),
    [
        ("KILL", "action SCMP_ACT_KILL (of the thread) cannot be said in a policy", "kill-thread=kill-process"),
        ("KILL_THREAD", "action SCMP_ACT_KILL (of the thread) cannot be said in a policy", "kill-thread=kill-process"),
        ("TRACE", "action SCMP_ACT_TRACE cannot be said in a policy", "trace=errno EPERM"),
        ("NOTIFY", "action SCMP_ACT_NOTIFY cannot be said in a policy", "notify=errno EPERM"),
    ],
)
def test_actions_that_a_policy_cannot_say_are_refused_or_replaced(action: str, message: str, instead: str) -> None:
    table = profile(rule("mkdir", action, **({"errnoRet": 7} if action == "TRACE" else {})))
    with pytest.raises(PolicyError) as caught:
        convert(table)
    assert caught.value.message.startswith(message)
    assert caught.value.origin == "p.json:1, syscalls[1]"
    assert caught.value.hint == f"choose another: `--as '{instead}'`"
    made = convert(table, replacements={instead.partition("=")[0]: RET_LOG})
    assert made.differences == () and decide(made.policy, X86, 83, (0,) * 6).action == "log"


def test_an_order_beside_a_negative_number_is_written_unsigned() -> None:
    made = convert(profile(rule("setpriority", "ALLOW", (2, "GE", 0xFFFFFFFB)), rule("openat", "ALLOW", (0, "LT", 0xFFFFFF9C))), exact=False)
    assert "niceval >= 0xfffffffb" in made.text and "dfd < 0xffffff9c" in made.text


def test_an_errno_that_is_none_is_refused() -> None:
    with pytest.raises(PolicyError, match="which is no errno"):
        convert(profile(rule("mkdir", "ERRNO", errnoRet=0)))
    assert action_word(RET_ERRNO | 38, "") == "errno ENOSYS"


def test_unknown_names_are_left_out_as_runtimes_do_and_refused_when_strict() -> None:
    table = profile({"names": ["mkdir", "mkdri", "waitpid"], "action": "SCMP_ACT_ALLOW"})
    assert "left out, because neither x86_64 nor aarch64 has them: mkdri, waitpid" in convert(table).notes
    with pytest.raises(PolicyError) as caught:
        convert(table, strict=True)
    assert (caught.value.message, caught.value.origin) == ("unknown syscall `mkdri`", "p.json:1, syscalls[1].names[1]")
    assert caught.value.hint == "did you mean `mkdir`?"


def test_a_policy_that_cannot_launch_is_said_to_be_one() -> None:
    made = convert({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read")]})
    assert any("`write`, `execve`, `exit_group`, `rt_sigreturn`" in note for note in made.notes)
    with pytest.raises(CompileError, match="must be allowed unconditionally"):
        compile_filter(made.policy, X86)
