"""The policy language: what files mean. Ways to get one wrong are in test_bad_policies.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import PolicyError
from sandbox.policy import locate
from sandbox.policy.conditions import ConditionError, holds, parse_condition
from sandbox.policy.lines import scan_lines
from sandbox.policy.load import load_policy
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.seccomp.decide import decide

Write = Callable[..., str]
HEAD = 'name = "p"\ndescription = "d"\ndefault = "errno ENOSYS"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "p") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


def rule(syscalls: str, action: str = "allow", **keys: str) -> str:
    lines = [f"syscalls = {syscalls}", f'action = "{action}"']
    lines += [f"{key.rstrip('_')} = {value}" for key, value in keys.items()]
    return "[[rule]]\n" + "\n".join(lines) + "\n"


def call(policy: SyscallPolicy, name: str, *arguments: int) -> str:
    number = syscall_number(Arch.X86_64, name)
    assert number is not None
    decision = decide(policy, Arch.X86_64, number, (*arguments, *[0] * (6 - len(arguments))))
    return f"{decision.action} {decision.errno}".removesuffix(" 0")


@pytest.mark.parametrize(
    ("action", "audit", "decided"),
    [
        ("allow", "", "allow"),
        ("log", "", "log"),
        ("errno EACCES", "", "notify 13"),
        ("errno EACCES", "true", "notify 13"),
        ("errno EACCES", "false", "errno 13"),
        ("notify EACCES", "", "notify 13"),
        ("notify EACCES", "true", "notify 13"),
        ("trap", "", "trap"),
        ("kill-process", "", "kill-process"),
    ],
)
def test_every_action(write: Write, action: str, audit: str, decided: str) -> None:
    keys = {"audit": audit} if audit else {}
    policy = load_policy(write(HEAD + rule('["dup"]', action, reason='"why"', **keys)))
    assert call(policy, "dup", 1) == decided
    # As the default and behind `else`, too.
    other = "trap" if action != "trap" else "log"
    policy = load_policy(write(HEAD + rule('["dup"]', other, when='"fd == 1"', else_=f'"{action}"', **keys)))
    assert call(policy, "dup", 2) == decided
    head = HEAD.replace("errno ENOSYS", action) + (f"default_audit = {audit}\n" if audit else "")
    assert call(load_policy(write(head)), "dup", 2) == decided


@pytest.mark.parametrize(
    ("condition", "holding"),
    [
        ("fd == 3", {3}),
        ("fd != 3", {0, 2, 4, 7}),
        ("fd < 3", {0, 2}),
        ("fd <= 3", {0, 2, 3}),
        ("fd > 3", {4, 7}),
        ("fd >= 3", {3, 4, 7}),
        ("fd & 3 == 3", {3, 7}),
        ("fd & 3 != 3", {0, 2, 4}),
        ("(fd & (1 | 2)) in {0, 2}", {0, 2, 4}),
        ("fd & 3 not in {0, 2}", {3, 7}),
        ("fd in {2, 4}", {2, 4}),
        ("fd not in {2, 4}", {0, 3, 7}),
        ("fd > 2 and fd < 7", {3, 4}),
        ("fd < 2 or fd > 4", {0, 7}),
        ("(fd < 2 or fd > 4) and fd != 0", {7}),
        ("(fd > 2 and fd < 7) or (fd == 0 and fd < 9)", {0, 3, 4}),
        ("fd in {F_GETFL, ~0xfffffffb, 0b111}", {3, 4, 7}),
        ("register(fd) <= 3", {0, 2, 3}),
        ("register(0) == 7", {7}),
    ],
)
def test_every_operator(write: Write, condition: str, holding: set[int]) -> None:
    policy = load_policy(write(HEAD + rule('["close"]', when=f'"{condition}"', else_='"trap"')))
    assert {fd for fd in (0, 2, 3, 4, 7) if call(policy, "close", fd) == "allow"} == holding
    # The upper half of an int's register is nothing to the kernel, unless the whole register is asked for.
    upper = {fd for fd in (0, 2, 3, 4, 7) if call(policy, "close", 1 << 32 | fd) == "allow"}
    assert upper == (set() if "register" in condition else holding)


def test_a_rule_reaches_its_record(write: Write) -> None:
    policy = load_policy(write(HEAD + rule('["@keyring", "dup"]', "errno EPERM", reason='"  keys outlive\tthe run "')))
    (entry,) = policy.rules["keyctl"]
    assert (entry.rule.reason, entry.rule.mentions[0].group, entry.rule.condition_line) == ("keys outlive\tthe run", "keyring", 0)


def test_an_upper_file_adds_by_when_and_replaces_by_else(write: Write) -> None:
    write(HEAD.replace('"p"', '"low"') + rule('["ioctl"]', when='"cmd in {1, 2}"', else_='"errno EPERM"'), "low")
    adding = load_policy(write('name = "p"\ndescription = "d"\nextends = ["./low.toml"]\n' + rule('["ioctl"]', when='"cmd == 3"')))
    assert [call(adding, "ioctl", 0, cmd) for cmd in (1, 2, 3, 4)] == ["allow", "allow", "allow", "notify 1"]
    text = 'name = "p"\ndescription = "d"\nextends = ["./low.toml"]\n' + rule('["ioctl"]', when='"cmd == 3"', else_='"trap"')
    replacing = load_policy(write(text))
    assert [call(replacing, "ioctl", 0, cmd) for cmd in (1, 2, 3, 4)] == ["trap", "trap", "allow", "trap"]


def test_the_last_named_lies_on_top_and_each_file_counts_once(write: Write) -> None:
    write(HEAD.replace('"p"', '"low"') + rule('["dup", "pause", "sync"]', "trap"), "low")
    for name, action, syscalls in (("a", "log", '["dup", "pause"]'), ("b", "kill-process", '["dup"]')):
        write(f'name = "{name}"\ndescription = "d"\nextends = ["./low.toml"]\n' + rule(syscalls, action), name)
    policy = load_policy(write('name = "p"\ndescription = "d"\nextends = ["./a.toml", "./b.toml"]\n'))
    assert [layer.name for layer in policy.stack] == ["p", "b", "a", "low"]
    assert [call(policy, name) for name in ("dup", "pause", "sync", "read")] == ["kill-process", "log", "trap", "notify 38"]


def test_a_file_is_wrong_by_itself_whatever_lies_above_it(write: Write) -> None:
    # Found by fuzzing: the file on top decides `ioctl`, and so hid that the one below has a rule which can match nothing.
    low = HEAD.replace('"p"', '"low"') + rule('["ioctl"]', "trap", when='"cmd in {1, 2}"') + rule('["ioctl"]', "log", when='"cmd == 2"')
    below = write(low + rule('["ioctl"]', "errno EPERM"), "low")
    write('name = "p"\ndescription = "d"\nextends = ["./low.toml"]\n' + rule('["ioctl"]', "errno EPERM"))
    for name in ("low", "p"):
        with pytest.raises(PolicyError) as caught:
            load_policy(f"{below.removesuffix('low.toml')}{name}.toml")
        assert caught.value.message == "rule is shadowed for `ioctl`: earlier rules already decide every call it could match"
        assert (caught.value.origin or "").endswith("low.toml:4, rule[1]") and "low.toml:8, rule[2]; earlier: " in (
            caught.value.origin or ""
        )


def test_audit_folds_into_the_action(write: Write) -> None:
    text = HEAD + "default_audit = false\n" + rule('["dup"]', "errno EPERM") + rule('["pause"]', "errno EPERM", audit="false")
    policy = load_policy(write(text))
    assert [call(policy, name) for name in ("dup", "pause", "read")] == ["notify 1", "errno 1", "errno 38"]


def test_a_group_may_follow_a_syscall_that_was_singled_out(write: Write) -> None:
    policy = load_policy(write(HEAD + rule('["keyctl"]', "log") + rule('["@keyring"]', "errno EPERM")))
    assert [call(policy, name) for name in ("keyctl", "add_key")] == ["log", "notify 1"]


def test_decision_names_the_rule(write: Write) -> None:
    path = write(HEAD + rule('["dup"]') + rule('["keyctl"]', "errno EPERM", reason='"no keys"'))
    policy = load_policy(path)
    decision = decide(policy, Arch.X86_64, 250, (0,) * 6)
    assert decision.action is Action.NOTIFY and decision.rule is not None
    assert (decision.rule.file, decision.rule.line, decision.rule.reason, decision.rule.name) == (path, 7, "no keys", "p")
    unknown = decide(policy, Arch.X86_64, 1000, (0,) * 6)
    assert unknown.rule is not None and unknown.rule.line == 3
    assert decide(policy, Arch.X86_64, 0x4000_0000, (0,) * 6).rule is None


def test_digest_follows_the_text_not_the_place(write: Write, tmp_path: Path) -> None:
    first = load_policy(write(HEAD + rule('["dup"]')))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "p.toml").write_text(HEAD + rule('["dup"]'))
    assert load_policy(str(other / "p.toml")).digest == first.digest
    assert load_policy(write(HEAD + rule('["pause"]'))).digest != first.digest


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("family == AF_UNIX", (1,), True),
        ("family == AF_UNIX", (1 | 1 << 32,), True),
        ("family == AF_UNIX", (1 | 1 << 63,), True),
        ("family == -1", (0xFFFF_FFFF,), True),
        ("type & 0xf == SOCK_STREAM", (0, 0x80801), True),
        ("(type & 0xf) == SOCK_STREAM", (0, 0x80801), True),
        ("type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK) in {SOCK_STREAM, SOCK_DGRAM}", (0, 0x80802), True),
        ("type & ~0x80000000 == 1", (0, 0x80000001), True),
        ("family not in {1, 2}", (3,), True),
        ("family not in {1, 2}", (0xFFFFFFFF_00000002,), False),
        ("(family == 1 or family == 2) and protocol == 0", (2, 0, 1), False),
        ("family > 0x7fffffff", (0x8000_0000,), True),
        ("family <= 2", (3 << 32 | 2,), True),
        ("protocol != 0b101", (0, 0, 5), False),
    ],
)
def test_condition_holds(text: str, arguments: tuple[int, ...], expected: bool) -> None:
    registers = (*arguments, *[0] * (6 - len(arguments)))
    assert holds(parse_condition(text), "socket", Arch.X86_64, registers) is expected


def test_condition_constants_follow_the_architecture() -> None:
    condition = parse_condition("flags & O_DIRECTORY != 0")
    assert holds(condition, "openat", Arch.X86_64, (0, 0, 0o200000, 0, 0, 0))
    assert not holds(condition, "openat", Arch.AARCH64, (0, 0, 0o200000, 0, 0, 0))
    assert holds(condition, "openat", Arch.AARCH64, (0, 0, 0o40000, 0, 0, 0))


def test_long_condition_is_refused() -> None:
    with pytest.raises(ConditionError, match="longer than 8192"):
        parse_condition("cmd == 1 or " * 1000)


def test_bare_names_never_come_from_the_working_directory(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(HEAD + rule('["dup"]'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(PolicyError) as caught:
        load_policy("p")
    assert caught.value.hint == "names are not looked up in the working directory; for that file write `./p.toml`"
    assert load_policy("./p.toml").name == load_policy("p.toml").name == "p"
    own = tmp_path / "config/sandbox/policies"
    own.mkdir(parents=True)
    (own / "p.toml").write_text(HEAD + rule('["dup"]'))
    assert load_policy("p").sources == (str(own / "p.toml"),)
    assert "p" in locate.names("policies") and "groups" not in locate.names("policies")
    (own / "strict.toml").write_text(HEAD)
    with pytest.raises(PolicyError, match=r"is shipped in .* and also defined in"):
        load_policy("strict")


def test_relative_configuration_directory_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    monkeypatch.setenv("HOME", "/home/someone")
    assert locate.user_path("policies") == "/home/someone/.config/sandbox/policies"
    monkeypatch.delenv("HOME")
    assert locate.user_path("policies") is None


@pytest.mark.parametrize("name", ["/dev/null", "/nonexistent/x.toml", "/", "a\0b/c"])
def test_what_is_no_file_is_no_policy(name: str) -> None:
    with pytest.raises(PolicyError, match=r"open policy|no policy|open a policy: its path contains a null byte"):
        load_policy(name)


def test_scanner_is_not_fooled_by_strings_and_comments() -> None:
    text = 'a = """\n[[rule]]\nb = 1 \\""" ""\n"""\n# [[rule]] "\n[[rule]] # "\n  "c" = [ # \']\n "x", \'y\',\n\n"z[" ]\nd = \'\'\'\n\'\'\'\ne = 2\n'
    top, only = scan_lines(text)
    assert (top.keys, only.line, only.keys) == ({"a": 1}, 6, {"c": 7, "d": 11, "e": 13})
    assert [only.item("c", index) for index in range(4)] == [8, 8, 10, 7]
