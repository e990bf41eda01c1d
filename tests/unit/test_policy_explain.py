"""Calls as people write them, which rule decides them, and the two tools that print it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_table
from sandbox.cli.main import main
from sandbox.policy.load import load_policy
from sandbox.policy.locate import names
from sandbox.seccomp.decide import decide
from sandbox.seccomp.explain import cases, explain_shape, outcome_text
from sandbox.seccomp.shape import CallError, parse_call

U64 = (1 << 64) - 1
INT = 0xFFFF_FFFF

WRITTEN = [
    ("getpid", "getpid", {}),
    ("getpid()", "getpid", {}),
    (" socket ( AF_VSOCK , SOCK_STREAM|SOCK_CLOEXEC , 0 ) ", "socket", {0: (INT, 40), 1: (INT, 0x80001), 2: (INT, 0)}),
    ("socket(AF_UNIX)", "socket", {0: (INT, 1)}),
    ("socket(_, SOCK_RAW)", "socket", {1: (INT, 3)}),
    ("socket(AF_UNIX, ...)", "socket", {0: (INT, 1)}),
    ("ioctl(cmd=TIOCSTI)", "ioctl", {1: (INT, 0x5412)}),
    ("ioctl(0, cmd=TIOCSTI)", "ioctl", {0: (INT, 0), 1: (INT, 0x5412)}),
    ("ioctl(fd=0, cmd=TIOCSTI (register 0x100005412), arg=0)", "ioctl", {0: (INT, 0), 1: (U64, 0x100005412), 2: (U64, 0)}),
    ("ioctl(0, 0x100005412)", "ioctl", {0: (INT, 0), 1: (U64, 0x100005412)}),
    ('openat(AT_FDCWD, "/etc/\\"passwd", O_RDONLY, 0644)', "openat", {0: (INT, 0xFFFFFF9C), 2: (INT, 0), 3: (0xFFFF, 0o644)}),
    ("open(NULL)", "open", {0: (U64, 0)}),
    ("kill(-1, SIGKILL)", "kill", {0: (INT, INT), 1: (INT, 9)}),
    ("clone(~0)", "clone", {0: (INT, INT)}),
    ("clone((CLONE_NEWUSER | CLONE_NEWNS) | 0x11)", "clone", {0: (INT, 0x10020011)}),
    ("41(2, 1, 0)", "socket", {0: (INT, 2), 1: (INT, 1), 2: (INT, 0)}),
    ("#41", "socket", {}),
    ("9999(7)", None, {0: (U64, 7)}),
]


@pytest.mark.parametrize(("text", "syscall", "fixed"), WRITTEN)
def test_calls_as_they_are_written(text: str, syscall: str | None, fixed: dict[int, tuple[int, int]]) -> None:
    shape = parse_call(text, "x86_64")
    assert (shape.syscall, shape.fixed) == (syscall, fixed)


WRONG = [
    ("", "call needs a syscall's name or number", 0, None),
    ("sokcet(1)", "unknown syscall `sokcet`", 0, "did you mean `socket`?"),
    ("open_tree_att", "unknown syscall `open_tree_att`", 0, "did you mean `open_tree_attr`?"),
    ("socket(AF_VSOKC)", "unknown constant `AF_VSOKC`", 7, "did you mean `AF_VSOCK`?"),
    ("socket(famly=1)", "syscall `socket` has no argument `famly`; its arguments: family, type, protocol", 7, "did you mean `family`?"),
    ("socket(1, 2, 3, 4)", "syscall `socket` has 3 arguments: family, type, protocol", 16, None),
    ("getpid(1)", "syscall `getpid` has 0 arguments", 7, None),
    ("socket(family=1, 2)", "an argument without its name follows one with a name", 17, None),
    ("socket(1, family=1)", "argument `family` is given twice", 10, None),
    ("socket(family=1, family=2)", "argument `family` is given twice", 17, None),
    ("socket(1", "call needs `,` or `)` here", 8, None),
    ("socket(1 2)", "call needs `,` or `)` here, not `2`", 9, None),
    ("socket(1) x", "call goes on with `x` where it should end", 10, None),
    ("socket(1|)", "call needs a value here, not `)`", 9, None),
    ("socket((1)", "call needs `,` or `)` here", 10, None),
    ("socket(0x1g)", "call has a malformed number `0x1g`", 7, None),
    ("socket(089)", "call has a malformed octal number `089`", 7, None),
    ("socket(;)", "call has an unexpected `;`", 7, None),
    ("socket(99999999999999999999)", "call has `99999999999999999999`, which is more than 64 bits", 7, None),
    ("4294967296", "syscall number `4294967296` is more than 32 bits", 0, None),
    ('socket("unix")', "a text can only stand for a pointer, and argument 1 of `socket` is none", 7, None),
    ("socket(..., 1)", "`...` stands for all further arguments, so nothing may follow it", 10, None),
    ("socket(" + "-" * 40 + "1)", "call is nested more than 32 deep", 39, None),
]


@pytest.mark.parametrize(("text", "message", "position", "hint"), WRONG)
def test_mistakes_have_a_caret(text: str, message: str, position: int, hint: str | None) -> None:
    with pytest.raises(CallError) as caught:
        parse_call(text, "x86_64")
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.origin == f"{text}\n{' ' * position}^"


def test_a_call_of_the_other_architecture_only() -> None:
    with pytest.raises(CallError) as caught:
        parse_call("open", "aarch64")
    assert (caught.value.message, caught.value.hint) == ("aarch64 has no syscall `open`", "x86_64 has it: `--arch x86_64`")


@given(st.text(alphabet="socket(AF_UNIX, |~-0x17)=_.#\"' \n", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_call_or_an_error_with_its_place(text: str) -> None:
    try:
        parse_call(text, "x86_64")
    except CallError as error:
        assert error.origin is not None and error.origin.endswith("^")


@pytest.mark.parametrize("text", ["getpid", "41", "0x40000029", "execve"])
@pytest.mark.parametrize("abi", ["x32", "i386"])
def test_other_entries_always_kill(text: str, abi: str) -> None:
    (case,) = explain_shape(load_policy("permissive"), parse_call(text, abi))  # type: ignore[arg-type]
    assert (outcome_text(case.outcome), case.foreign, case.ref) == ("kill-process", True, None)


def test_x32_numbers_are_foreign_however_they_are_written() -> None:
    assert parse_call("0x40000029", "x86_64").foreign
    assert not parse_call("0xffffffff", "x86_64").foreign
    assert not parse_call("0x40000029", "aarch64").foreign


@pytest.mark.parametrize("name", names("policies"))
@pytest.mark.parametrize("arch", list(Arch))
def test_cases_divide_all_calls_and_agree_with_the_text(name: str, arch: Arch) -> None:
    """Every class of calls lies in one case; its example is decided as the case says (`cases` itself asks `decide`)."""
    policy = load_policy(name)
    for syscall, number in syscall_table(arch).items():
        found = cases(policy, arch, syscall)
        for case in found:
            for box in case.boxes:
                for index, cubes in box.items():
                    for _, value in cubes:
                        arguments = [next(iter(box.get(at, ((0, 0),))))[1] for at in range(6)]
                        arguments[index] = value
                        decided = decide(policy, arch, number, arguments)
                        assert (decided.action, decided.errno, decided.rule) == (case.outcome.action, case.outcome.errno, case.ref)


def test_given_arguments_leave_the_rest_of_a_condition() -> None:
    policy = load_policy("strict")
    found = explain_shape(policy, parse_call("socketpair(AF_UNIX)", "x86_64"))
    assert [(case.condition, case.otherwise, outcome_text(case.outcome)) for case in found] == [
        ("type & 0xf in {SOCK_STREAM, SOCK_SEQPACKET}", False, "allow"),
        ("type & 0xf in {SOCK_STREAM, SOCK_SEQPACKET}", True, "errno EPERM"),
    ]
    (only,) = explain_shape(policy, parse_call("socketpair(AF_INET)", "x86_64"))
    assert (only.condition, outcome_text(only.outcome)) == ("", "errno EPERM")


def test_upper_bits_that_the_kernel_drops_change_nothing() -> None:
    policy = load_policy("default")
    (plain,) = explain_shape(policy, parse_call("ioctl(0, TIOCSTI)", "x86_64"))
    (smuggled,) = explain_shape(policy, parse_call("ioctl(0, TIOCSTI | 0x100000000)", "x86_64"))
    assert plain.outcome == smuggled.outcome and outcome_text(plain.outcome) == "errno EPERM"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["policy", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


OWN = """name = "own"
description = "x"
extends = ["base"]

[[rule]]
syscalls = ["mkdir"]
action = "allow"

[[rule]]
syscalls = ["fchmod"]
action = "errno EROFS"
when = "mode & 0o4000 == 0o4000"
audit = false

[[rule]]
syscalls = ["fchmod"]
action = "allow"
reason = "plain modes"
"""


def test_explain_prints_rule_place_condition_reason_and_filter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    status, out, _ = run(capsys, "explain", "-a", "x86_64", str(path), "fchmod", "fchmod(3, 04755)", "getpid(")
    assert status == 125 and out == ""  # a wrong call among them: nothing half-told
    status, out, _ = run(capsys, "explain", "-a", "x86_64", str(path), "fchmod", "fchmod(3, 04755)", "mkdirat")
    assert status == 0
    assert (
        out
        == f"""fchmod
  when mode & 0o4000 == 0o4000
    errno EROFS, not recorded
    rule     {path}:9, rule 2 of `own`
    when     mode & 0o4000 == 0o4000
    example  fchmod(fd=0, mode=04000)
    filter   errno EROFS
  otherwise
    allow
    rule     {path}:15, rule 3 of `own`
    reason   plain modes
    example  fchmod(fd=0, mode=0)
    filter   allow

fchmod(3, 04755)
  errno EROFS, not recorded
  rule     {path}:9, rule 2 of `own`
  when     mode & 0o4000 == 0o4000
  filter   errno EROFS

mkdirat
  errno ENOSYS
  rule     base.toml:11, the default of `base`
  reason   no rule of the policy names this call
  filter   notify: the supervisor refuses and records it
"""
    )


def test_explain_says_who_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "explain", "strict", "sysinfo"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sysinfo\n  emulate\n") and out.endswith("  filter   notify: the supervisor answers; allow without a machine view\n")


def test_explain_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    status, out, _ = run(capsys, "explain", "--json", str(path), "fchmod(_, 04000)", "-a", "x86_64")
    assert status == 0
    assert json.loads(out) == [{
        "call": "fchmod(_, 04000)", "abi": "x86_64", "syscall": "fchmod", "number": 91, "policy": "own",
        "cases": [{
            "decision": "errno EROFS", "recorded": False, "when": "", "otherwise": False, "file": str(path), "line": 9, "policy": "own", "rule": 2,
            "rule_when": "mode & 0o4000 == 0o4000", "reason": "", "example": ["0x0", "0x800", "0x0", "0x0", "0x0", "0x0"], "filter": "errno EROFS",
        }],
    }]  # fmt: skip


def test_show_prints_cases_by_group(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    status, out, _ = run(capsys, "show", "-a", "x86_64", str(path), "--group", "@file-attributes", "-g", "file-tree")
    assert status == 0
    assert (
        out
        == f"""policy own for x86_64 ({path}, base.toml)
default: errno ENOSYS

@file-attributes  Change a file's mode, owner, times or extended attributes
  umask
      allow  base.toml:41
  fchmod
      errno EROFS, not recorded  {path}:9  when mode & 0o4000 == 0o4000
      allow  {path}:15  otherwise

@file-tree  Make, link, rename and remove names: directories, links, files
  mkdir
      allow  {path}:5
"""
    )
    status, out, _ = run(capsys, "show", "--json", "-s", "chmod", "-a", "x86_64", str(path))
    (group,) = json.loads(out)["groups"]
    (shown,) = group["syscalls"]
    assert (group["group"], shown["syscall"], shown["cases"][0]["decision"]) == ("file-attributes", "chmod", "errno ENOSYS")


def test_show_effective_has_every_syscall(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "--json", "--effective", "-a", "aarch64", "base")
    shown = {row["syscall"] for group in json.loads(out)["groups"] for row in group["syscalls"]}
    assert shown == set(syscall_table(Arch.AARCH64))


@pytest.mark.parametrize(("words", "error"), [
    (["show"], "say which policy or @group to show"),
    (["show", "strict", "base"], "surplus operand `base`"),
    (["show", "@clok"], "unknown group `@clok`"),
    (["show", "strict", "--arch", "mips"], "unknown architecture `mips`; known: x86_64, aarch64"),
    (["show", "strict", "--arch", "x86_64", "--arch", "aarch64"], "option `--arch` is given twice"),
    (["explain", "strict"], "say a policy and a call"),
    (["explain", "strict", "getpid", "--arch", "mips"], "unknown architecture `mips`; known: x86_64, aarch64, x32, i386"),
    (["explain", "stict", "getpid"], "no policy is called `stict`"),
    (["shwo"], "unknown command `policy shwo`"),
    (["disassemble"], "say which policy to disassemble"),
    (["prove"], "say which policies to prove"),
])  # fmt: skip
def test_wrong_use(capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    status, out, printed = run(capsys, *words)
    assert (status, out) == (125, "")
    assert printed.startswith(f"error: {error}")


def test_prove_and_disassemble(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "prove", "base")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == ["proven  policy base for x86_64", "proven  policy base for aarch64"]
    status, out, _ = run(capsys, "prove", "--json", "--no-notify", "-a", "aarch64", "base")
    (proof,) = json.loads(out)
    assert proof["proven"] and proof["cases"] > 100
    status, out, _ = run(capsys, "disassemble", "-a", "aarch64", "--no-notify", "base")
    assert status == 0
    assert out.startswith("# policy base, aarch64, no notify, ")


def test_prove_tells_a_refuted_filter(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sandbox.seccomp.compile as compiler
    from sandbox.seccomp.evaluate import RET_ALLOW, RET_ERRNO, decode, encode

    honest = compiler.compile_filter
    made = honest(load_policy("base"), Arch.X86_64)
    first = next(at for at, (code, _, _, k) in enumerate(decode(made.bpf)) if code == 6 and k & 0xFFFF_0000 == RET_ERRNO)
    spoiled = [(code, jt, jf, RET_ALLOW) if at == first else (code, jt, jf, k) for at, (code, jt, jf, k) in enumerate(decode(made.bpf))]
    wrong = compiler.make_filter(encode(spoiled), arch=made.arch, policy=made.policy, policy_digest=made.policy_digest, notify=True)
    monkeypatch.setattr(compiler, "compile_filter", lambda *_, **__: wrong)
    status, out, _ = run(capsys, "prove", "-a", "x86_64", "base")
    assert status == 1
    assert out.startswith("refuted  policy base for x86_64: `") and "the filter gives allow, the policy says errno" in out


def test_control_characters_of_a_policy_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace("plain modes", "\\u001b[2Jgone \\u202e"))
    _, out, _ = run(capsys, "explain", "-a", "x86_64", str(path), "fchmod(0, 0)")
    assert "\\x1b[2Jgone \\u202e" in out and "\x1b" not in out


def test_every_command_has_help_and_only_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    from sandbox.cli.policy import commands, load_command

    for command in commands():
        status, out, _ = run(capsys, command, "--help")
        assert status == 0 and out.startswith(f"usage: sandbox policy {command} ")
        for option in load_command(command).OPTIONS:
            assert f"--{option.name}" in out


def test_colours_are_for_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.cli.policy_text import paint

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert paint("x", "bad") == "x"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert paint("x", "bad") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "bad") == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "bad") == "x"


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_lines_fit_the_terminal(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run(capsys, "show", "--group", "all")
    assert max(map(len, out.splitlines())) <= columns
    assert len(out.splitlines()) > 100
