"""Files of expected decisions: read with exact errors, held against policies for all calls of a text; and the shipped ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_table
from sandbox.cli.main import main
from sandbox.errors import InternalError, PolicyError
from sandbox.policy.expectations import load_expectations
from sandbox.policy.load import load_policy
from sandbox.policy.locate import data_dir, names
from sandbox.seccomp import expect
from sandbox.seccomp.expect import Check, run_expectations, untouched_rules
from sandbox.seccomp.explain import cases, explain_shape
from sandbox.seccomp.shape import parse_call

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((ROOT / "policies" / "tests").glob("*.toml"))


@pytest.fixture(scope="module")
def shipped() -> list[Check]:
    return [check for path in SHIPPED for check in run_expectations(load_expectations(str(path)))]


def test_shipped_policies_do_what_their_files_of_expectations_say(shipped: list[Check]) -> None:
    assert len(shipped) > 2000
    assert [check for check in shipped if check.failure is not None] == []


def test_every_rule_of_every_shipped_policy_is_touched(shipped: list[Check]) -> None:
    """A rule that is dropped or changed without a case to notice would be no promise."""
    for name in names("policies"):
        if (data_dir("policies") / f"{name}.toml").exists():
            untouched = [entry.ref for entry in untouched_rules(load_policy(name), shipped) if entry.layer.name == name]
            assert [f"{ref.file}:{ref.line}" for ref in untouched] == []


POLICY = """name = "own"
description = "x"
extends = ["base"]

[[rule]]
syscalls = ["fchmod"]
action = "errno EROFS"
when = "mode & 0o4000 == 0o4000"
audit = false
reason = "no set-id bits"

[[rule]]
syscalls = ["fchmod", "open"]
action = "allow"
""".replace('["fchmod", "open"]', '["fchmod"]')


def write(directory: Path, body: str, head: str = 'policy = "./own.toml"\n') -> str:
    (directory / "own.toml").write_text(POLICY)
    path = directory / "cases.toml"
    path.write_text(head + body)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["policy", "test", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize(("call", "decision", "expected", "example"), [
    ("fchmod(3, 0644)", "allow", True, ""),
    ("fchmod(3, 0644)", "permitted", True, ""),
    ("fchmod(3, 0644)", "refused", False, "fchmod(fd=3, mode=0644) gets allow"),
    ("fchmod(mode=04000)", "errno EROFS", True, ""),
    ("fchmod(mode=04000)", "refused", True, ""),
    ("fchmod(mode=04000)", "errno EPERM", False, "fchmod(fd=0, mode=04000) gets errno EROFS, not recorded"),
    ("fchmod", "allow", False, "fchmod(fd=0, mode=04000) gets errno EROFS, not recorded"),
    ("fchmod(fd=3)", "errno EROFS", False, "fchmod(fd=3, mode=0) gets allow"),
    ("mkdir", "errno ENOSYS", True, ""),
    ("#91(0, 04755)", "errno EROFS", True, ""),
    ("9999", "errno ENOSYS", True, ""),
    ("0x40000001", "kill-process", True, ""),
    ("0x40000001", "allow", False, "syscall 0x40000001() gets kill-process"),
    ("@clock", "errno EPERM", True, ""),
    ("exit_group", "log", False, "exit_group(status=0) gets allow"),
    ("exit_group", "trap", False, "exit_group(status=0) gets allow"),
])  # fmt: skip
def test_one_case(call: str, decision: str, expected: bool, example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, f"[[case]]\ncall = {call!r}\nexpect = {decision!r}\narch = ['x86_64']\nwhy = 'so'\n")
    status, out, err = run(capsys, path)
    assert (status, err) == (0 if expected else 1, "")
    if expected:
        assert out.startswith(f"ok  {path}: 1 case, ")
    else:
        first, second, *rest = out.splitlines()
        assert first == f"{path}:3: FAILED  {call} in own for x86_64: expected {decision}, but"
        assert second == f"    {example}"
        assert rest[-2:] == ["    expected because so", f"1 FAILED  {path}: 1 case, {rest[-1].partition(': 1 case, ')[2]}"]


@pytest.mark.parametrize(("case", "expected"), [
    ("call = 'fchmod(0, 04000)'\nexpect = 'errno EROFS'\nrecorded = false", 0),
    ("call = 'fchmod(0, 04000)'\nexpect = 'errno EROFS'\nrecorded = true", 1),
    ("call = 'mkdir'\nexpect = 'refused'\nrecorded = true", 0),
    ("call = 'mkdir'\nexpect = 'refused'\nrecorded = false", 1),
    ("calls = ['getpid', 'read']\nexpect = 'kill-process'\narch = ['x32', 'i386']", 0),
    ("calls = ['getpid']\nexpect = 'kill-process'\narch = 'aarch64'", 1),
    ("call = 'open'\nexpect = 'allow'", 0),  # only x86_64 has it
])  # fmt: skip
def test_records_and_entries(case: str, expected: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, write(tmp_path, f"[[case]]\n{case}\n"))[0] == expected


def test_the_rule_of_a_failure_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "[[case]]\ncalls = [\n  'getpid',\n  'fchmod',\n]\nexpect = 'allow'\narch = 'x86_64'\n")
    _, out, _ = run(capsys, path)
    assert out.splitlines()[0].startswith(f"{path}:5: FAILED  fchmod in own for x86_64")
    assert out.splitlines()[2] == f"    by {tmp_path}/./own.toml:5  no set-id bits"
    _, out, _ = run(capsys, "--json", path)
    good, bad = json.loads(out)
    assert good["ok"] and not bad["ok"]
    assert (bad["line"], bad["actual"], bad["recorded"], bad["rule_line"], bad["example"]) == (
        5,
        "errno EROFS",
        False,
        5,
        "fchmod(fd=0, mode=04000)",
    )
    _, out, _ = run(capsys, "-v", path)
    assert out.startswith(f"{path}:4: ok  getpid in own for x86_64: allow\n")


KNOWN = "; known: allow, log, emulate, errno NAME, trap, kill-process, permitted, refused"


def test_rules_that_no_case_touches_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "[[case]]\ncall = 'fchmod(0, 0)'\nexpect = 'allow'\n")
    _, out, _ = run(capsys, "--coverage", path)
    _, count, first, *_ = out.splitlines()
    assert count.startswith("own: ") and count.endswith(" rules are not touched")
    assert first == f"  {tmp_path}/./own.toml:5  fchmod"
    assert "own.toml:12" not in out and "  base.toml:" in out


MISTAKES = [
    ("polcy = 'strict'\n[[case]]\n", "unknown key `polcy`", ":1, polcy", "did you mean `policy`?"),
    ("call = 'x'\n", "unknown key `call`", ":1, call", "`call` belongs in a `[[case]]` table"),
    ("[[case]]\ncall = 'getpid'\nexpect = 'allow'\n", "file needs one of `policy` and `policies`", ":1", None),
    ("policy = 3\n[[case]]\ncall = 'getpid'\nexpect = 'allow'\n", "`policy` must be a policy's name or path", ":1, policy", None),
    ("policies = []\n[[case]]\ncall = 'getpid'\nexpect = 'allow'\n", "`policies` must be a list of names or paths", ":1, policies", None),
    ("policy = 'base'\n", "no `[[case]]` in this file", ":1", None),
    ("policy = 'base'\ncase = 3\n", "cases must be written as `[[case]]` tables", ":2, case", None),
    ("policy = 'base'\n[[case]]\nexpect = 'allow'\n", "case needs one of `call` and `calls`", ":2, case[1]", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\n", "case has no `expect`", ":2, case[1]", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'alow'\n",
     "unknown decision `alow`" + KNOWN, ":4, case[1].expect", "did you mean `allow`?"),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 7\n",
     "unknown decision `int`" + KNOWN, ":4, case[1].expect", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'errno'\n", "decision `errno` needs one errno name, as in `errno EPERM`",
     ":4, case[1].expect", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'errno EPREM'\n", "unknown errno `EPREM`", ":4, case[1].expect", "did you mean `EPERM`?"),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'allow EPERM'\n", "decision `allow` takes no `EPERM`", ":4, case[1].expect", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'allow'\nrecorded = true\n", "`recorded` goes with a refusal, not with `allow`",
     ":5, case[1].recorded", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'refused'\nrecorded = 1\n", "`recorded` must be true or false",
     ":5, case[1].recorded", None),
    ("policy = 'base'\n[[case]]\ncalls = 'getpid'\nexpect = 'allow'\n", "`calls` must be a list of calls", ":3, case[1].calls", None),
    ("policy = 'base'\n[[case]]\ncall = ['getpid']\nexpect = 'allow'\n", "`call` must be a call", ":3, case[1].call", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'allow'\narch = 'mips'\n",
     "unknown architecture `mips`; known: x86_64, aarch64, x32, i386", ":5, case[1].arch", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpect = 'allow'\nwhy = 2\n", "`why` must be text", ":5, case[1].why", None),
    ("policy = 'base'\n[[case]]\ncall = 'getpid'\nexpcet = 'allow'\n", "unknown key `expcet`", ":4, case[1].expcet", "did you mean `expect`?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "place", "hint"), MISTAKES)
def test_mistakes_in_a_file(text: str, message: str, place: str, hint: str | None, tmp_path: Path) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        load_expectations(str(path))
    assert (caught.value.message, caught.value.origin, caught.value.hint) == (message, f"{path}{place}", hint)


@pytest.mark.parametrize(("call", "message", "origin", "hint"), [
    ("sokcet(1)", "unknown syscall `sokcet`", "sokcet(1)\n^", "did you mean `socket`?"),
    ("socket(AF_INETT)", "unknown constant `AF_INETT`", "socket(AF_INETT)\n       ^", "did you mean `AF_INET`?"),
    ("@clok", "unknown group `@clok`", None, "did you mean `@clock`?"),
])  # fmt: skip
def test_mistakes_in_a_call(call: str, message: str, origin: str | None, hint: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"[[case]]\ncall = {call!r}\nexpect = 'allow'\n")
    with pytest.raises(PolicyError) as caught:
        list(run_expectations(load_expectations(path)))
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.origin == f"{path}:3" + (f"\n{origin}" if origin else "")


def test_a_call_that_the_named_architecture_lacks(tmp_path: Path) -> None:
    path = write(tmp_path, "[[case]]\ncall = 'open'\nexpect = 'allow'\narch = 'aarch64'\n")
    with pytest.raises(PolicyError, match="aarch64 has no syscall `open`"):
        list(run_expectations(load_expectations(path)))


def test_a_group_of_which_the_named_architecture_has_nothing(tmp_path: Path) -> None:
    """A case that checks no call would be fulfilled by every policy."""
    path = write(tmp_path, "[[case]]\ncall = '@raw-io'\nexpect = 'allow'\narch = 'aarch64'\n")
    with pytest.raises(PolicyError, match="aarch64 has no syscall of `@raw-io`") as caught:
        list(run_expectations(load_expectations(path)))
    assert caught.value.origin == f"{path}:3"


def test_a_filter_that_differs_from_the_text_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example is run through the filter; one that allows everything cannot pass."""
    from sandbox.seccomp.evaluate import RET_ALLOW, encode

    honest = expect.compile_filter
    allow_all = encode([(6, 0, 0, RET_ALLOW)])
    monkeypatch.setattr(expect, "compile_filter", lambda policy, arch: replace(honest(policy, arch), bpf=allow_all))
    path = write(tmp_path, "[[case]]\ncall = 'mkdir'\nexpect = 'refused'\n")
    with pytest.raises(InternalError, match="filter of `own` gives `mkdir"):
        list(run_expectations(load_expectations(path)))


def test_both_architectures_are_checked(tmp_path: Path) -> None:
    checks = list(run_expectations(load_expectations(write(tmp_path, "[[case]]\ncalls = ['getpid', 'open']\nexpect = 'allow'\n"))))
    assert [(check.text, check.abi) for check in checks] == [("getpid", "x86_64"), ("getpid", "aarch64"), ("open", "x86_64")]
    assert {Arch(check.abi) for check in checks} == set(Arch)


@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("name", ["default", "judge"])
def test_both_engines_find_the_same_decisions(name: str, arch: Arch) -> None:
    """Classes of registers (`explain`) and decision diagrams (`expect`) share no code; for each set of calls they give the same set of decisions."""
    policy = load_policy(name)
    subject = expect._Subject(policy, arch)
    compared = 0
    for syscall in sorted(syscall_table(arch)):
        whole = parse_call(syscall, arch.value)
        found = cases(policy, arch, syscall)
        parts = (
            [{index: (0xFFFF_FFFF, value & 0xFFFF_FFFF)} for case in found for index, value in enumerate(case.arguments[:4])]
            if len(found) > 1
            else []
        )
        for fixed in ({}, *parts, {0: (1, 1)}, {1: (0xF, 2)}):
            shape = replace(whole, fixed=fixed)
            by_diagram = {subject.decided(shape, call)[0] for call in subject.examples(shape)}
            assert by_diagram == {case.outcome for case in explain_shape(policy, shape)}, (syscall, fixed)
            compared += 1
    assert compared > 1000
