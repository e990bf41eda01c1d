"""`SealedInput`: a program has its input in a file that nobody can change, and the host's file is out of its reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sandbox
from sandbox.api import streams
from sandbox.errors import PolicyError, SetupError
from sandbox.policy.profile_load import load_profile, override_profile

# What a program may try with the file that is its standard input.
ATTACK = """
import os
def attempt(name, call):
    try:
        call()
        print(name, "ok")
    except OSError as error:
        import errno
        print(name, errno.errorcode[error.errno])
def rewrite(flags):
    fd = os.open("/proc/self/fd/0", flags)
    os.pwrite(fd, b"forged", 0)
attempt("write", lambda: os.write(0, b"forged"))
attempt("reopen", lambda: rewrite(os.O_WRONLY))
attempt("reopen-both", lambda: rewrite(os.O_RDWR))
attempt("truncate", lambda: os.truncate("/proc/self/fd/0", 0))
attempt("mode", lambda: os.fchmod(0, 0o600))
attempt("times", lambda: os.utime(0, (1, 1)))
"""
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")


def attack(stdin: sandbox.SealedInput, landlock: str = "required") -> dict[str, str]:
    """Run the attack and return what came of each attempt."""
    profile = override_profile(load_profile("python"), landlock=landlock)
    result = sandbox.run([*PYTHON, ATTACK], stdin=stdin, profile=profile, timeout=20)
    assert result.ok, result.stderr
    return dict(line.split() for line in (result.stdout or b"").decode().splitlines())


class HostFile(sandbox.SealedInput):
    """The layer removed: the host's own file, open for reading, as `subprocess` would give it."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def open(self) -> int:
        """Open it."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)


def test_the_hosts_file_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed copy can be read and no more; its mode and times are the run's own. Given the host's file, a program takes it from the next run; and without
    Landlock, which lets nothing be opened for writing that is not shared so, rewrites it.
    """
    path = tmp_path / "input"
    path.write_bytes(b"1 2\n")
    path.chmod(0o644)
    os.utime(path, (77, 77))
    for landlock in ("required", "off"):
        found = attack(sandbox.SealedInput(path), landlock)
        assert found["mode"] == "ok"  # of its own file
        assert "ok" not in (found["reopen"], found["reopen-both"])
        assert {found["write"], found["truncate"]} <= {"EBADF", "EPERM", "EACCES", "EINVAL"}
        assert (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_mtime) == (b"1 2\n", 0o644, 77)
    monkeypatch.setattr(streams, "give_away", lambda fd, number: os.fchown(fd, number, number))  # which gives away nothing that has a name
    found = attack(HostFile(path))
    assert found["mode"] == found["times"] == "ok" != found["reopen"], found
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_mtime == 1
    path.chmod(0o644)
    found = attack(HostFile(path), "off")
    assert found["reopen"] == "ok", found
    assert path.read_bytes() != b"1 2\n"


def test_each_run_has_its_own() -> None:
    """What one run did to its file, its position and its mode, no other sees."""
    stdin = sandbox.SealedInput("one\ntwo\n")
    with sandbox.Sandbox("python") as box:
        for _ in range(2):
            script = "import os, stat; s = os.fstat(0); print(s.st_size, oct(s.st_mode & 0o222), os.read(0, 4)); os.fchmod(0, 0)"
            result = box.run([*PYTHON, script], stdin=stdin)
            assert result.stdout == b"8 0o222 b'one\\n'\n", (result.stdout, result.stderr)


def test_it_is_a_regular_file() -> None:
    """It can be sought and mapped, and tells its size; a pipe cannot. It cannot be executed."""
    script = (
        "import os, mmap, sys; m = mmap.mmap(0, 0, prot=mmap.PROT_READ); print(m[:3], os.lseek(0, 1, 0), sys.stdin.read())\n"
        "try: os.execv('/proc/self/fd/0', ['x'])\n"
        "except OSError as error: print(error.strerror)"
    )
    result = sandbox.run([*PYTHON, script], stdin=sandbox.SealedInput(b"abcdef"), profile="python")
    assert result.stdout == b"b'abc' 1 bcdef\nPermission denied\n", (result.stdout, result.stderr)
    piped = sandbox.run([*PYTHON, script], stdin=b"abcdef", profile="python")
    assert piped.exit_code == 1


@pytest.mark.parametrize("size", [0, 1, 65537, 3 << 20])
def test_sizes(tmp_path: Path, size: int) -> None:
    """Every byte comes through, from memory and from a file, in each way to start a run."""
    content = os.urandom(size)
    (tmp_path / "input").write_bytes(content)
    for stdin in (sandbox.SealedInput(content), sandbox.SealedInput(bytearray(content)), sandbox.SealedInput(tmp_path / "input")):
        assert sandbox.run(["cat"], stdin=stdin).stdout == content
        with sandbox.Sandbox() as box:
            assert box.run(["cat"], stdin=stdin).stdout == content
            with box.popen(["cat"], stdin=stdin, stdout=None) as process:
                assert process.wait(20).stdout == content
            (mapped,) = box.map(["cat"], [{"stdin": stdin}])
            assert mapped.stdout == content


def test_errors(tmp_path: Path) -> None:
    """A file that is not there is said to be; and nothing that was made ahead can have one."""
    with pytest.raises(SetupError, match=f"copy `{tmp_path}/none` as standard input: No such file or directory"):
        sandbox.run(["true"], stdin=sandbox.SealedInput(tmp_path / "none"))
    with sandbox.Sandbox(pool=1) as box:
        for call in (lambda: box.run(["true"], stdin=sandbox.SealedInput(b"")), lambda: box.popen(["true"], stdin=sandbox.SealedInput(b""))):
            with pytest.raises(PolicyError, match="has a pipe as standard input"):
                call()
        assert box.run(["true"]).ok
