"""``sandbox policy convert`` as it is used: the command line, and what bubblewrap, nsjail and runc make of what it writes, in the kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import kafel

from sandbox.abi.arch import Arch
from sandbox.policy.load import load_policy
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.convert_kafel import convert_to_kafel

PROFILE = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "write", "execve", "exit_group", "rt_sigreturn"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
        ],
    }
).encode()
# By name, by argument, and what stays allowed: strict refuses the first two.
PROBE = """
import errno, os, socket
for what, call in (
    ("socket", lambda: socket.socket().close()),
    ("group", lambda: os.setpriority(os.PRIO_PGRP, 0, os.getpriority(os.PRIO_PGRP, 0))),
    ("self", lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))),
    ("child", lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)),
):
    try:
        call()
        print(what, "done")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
"""
OPEN = "socket done\ngroup done\nself done\nchild done\n"
REFUSED = "socket EPERM\ngroup EPERM\nself done\nchild done\n"
PYTHON = ["/usr/bin/python3", "-I", "-c", PROBE]


@pytest.fixture
def written(sandbox_cli, tmp_path: Path):
    """Return a function that converts policy `strict` to a file."""

    def write(target: str) -> Path:
        path = tmp_path / f"strict.{target}"
        done = sandbox_cli("policy", "convert", "--to", target, "-o", path, "strict")
        assert done.returncode == 0, done.stderr
        return path

    return write


def output(*words: str | os.PathLike[str], stdin: int | None = None, pass_fds: tuple[int, ...] = ()) -> str:
    # In a group of its own: the probe touches its group, and ours may hold processes of root's (runuser).
    done = subprocess.run(words, stdin=stdin, capture_output=True, text=True, timeout=60, pass_fds=pass_fds, start_new_session=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tool(name: str, variable: str) -> str:
    found = os.environ.get(variable) or shutil.which(name) or next((path for path in (f"/usr/sbin/{name}",) if os.path.exists(path)), None)
    if found is None or not os.path.exists("/usr/bin/python3"):
        pytest.skip(f"{name} (or {variable}) and /usr/bin/python3 are not both installed")
    return found


# ---------------------------------------------------------------- what others make of it


@pytest.mark.userns
@pytest.mark.seccomp
def test_bubblewrap_runs_under_our_filter(written) -> None:
    bwrap = [tool("bwrap", "SANDBOX_BWRAP"), "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    if subprocess.run([*bwrap, "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("bubblewrap cannot make a sandbox on this host")
    assert output(*bwrap, *PYTHON) == OPEN
    with open(written("bpf"), "rb") as file:
        assert output(*bwrap, "--seccomp", str(file.fileno()), *PYTHON, pass_fds=(file.fileno(),)) == REFUSED


@pytest.mark.userns
@pytest.mark.seccomp
def test_nsjail_runs_under_our_policy(written) -> None:
    nsjail = [tool("nsjail", "SANDBOX_NSJAIL"), "-Mo", "-Q", "--chroot", "/", "--disable_clone_newcgroup", "--disable_proc"]
    if subprocess.run([*nsjail, "--", "/bin/true"], capture_output=True, timeout=60).returncode:
        pytest.skip("nsjail cannot make a jail on this host")
    assert output(*nsjail, "--", *PYTHON) == OPEN
    assert output(*nsjail, "--seccomp_policy", written("kafel"), "--", *PYTHON) == REFUSED


@pytest.mark.root
@pytest.mark.seccomp
def test_runc_runs_under_our_profile(written, tmp_path: Path) -> None:
    runc = tool("runc", "SANDBOX_RUNC")
    rootfs = tmp_path / "rootfs"
    for name in ("usr", "proc", "dev"):
        (rootfs / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (rootfs / name).symlink_to(f"usr/{name}")
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": PYTHON, "env": ["PATH=/usr/bin"], "cwd": "/", "noNewPrivileges": True, "capabilities": {},
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "mount", "ipc", "uts")]},
    }  # fmt: skip
    seen = []
    for seccomp in (None, json.loads(written("oci").read_bytes())):
        if seccomp is not None:
            config["linux"]["seccomp"] = seccomp  # type: ignore[index]
        (tmp_path / "config.json").write_text(json.dumps(config))
        name = f"sandbox-test-{os.getpid()}-{len(seen)}"
        words = [runc, "--root", tmp_path / "state", "run", "-b", tmp_path, name]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if not seen and done.returncode:
            pytest.skip(f"runc cannot run a container on this host: {done.stderr.strip()[-200:]}")
        seen.append(done.stdout)
    assert seen == [OPEN, REFUSED]


@pytest.mark.userns
@pytest.mark.seccomp
def test_bits_above_an_int_pass_an_exact_filter_and_no_other(sandbox_cli, tmp_path: Path) -> None:
    # CVE-2019-7303's kind: the filter compares 64 bits, the kernel uses 32.
    bwrap = [tool("bwrap", "SANDBOX_BWRAP"), "--ro-bind", "/", "/", "--dev", "/dev"]
    if Arch(os.uname().machine) is not Arch.X86_64 or subprocess.run([*bwrap, "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("bubblewrap cannot make a sandbox on this host, or its numbers are not x86_64's")
    test = {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [test]}],
    }
    (tmp_path / "netlink.json").write_text(json.dumps(profile))
    call = "import ctypes, errno; c = ctypes.CDLL(None, use_errno=True); c.syscall.restype = ctypes.c_long"
    call += "\nfor family in (16, 16 | 1 << 32):\n    made = c.syscall(ctypes.c_long(41), ctypes.c_ulong(family), ctypes.c_ulong(3), ctypes.c_ulong(0))"
    call += "\n    print('made' if made >= 0 else errno.errorcode[ctypes.get_errno()])"
    results = []
    for option in (["--exact"], []):
        done = sandbox_cli("policy", "convert", *option, "-o", tmp_path / "netlink.bpf", tmp_path / "netlink.json")
        assert done.returncode == 0, done.stderr
        with open(tmp_path / "netlink.bpf", "rb") as file:
            words = [*bwrap, "--seccomp", str(file.fileno()), "/usr/bin/python3", "-I", "-c", call]
            results.append(output(*words, pass_fds=(file.fileno(),)).split())
    assert results == [["EACCES", "made"], ["EACCES", "EACCES"]]


@pytest.mark.slow
def test_kafel_makes_of_our_text_what_the_policy_says() -> None:
    checkout = os.environ.get("SANDBOX_KAFEL")
    if not checkout:
        pytest.skip("SANDBOX_KAFEL does not name a built checkout of kafel, which is not part of this repository")
    lines: list[str] = []
    assert kafel.study(checkout, write=lines.append), "\n".join(lines)
    assert sum("equal but for foreign" in line for line in lines) >= 24


def test_a_spoiled_text_would_be_noticed(tmp_path: Path) -> None:
    checkout = os.environ.get("SANDBOX_KAFEL")
    if not checkout:
        pytest.skip("SANDBOX_KAFEL does not name a built checkout of kafel, which is not part of this repository")
    policy = load_policy("strict")
    text = convert_to_kafel(policy, Arch.X86_64, notify=False).replace("SYSCALL[41]", "SYSCALL[1041]")
    ours = compile_filter(policy, Arch.X86_64, notify=False)
    _, found = kafel.compare(kafel.build(checkout, str(tmp_path)), text, ours.bpf, Arch.X86_64)
    assert "socket" in {one.syscall for one in found}


# ---------------------------------------------------------------- the command line


def test_a_profile_from_a_pipe_becomes_a_policy_that_explains_itself(sandbox_cli, tmp_path: Path) -> None:
    done = sandbox_cli("policy", "convert", "--from", "oci", "--to", "toml", "--arch", "x86_64", "--kernel", "6.1", "-", input=PROFILE)
    assert done.returncode == 0
    assert b'name = "converted"\n' in done.stdout and b'when = "family != AF_VSOCK"\n' in done.stdout
    assert b"but for 1 system call,\n" in done.stderr
    assert b"\n  socket(family=AF_VSOCK (register 0x100000028), type=0, protocol=0): here errno EPERM, there allow\n" in done.stderr
    done = sandbox_cli(
        "policy", "convert", "--from", "oci", "-o", tmp_path / "mine.toml", "--exact", "--arch", "x86_64", "-", input=PROFILE
    )
    assert done.returncode == 0
    assert b"decides every call as libseccomp's filter of the same profile" in done.stderr and done.stdout == b""
    assert load_policy(str(tmp_path / "mine.toml")).description == "converted from standard input"
    assert os.listdir(tmp_path) == ["mine.toml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "bpf"], "say what to convert"),
        (["x", "y", "--to", "bpf"], "surplus operand `y`"),
        (["-", "--to", "bpf"], "say the format of standard input: `--from oci|toml`"),
        (["strict"], "say the format of the result: `--to toml|oci|bpf|kafel`"),
        (["strict", "-o", "x.y"], "say the format of `x.y`: `--to toml|oci|bpf|kafel`"),
        (["strict", "--to", "josn"], "unknown format `josn` for `--to`; known: toml, oci, bpf, kafel"),
        (["strict", "--to", "toml"], "both sides are TOML"),
        (["strict", "--to", "bpf", "--exact"], "option `--exact` does not go with a conversion from toml to bpf"),
        (["strict", "--to", "bpf", "--name", "x"], "option `--name` does not go with a conversion from toml to bpf"),
        (["x.json", "--to", "toml", "--notify"], "option `--notify` does not go with a conversion from oci to toml"),
        (["x.json", "--to", "toml"], "open `x.json`: No such file or directory (ENOENT)"),
        (["x.json", "--to", "toml", "--capabilities", "SYS_ADMN"], "unknown capability `SYS_ADMN`"),
        (["x.json", "--to", "toml", "--kernel", "six"], "kernel version `six` is not two numbers"),
        (["x.json", "--to", "toml", "--as", "trace"], "option `--as` takes ACTION=ACTION, not `trace`; replaced can be: kill-thread"),
        (["x.json", "--to", "toml", "--as", "trace=errno EPREM"], "unknown action `errno EPREM`"),
        (["x.json", "--to", "toml", "--name", "X"], "policy name `X` is not lower-case letters, digits and hyphens"),
        (["x.json", "-o", "b.toml", "--name", "a"], "a policy called `a` must be in a file `a.toml`"),
        (["strict", "--to", "kafel", "--arch", "arm"], "unknown architecture `arm`"),
        (["strict", "-o", "/nowhere/x.bpf"], "write `/nowhere/x.bpf`: No such file or directory (ENOENT)"),
    ],
)
def test_mistakes_on_the_command_line_are_refused(sandbox_cli, tmp_path: Path, words: list[str], message: str) -> None:
    done = sandbox_cli("policy", "convert", *words, cwd=tmp_path)
    assert done.returncode == 125 and done.stdout == b""
    assert f"error: {message}" in done.stderr.decode()
    assert os.listdir(tmp_path) == []


def test_a_binary_is_not_written_to_a_terminal(sandbox_cli) -> None:
    parent, child = os.openpty()
    try:
        with sandbox_cli.popen("policy", "convert", "--to", "bpf", "strict", stdout=child) as process:
            _, error = process.communicate(timeout=60)
        assert process.returncode == 125 and b"a filter is binary and standard output a terminal" in error
    finally:
        os.close(parent)
        os.close(child)
