"""`policy diff` by meaning, `policy new` checked before it writes, completion, and what the tools may not add to a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.policy.load import load_policy
from sandbox.seccomp.explain import explain_shape, outcome_text
from sandbox.seccomp.shape import parse_call

ROOT = Path(__file__).resolve().parent.parent.parent


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["policy", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def policy(name: str, rules: str, extends: str = "base", default: str = "") -> str:
    path = Path(f"{name}.toml")
    text = f'name = "{name}"\ndescription = "x"\nextends = ["{extends}"]\n' + (f'default = "{default}"\n' if default else "")
    path.write_text(text + rules)
    return f"./{path}"


def test_equal_policies_differ_in_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    one = policy("one", '[[rule]]\nsyscalls = ["mkdir", "rmdir"]\naction = "allow"\n')
    two = policy("two", '[[rule]]\nsyscalls = ["rmdir"]\naction = "allow"\n[[rule]]\nsyscalls = ["mkdir"]\naction = "allow"\n')
    assert run(capsys, "diff", "-a", "x86_64", one, two) == (0, "one and two decide every call of x86_64 alike\n", "")


def test_differences_are_sorted_by_who_permits(capsys: pytest.CaptureFixture[str]) -> None:
    one = policy(
        "one",
        '[[rule]]\nsyscalls = ["mkdir", "rmdir"]\naction = "allow"\n'
        '[[rule]]\nsyscalls = ["chmod"]\naction = "allow"\nwhen = "mode & 0o4000 == 0"\nelse = "errno EPERM"\n'
        '[[rule]]\nsyscalls = ["ptrace"]\naction = "errno EPERM"\naudit = false\n'
        '[[rule]]\nsyscalls = ["getpid"]\naction = "log"\n',
    )
    two = policy("two", '[[rule]]\nsyscalls = ["chmod", "sync"]\naction = "allow"\n')
    status, out, _ = run(capsys, "diff", "-a", "x86_64", one, two)
    assert status == 1
    assert (
        out
        == """one and two differ in 6 system calls of x86_64

one permits, two refuses
  @file-tree: mkdir, rmdir
      allow  ./one.toml:4  |  errno ENOSYS  base.toml:11

two permits, one refuses
  @file-sync: sync
      errno ENOSYS  base.toml:11  |  allow  ./two.toml:4
  as in chmod(filename=NULL, mode=04000)
      errno EPERM  ./one.toml:7  |  allow  ./two.toml:4

both refuse, differently
  @trace: ptrace
      errno EPERM, not recorded  ./one.toml:12  |  errno EPERM  base.toml:191

both permit, differently
  @identity: getpid
      log  ./one.toml:16  |  allow  base.toml:41
""".replace("@trace", group("ptrace"))
        .replace("@identity", group("getpid"))
        .replace("base.toml:191", f"base.toml:{line('ptrace')}")
    )


def group(syscall: str) -> str:
    from sandbox.policy.groups import primary_group

    return f"@{primary_group(syscall)}"


def line(syscall: str) -> int:
    return load_policy("base").rules[syscall][0].ref.line


def test_numbers_without_a_name_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = policy("one", "", default="allow"), policy("two", "")
    status, out, _ = run(capsys, "diff", "--json", "-a", "aarch64", one, two)
    found = json.loads(out)["differences"]
    assert status == 1
    assert [each["verdict"] for each in found if each["kind"] == "unnamed"] == ["left-permits"]
    assert all(each["left"]["decision"] == "allow" and each["left"]["line"] == 4 for each in found)


def test_a_permission_of_one_bit_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    one = policy("one", '[[rule]]\nsyscalls = ["umount2"]\naction = "allow"\nwhen = "flags == MNT_DETACH"\n')
    _, out, _ = run(capsys, "diff", "--json", "-a", "x86_64", one, "base")
    (found,) = json.loads(out)["differences"]
    assert (found["syscall"], found["whole"], found["verdict"]) == ("umount2", False, "left-permits")
    assert found["example"] == "umount2(name=NULL, flags=MNT_DETACH)"


@pytest.mark.parametrize(("left", "right"), [("default", "strict"), ("permissive", "judge"), ("python", "build")])
def test_each_shown_example_is_decided_as_shown(left: str, right: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "diff", "--json", "-a", "x86_64", left, right)
    found = json.loads(out)["differences"]
    policies = {"left": load_policy(left), "right": load_policy(right)}
    assert found
    for each in found:
        if each["kind"] == "syscall":
            for side, decider in policies.items():
                (case,) = explain_shape(decider, parse_call(each["example"], "x86_64"))
                assert outcome_text(case.outcome) == each[side]["decision"], each


def test_new_writes_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, "new", "mine.toml", "--extends", "strict", "--allow", "sync", "-a", "syncfs", "--allow", "socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC)",
        "--refuse", "fcntl(cmd=F_SETLK)", "--errno", "EACCES", "--refuse", "mkdir(_, 0777)",
    )  # fmt: skip
    assert status == 0
    assert out.startswith(
        "wrote mine.toml: strict, and sync, syncfs, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC), without fcntl(cmd=F_SETLK), mkdir(_, 0777)\n"
    )
    assert out.endswith("use it: sandbox exec --policy ./mine.toml -- COMMAND\n")
    made = load_policy("./mine.toml")

    def gets(text: str) -> str:
        (case,) = explain_shape(made, parse_call(text, "x86_64"))
        return outcome_text(case.outcome)

    assert [gets(text) for text in ("sync", "syncfs", "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC)", "socket(AF_INET, SOCK_STREAM)")] == [
        "allow", "allow", "allow", "errno EPERM",
    ]  # fmt: skip
    assert [gets(text) for text in ("fcntl(0, F_SETLK)", "fcntl(0, F_SETLKW)", "mkdir(_, 0777)", "mkdir(_, 0755)")] == [
        "errno EACCES", "allow", "errno EACCES", "allow",
    ]  # fmt: skip
    text = Path("mine.toml").read_text()
    assert "[[rule]] # strict.toml:113 says errno EPERM: it would make the host flush its disks" in text
    assert 'syscalls = ["sync", "syncfs"]' in text
    assert os.listdir() == ["mine.toml"]


def test_new_extends_a_file_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir("below")
    assert run(capsys, "new", "below/first.toml", "-e", "strict", "-a", "sync")[0] == 0
    os.mkdir("other")
    assert run(capsys, "new", "other/second.toml", "-e", "below/first.toml", "-a", "syncfs")[0] == 0
    assert 'extends = ["../below/first.toml"]' in Path("other/second.toml").read_text()
    assert run(capsys, "new", "third.toml", "-e", "./below/first.toml", "-a", "syncfs")[0] == 0


def test_new_puts_names_before_their_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "new", "mine.toml", "-e", "strict", "-r", "@file-tree", "-a", "sync", "-r", "mkdir")[0] == 0
    (case,) = explain_shape(load_policy("./mine.toml"), parse_call("rename", "x86_64"))
    assert outcome_text(case.outcome) == "errno EPERM"


def test_new_warns_of_a_gap(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "new", "mine.toml", "-e", "strict", "-a", "io_uring_setup")
    assert "warning bypass-io-uring: `io_uring_setup` can do the same in a ring" in out


@pytest.mark.parametrize(("words", "error"), [
    (["mine.toml", "-a", "sync"], "say what the policy extends"),
    (["mine.toml", "-e", "strict"], "say what to allow or to refuse"),
    (["-e", "strict", "-a", "sync"], "say which file to write, as in `./mine.toml`"),
    (["mine", "-e", "strict", "-a", "sync"], "`mine` cannot be a policy's file: it needs a name of lower-case letters, digits and hyphens, and `.toml`"),
    (["Mine.toml", "-e", "strict", "-a", "sync"], "`Mine.toml` cannot be a policy's file"),
    (["mine.toml", "-e", "strct", "-a", "sync"], "no policy is called `strct`"),
    (["mine.toml", "-e", "strict", "-a", "snyc"], "unknown syscall `snyc`"),
    (["mine.toml", "-e", "strict", "-a", "@snyc"], "unknown group `@snyc`"),
    (["mine.toml", "-e", "strict", "-a", "9999"], "`9999` has no name, so no rule can speak of it"),
    (["mine.toml", "-e", "strict", "-a", "getpid"], "rule would change nothing: strict allows `getpid` already"),
    (["mine.toml", "-e", "strict", "-a", "ioctl(0, FICLONE)"], "rule would change nothing: strict allows `ioctl(0, FICLONE)` already"),
    (["mine.toml", "-e", "strict", "-r", "ptrace"], "rule would change nothing: strict decides `ptrace` so already"),
    (["mine.toml", "-e", "strict", "-r", "sync", "--errno", "EPREM"], "unknown errno `EPREM`"),
    (["mine.toml", "-e", "strict", "-a", "sync", "-r", "sync"], "rule would change nothing: strict decides `sync` so already"),
    (["mine.toml", "-e", "strict", "-a", "sync", "-a", "sync"], "syscall `sync` is named twice in this rule"),
    (["mine.toml", "-e", "strict", "-r", "@file-tree", "-r", "@file-tree"], "syscall `link` is named twice in this rule"),
    (["mine.toml", "-e", "strict", "-a", "socket(0x100000002)"], "`family` of `socket` keeps 32 bits, and 0x100000002 has more"),
    (["mine.toml", "-e", "strict", "-r", "read"], "compile policy `mine` for x86_64: syscall `read` must be allowed unconditionally"),
    (["mine.toml", "-e", "strict", "-r", "ioctl(0, FICLONE, 1)"], "argument `arg` of `ioctl` has a type that depends on another argument"),
    (["none/mine.toml", "-e", "strict", "-a", "sync"], "No such file or directory"),
])  # fmt: skip
def test_new_refuses(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "new", *words)
    assert (status, out) == (125, "")
    assert err.startswith(f"error: {error}")
    assert os.listdir() == []


def test_new_replaces_a_file_only_by_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("precious")
    status, _, err = run(capsys, "new", "mine.toml", "-e", "strict", "-a", "sync")
    assert status == 125 and err.startswith("error: `mine.toml` exists already")
    assert Path("mine.toml").read_text() == "precious"
    assert run(capsys, "new", "mine.toml", "-e", "strict", "-a", "sync", "--force")[0] == 0
    assert load_policy("./mine.toml").name == "mine"


def test_new_does_not_close_a_circle(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "new", "one.toml", "-e", "strict", "-a", "sync")[0] == 0
    assert run(capsys, "new", "two.toml", "-e", "./one.toml", "-a", "syncfs")[0] == 0
    before = Path("one.toml").read_text()
    for below in ("./one.toml", "./two.toml"):
        status, _, err = run(capsys, "new", "one.toml", "-e", below, "-a", "inotify_init1", "--force")
        assert (status, err) == (125, "error: `one.toml` would extend itself\n")
    assert Path("one.toml").read_text() == before


def test_new_does_not_write_through_a_link(capsys: pytest.CaptureFixture[str]) -> None:
    Path("target.toml").write_text("precious")
    os.symlink("target.toml", "mine.toml")
    assert run(capsys, "new", "mine.toml", "-e", "strict", "-a", "sync")[0] == 125
    assert run(capsys, "new", "mine.toml", "-e", "strict", "-a", "sync", "--force")[0] == 0
    assert Path("target.toml").read_text() == "precious" and not os.path.islink("mine.toml")


def test_completion_knows_the_commands_and_their_options() -> None:
    script = r"""
sandbox() { "$PYTHON" -P -s -m sandbox "$@"; }
source <(sandbox completion bash)
t() { COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); _sandbox; echo "${COMPREPLY[*]}"; }
t sandbox policy expl
t sandbox policy explain --ar
t sandbox policy explain --arch x
t sandbox policy new x.toml --extends stri
t sandbox policy check judg
"""
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=600, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["explain", "--arch", "x86_64 x32", "strict", "judge"]


def test_the_tools_add_nothing_to_a_run() -> None:
    """Import time is launch time: what `sandbox exec` imports knows none of the tools."""
    code = (
        "import sys, sandbox.cli.main, sandbox.cli.exec, sandbox.api, sandbox.policy.load, sandbox.seccomp.cache\n"
        "print(*sorted(name for name in sys.modules if name.startswith('sandbox.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600, check=True
    )
    tools = {"mistakes", "expectations", "write", "explain", "shape", "lint", "lint_families", "expect", "prove", "check"}
    loaded = {name for name in done.stdout.split() if name.rpartition(".")[2] in tools or ".cli.policy" in name}
    assert loaded == {"sandbox.plan.check"} & loaded


@pytest.mark.parametrize("words", [["show", "strict"], ["diff", "default", "strict"], ["show", "--group", "all"]])
def test_a_reader_that_goes_away_is_no_error_message(words: list[str]) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-m", "sandbox", "policy", *words], env={"PYTHONPATH": str(ROOT), "PATH": ""}, stdout=writing, stderr=subprocess.PIPE
    )  # fmt: skip
    os.close(writing)
    os.close(reading)
    _, err = process.communicate(timeout=600)
    assert err == b""
    assert process.returncode == 125
