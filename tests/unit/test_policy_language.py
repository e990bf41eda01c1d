"""The policy language: what files mean, and the exact message for each way to get one wrong."""

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


def when(text: str, syscall: str = "ioctl", **keys: str) -> str:
    return HEAD + rule(f'["{syscall}"]', "allow", when=f"'{text}'", else_='"errno EPERM"') if not keys else ""


# text, message, origin after the file's name, hint
BAD: list[tuple[str, str, str, str | None]] = [
    ("x = \n", "policy is not valid TOML: invalid value", ":1", None),
    (HEAD + 'defualt = "allow"\n', "unknown key `defualt`", ":4, defualt", "did you mean `default`?"),
    (HEAD + 'action = "allow"\n', "unknown key `action`", ":4, action", "`action` belongs in a `[[rule]]` table"),
    ('description = "d"\n', "policy has no `name`", ":1", None),
    ('name = "q"\ndescription = "d"\n', "policy is called `q` but its file `p.toml`", ":1, name", None),
    ('name = "P"\ndescription = "d"\n', "policy name `P` is not lower-case letters, digits and hyphens", ":1, name", None),
    ('name = "p"\ndescription = 3\n', "`description` must be text", ":2, description", None),
    ('name = "p"\ndescription = "d"\nextends = "base"\n', "`extends` must be a list of policy names", ":3, extends", None),
    ('name = "p"\ndescription = "d"\nextends = [\n"base",\n"base"]\n', "`base` is extended twice", ":5, extends", None),
    ('name = "p"\ndescription = "d"\nextends = ["bse"]\n', "no policy is called `bse`", ":3, extends", "did you mean `base`?"),
    (
        'name = "p"\ndescription = "d"\nextends = ["./p.toml"]\n',
        "policies extend each other in a circle: `p` extends `p`",
        ":3, extends",
        None,
    ),
    (HEAD + "rule = []\n[[rules]]\n", "unknown key `rules`", ":1, rules", "did you mean `rule`?"),
    (HEAD + 'rule = [{syscalls = ["read"], action = "allow"}]\n', "rules must be written as `[[rule]]` tables", ":4, rule", None),
    (
        HEAD.replace("errno ENOSYS", "deny"),
        "unknown action `deny`; known: allow, log, errno NAME, notify NAME, trap, kill-process",
        ":3, default",
        None,
    ),
    (
        'name = "p"\ndescription = "d"\n',
        "no `default` in this policy or in any that it extends",
        ":1",
        'add `default = "errno ENOSYS"`: what',
    ),
    (HEAD + "default_audit = 1\n", "`default_audit` must be true or false", ":4, default_audit", None),
    (HEAD + "[[rule]]\nsyscalls = ['read']\n", "rule has no `action`", ":4, rule[1]", None),
    (HEAD + rule('["read"]', wehn='"x"'), "unknown key `wehn`", ":7, rule[1].wehn", "did you mean `when`?"),
    (HEAD + rule('["read"]', default='"allow"'), "unknown key `default`", ":7, rule[1].default", "`default` belongs above the first"),
    (HEAD + rule("[]"), "`syscalls` must be a list of at least one name", ":5, rule[1].syscalls", None),
    (HEAD + rule('["read",\n\n "opnat"]'), "unknown syscall `opnat`", ":7, rule[1].syscalls[1]", "did you mean `openat`?"),
    (HEAD + rule('["@klock"]'), "unknown group `@klock`", ":5, rule[1].syscalls[0]", "did you mean `@clock`?"),
    (HEAD + rule('["keyring"]'), "unknown syscall `keyring`", ":5, rule[1].syscalls[0]", "did you mean the group `@keyring`?"),
    (
        HEAD + rule('["read", "read"]'),
        "syscall `read` is named twice in this rule, before in line 5 by itself",
        ":5, rule[1].syscalls[1]",
        None,
    ),
    (
        HEAD + rule('["@keyring", "keyctl"]'),
        "syscall `keyctl` is named twice in this rule, before in line 5 with `@keyring`",
        ":5, rule[1].syscalls[1]",
        None,
    ),
    (HEAD + rule('["read"]', "errno"), "action `errno` needs one errno name, as in `errno EPERM`", ":6, rule[1].action", None),
    (HEAD + rule('["read"]', "errno EPREM"), "unknown errno `EPREM`", ":6, rule[1].action", "did you mean `EPERM`?"),
    (HEAD + rule('["read"]', "allow EPERM"), "action `allow` takes no `EPERM`", ":6, rule[1].action", None),
    (HEAD + rule('["read"]', else_='"errno EPERM"'), "`else` without `when`", ":7, rule[1].else", None),
    (HEAD + rule('["dup"]', when='"fd == 1"', else_='"allow"'), "`else` does the same as `action`", ":8, rule[1].else", None),
    (
        HEAD + rule('["read"]', audit="true"),
        "`audit` goes with `errno` only; to record an allowed call use action `log`",
        ":7, rule[1].audit",
        None,
    ),
    (
        HEAD + rule('["read"]', "notify EPERM", audit="false"),
        "action `notify` is recorded by definition; write `errno` to refuse without a record",
        ":7, rule[1].audit",
        None,
    ),
    (HEAD + rule('["read"]', audit='"no"'), "`audit` must be true or false", ":7, rule[1].audit", None),
    (HEAD + rule('["read"]', reason="1"), "`reason` must be text", ":7, rule[1].reason", None),
    (HEAD + rule('["dup"]', when="1"), "`when` must be text", ":7, rule[1].when", None),
    (when(""), "condition is empty", ":7, rule[1].when", None),
    (when("cmd = 1"), "condition has an unexpected `=`", ":7, rule[1].when", None),
    (when("cmd == "), "condition needs a number or a constant, but ends there", ":7, rule[1].when", None),
    (when("cmd"), "condition needs a comparison after `cmd`, but ends there", ":7, rule[1].when", None),
    (when("1 == cmd"), "condition needs an argument's name, not `1`", ":7, rule[1].when", None),
    (when("cmd == 1 cmd == 2"), "condition goes on with `cmd` where it should end", ":7, rule[1].when", None),
    (when("cmd == 1 and fd == 2 or fd == 3"), "condition mixes `and` with `or`: add parentheses", ":7, rule[1].when", None),
    (when("cmd in {1, 2"), "condition needs `}` after the values, but ends there", ":7, rule[1].when", None),
    (when("cmd not {1}"), "condition needs `in` after `not`, not `{`", ":7, rule[1].when", None),
    (when("cmd & 3 < 2"), "condition uses `<` on a masked argument; a mask goes with `==`, `!=` and `in`", ":7, rule[1].when", None),
    (
        when("cmd & 1 | 2 == 0"),
        "condition needs parentheses around a mask of several bits, as in `cmd & (A | B) == 0`",
        ":7, rule[1].when",
        None,
    ),
    (when("cmd == 0777"), "condition has `0777`: octal numbers are written `0o777`", ":7, rule[1].when", None),
    (when("cmd == 0x1g"), "condition has a malformed number `0x1g`", ":7, rule[1].when", None),
    (when("cmd == 0x10000000000000000"), "condition has `0x10000000000000000`, which is more than 64 bits", ":7, rule[1].when", None),
    (when(f"cmd == {'9' * 5000}"), "condition has `9999999999999999…`, which is more than 64 bits", ":7, rule[1].when", None),
    (HEAD + f"x = {'9' * 5000}\n", "policy is not valid TOML: number of more than 64 bits", ":4", None),
    (HEAD + rule("[1,\n 0x10000000000000000]"), "policy is not valid TOML: number of more than 64 bits", ":5", None),
    (when("(" * 40 + "cmd == 1" + ")" * 40), "condition is nested more than 32 deep", ":7, rule[1].when", None),
    (when("cmdd == 1"), "syscall `ioctl` has no argument `cmdd`; its arguments: fd, cmd, arg", ":4, rule[1].when", "did you mean `cmd`?"),
    (when("x == 1", "getpid"), "syscall `getpid` has no argument `x`; it has none", ":4, rule[1].when", None),
    (when("cmd == TIOCSTX"), "unknown constant `TIOCSTX`", ":4, rule[1].when", "did you mean `TIOCSTI`?"),
    (
        when("cmd == 0x100005412"),
        "value `0x100005412` does not fit the argument's 32 bits (`ioctl` on x86_64)",
        ":4, rule[1].when",
        None,
    ),
    (when("mode == 0x10000", "chmod"), "value `0x10000` does not fit the argument's 16 bits (`chmod` on x86_64)", ":4, rule[1].when", None),
    (
        when("cmd & 0xf == 0x10"),
        "value `0x10` has bits outside the mask `0xf`, so it can never be equal (`ioctl` on x86_64)",
        ":4, rule[1].when",
        None,
    ),
    (when("cmd in {1, 0x1}"), "condition lists a value of `cmd` twice (`ioctl` on x86_64)", ":4, rule[1].when", None),
    (when("cmd >= 0"), "condition always holds for `ioctl`", ":4, rule[1].when", "drop the condition"),
    (when("cmd < 0"), "condition never holds for `ioctl`", ":4, rule[1].when", "drop the rule"),
    (when("cmd == 1 and cmd == 2"), "condition never holds for `ioctl`", ":4, rule[1].when", "drop the rule"),
    (
        when("filename == 5", "open"),
        "argument `filename` of `open` is a pointer; a filter cannot see what it points to",
        ":4, rule[1].when",
        "a pointer can only be compared with 0, by `==` or `!=`",
    ),
    (
        when("cmd == F_SETFL and arg != 1", "fcntl"),
        "argument `arg` of `fcntl` has a type that depends on another argument, so refusing values of it can be bypassed",
        ":4, rule[1].when",
        "allow exact values instead",
    ),
    (
        HEAD + rule('["dup"]', when='"fd == 1"'),
        "no rule decides the calls of `dup` for which this condition does not hold",
        ":5, rule[1]",
        'add `else`, as in `else = "errno EPERM"`',
    ),
    (
        HEAD + rule('["dup"]') + rule('["dup"]'),
        "syscall `dup` is repeated here: line 5 of this file already decides all its calls",
        ":8, rule[2]; earlier: {path}:5, rule[1]",
        None,
    ),
    (
        HEAD + rule('["dup"]') + rule('["dup"]', "errno EPERM"),
        "syscall `dup` is shadowed here: line 5 of this file already decides all its calls",
        ":8, rule[2]; earlier: {path}:5, rule[1]",
        None,
    ),
    (
        HEAD + rule('["@keyring"]') + rule('["keyctl"]', "errno EPERM"),
        "syscall `keyctl` is shadowed here: line 5 of this file (through `@keyring`) already decides all its calls",
        ":8, rule[2]; earlier: {path}:5, rule[1]",
        "a syscall named by itself must come before the group it is in",
    ),
    (
        HEAD
        + rule('["ioctl"]', "trap", when='"cmd in {1, 2, 3}"')
        + rule('["ioctl"]', "allow", when='"cmd == 2"')
        + rule('["ioctl"]', "errno EPERM"),
        "rule is shadowed for `ioctl`: earlier rules already decide every call it could match",
        ":8, rule[2]; earlier: {path}:4",
        None,
    ),
    (
        'name = "p"\ndescription = "d"\nextends = ["base"]\n' + rule('["ioctl"]', when='"cmd == TCGETS"'),
        "rule changes nothing for `ioctl`: what lies below already decides these calls in the same way",
        ":4, rule[1]; below: ",
        "to make this rule the whole decision for the syscall, add `else`",
    ),
]


@pytest.mark.parametrize(("text", "message", "origin", "hint"), BAD, ids=[f"{index}-{case[1][:40]}" for index, case in enumerate(BAD)])
def test_bad_policy_is_refused_with_its_place(write: Write, text: str, message: str, origin: str, hint: str | None) -> None:
    path = write(text)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    error = caught.value
    if message.startswith("no policy"):
        assert error.message.startswith(message)
    elif message.startswith("policy is not valid TOML"):
        assert error.message.startswith(message)
    else:
        assert error.message == message
    assert (error.origin or "").startswith(path + origin.format(path=path))
    if hint is None:
        assert error.hint is None
    else:
        assert (error.hint or "").startswith(hint)


def call(policy: SyscallPolicy, name: str, *arguments: int) -> str:
    number = syscall_number(Arch.X86_64, name)
    assert number is not None
    decision = decide(policy, Arch.X86_64, number, (*arguments, *[0] * (6 - len(arguments))))
    return f"{decision.action} {decision.errno}".removesuffix(" 0")


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
    with pytest.raises(PolicyError, match=r"open policy|no policy"):
        load_policy(name)


def test_scanner_is_not_fooled_by_strings_and_comments() -> None:
    text = 'a = """\n[[rule]]\nb = 1 \\""" ""\n"""\n# [[rule]] "\n[[rule]] # "\n  "c" = [ # \']\n "x", \'y\',\n\n"z[" ]\nd = \'\'\'\n\'\'\'\ne = 2\n'
    top, only = scan_lines(text)
    assert (top.keys, only.line, only.keys) == ({"a": 1}, 6, {"c": 7, "d": 11, "e": 13})
    assert [only.item("c", index) for index in range(4)] == [8, 8, 10, 7]
