"""A10, judging: one run leaves nothing for the next, answers stay unreadable, inputs unchanged, caches clean.

The catalogues: Forisek 2006, Tochev and Bogdanov 2010 (the IOI 2009 grader's tests), Mares and Blackham 2012; CMS#376, kjudge#82, DMOJ#318, isolate's NEWS.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from escape.support import WALL_S, Alteration, drop, in_child, neighbour, no_filter, payload_files, run_payload, shared_directory

import sandbox.api
from sandbox.plan.steps import NewKeyring
from sandbox.policy.profile import CwdMode
from sandbox.result import Verdict

libc = ctypes.CDLL(None, use_errno=True)
PROFILES = ("strict", "python", "default", "build", "shell", "judge")
WRITABLE = ("tmp", "shm", "home")
KEYS = ("key-session", "key-user")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_leaves_nothing_for_the_next(profile: str) -> None:
    """Rule: one run = fresh namespaces and fresh tmpfs (isolate shared /dev/shm by mistake until 2.6). Removed: the freshness, by a writable share."""
    left = run_payload("a10_residue.py", "leave", profile=profile)
    assert {left[place] for place in WRITABLE} == {"ok"}  # it could write
    assert {left[key] for key in KEYS} == {"EPERM"}
    found = run_payload("a10_residue.py", "look", profile=profile)
    assert {found[place] for place in (*WRITABLE, "vartmp", "run", "share", "here")} == {"ENOENT"} and {found[key] for key in KEYS} == {
        "EPERM"
    }


def test_a_writable_share_carries_state(tmp_path: Path) -> None:
    """What it looks like when two runs share a writable place."""
    volumes = [f"{shared_directory(tmp_path)}:/share:rw"]
    assert run_payload("a10_residue.py", "leave", volumes=volumes)["share"] == "ok"
    if os.geteuid() == 0:
        for path in tmp_path.iterdir():
            path.chmod(0o666)  # root's two runs are two users
    found = run_payload("a10_residue.py", "look", volumes=volumes)
    assert (found["share"], found["tmp"]) == ("ok", "ENOENT")


def test_keys_carry_state() -> None:
    """Rule: keyrings are in no namespace: a session keyring of its own, and the filter. Removed: both; then the second run reads the first one's key."""

    def two_runs(*alter: Alteration) -> tuple[str, str]:
        def caller() -> tuple[str, str]:
            # A session keyring of this test's own, so that nothing is left in the one it was started in; and whoever has the id may search it.
            number = 250 if os.uname().machine == "x86_64" else 219
            assert libc.syscall(ctypes.c_long(number), 1, None) > 0
            libc.syscall(ctypes.c_long(number), ctypes.c_long(5), ctypes.c_long(-3), ctypes.c_ulong(0x3F3F3F3F))
            first = run_payload("a10_residue.py", "leave", alter=alter)["key-session"]
            return first, run_payload("a10_residue.py", "look", alter=alter)["key-session"]

        return in_child(caller)

    assert two_runs() == ("EPERM", "EPERM")
    assert two_runs(drop(NewKeyring)) == ("EPERM", "EPERM")
    assert two_runs(no_filter) == ("ok", "ENOKEY")
    assert two_runs(no_filter, drop(NewKeyring)) == ("ok", "ok")


def test_locks_on_a_shared_file_are_a_channel(tmp_path: Path) -> None:
    """Rule: no flock, fcntl locks or leases on shared inodes in the judge policy (isolate 2.4). Removed: the policy; then one run sees the other's lock."""
    directory = shared_directory(tmp_path)
    (directory / "input").write_text("1 2 3\n")
    (directory / "input").chmod(0o644)
    volumes = [f"{directory}:/share:ro"]
    for policy, first, second in (("judge", ("EPERM", "EPERM"), "EPERM"), ("strict", ("ok", "ok"), "EAGAIN")):
        with neighbour("a10_residue.py", "leave", "/share/input", policy=policy, volumes=volumes) as beside:
            beside.wait_for("locked")
            assert (beside.facts["flock"], beside.facts["lockf"]) == first
            run = run_payload("a10_residue.py", "look", "/share/input", policy=policy, volumes=volumes)
            assert run["flock"] == second
            assert beside.facts["lease"] == run["lease"] == "EPERM"  # in every policy: a lease stalls whoever opens the file outside


def test_answers_are_not_there(tmp_path: Path) -> None:
    """Rule: answers are never in the sandbox's parent directories (CMS#376). Same user, readable, beside the input. Removed: the wall, by a share."""
    task = shared_directory(tmp_path / "task")
    shared_directory(task / "input")
    shared_directory(task / "answers")
    answer = task / "answers" / "secret-1.out"
    answer.write_text("42\n")
    answer.chmod(0o644)
    (task / "input" / "1.in").write_text("6 7\n")
    program = shared_directory(tmp_path / "program")
    _, files = payload_files("a10_answers.py")
    for name, content in files.items():
        (program / name).write_bytes(content)
        (program / name).chmod(0o644)
    attack = ("/usr/bin/python3", "-S", "-B", "/program/main.py", str(answer))
    for how in ({"cwd": task / "input"}, {"volumes": [f"{task}/input:/input"]}, {"volumes": [f"{task}/input/1.in:/1.in"]}):
        run = run_payload(attack, **{"cwd": None, **how, "volumes": [f"{program}:/program", *how.get("volumes", [])]})
        assert run["found"] == "0" and "read" not in run.facts, run.facts
    run = run_payload(attack, volumes=[f"{program}:/program", f"{task}:{task}"])
    assert run["read"] == "42"


def test_the_input_is_a_copy() -> None:
    """Rule: input copied in, never bound writable: the first run rewrites its own, the second has the whole one. Removed: the copy, by a writable share."""
    script = "cat input; echo 0 > input; cat input"
    for _ in range(2):
        result = sandbox.api.run(["sh", "-c", script], files={"input": "6 7\n"}, timeout=WALL_S)
        assert result.stdout == b"6 7\n0\n", result.stderr


def test_a_shared_input_can_be_rewritten_when_writable(tmp_path: Path) -> None:
    """The same by a share: read-only it stays, writable the next contestant's input is what the first one made of it."""
    directory = shared_directory(tmp_path)
    for mode, expected in (("ro", b"6 7\n"), ("rw", b"0\n")):
        (directory / "input").write_text("6 7\n")
        (directory / "input").chmod(0o666)
        for _ in range(2):
            result = sandbox.api.run(
                ["sh", "-c", "cat /task/input; echo 0 > /task/input"], volumes=[f"{directory}:/task:{mode}"], timeout=WALL_S
            )
        assert result.stdout == expected


POISON = """
import importlib.util, marshal, os, sys
code = compile("print('poisoned=yes')", "helper.py", "exec")
os.makedirs("__pycache__", exist_ok=True)
name = f"__pycache__/helper.{sys.implementation.cache_tag}.pyc"
# A hash-based file that asks not to be checked: Python never looks at the source again.
with open(name, "wb") as file:
    file.write(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code))
print("written=yes")
"""


def test_the_bytecode_cache_is_not_poisoned(tmp_path: Path) -> None:
    """Rule: the bytecode cache is off or read-only. One run writes a cached helper module, the next imports it. Removed: the read-only directory."""
    for mode, poisoned in ((CwdMode.READ_ONLY, False), (CwdMode.WRITABLE, True)):
        directory = shared_directory(tmp_path / mode.value)
        (directory / "helper.py").write_text("print('honest=yes')\n")
        how: dict[str, Any] = {"profile": "python", "cwd": directory, "profile_changes": {"cwd": mode}}
        first = run_payload(("/usr/bin/python3", "-c", POISON), **how)
        assert ("written" in first.facts) is poisoned
        if os.geteuid() == 0:
            for path in directory.rglob("*.pyc"):
                path.chmod(0o644)
        second = run_payload(("/usr/bin/python3", "-c", "import helper"), **how)
        assert (set(second.facts) == {"poisoned"}) is poisoned and second.result.ok


@pytest.mark.parametrize("profile", PROFILES)
def test_python_writes_no_bytecode(profile: str) -> None:
    """The other half of that rule: the variable is set inside, whatever the caller's environment says. Removed: the variable."""
    code = "import sys; print('dont=%s' % sys.dont_write_bytecode)"
    assert run_payload(("/usr/bin/python3", "-c", code), profile=profile)["dont"] == "True"
    assert run_payload(("env", "-u", "PYTHONDONTWRITEBYTECODE", "/usr/bin/python3", "-c", code), profile=profile)["dont"] == "False"


needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or not os.path.realpath(shutil.which("gcc") or "").startswith("/usr/"), reason="no gcc in /usr"
)


@needs_compiler
def test_compiling_reads_no_file_of_the_host(tmp_path: Path) -> None:
    """Rule: compile in a sandbox of its own: #include of the answer and of /etc (kjudge#82, QingdaoU#165). Removed: the wall, by sharing the answer."""
    answer = tmp_path / "answer.h"
    answer.write_text("SECRET_ANSWER\n")
    shared_directory(tmp_path)
    source = f'#include "{answer}"\n#include "/etc/passwd"\n#include "/etc/hostname"\n'
    command = ["sh", "-c", "gcc -E -P main.c || true"]
    result = sandbox.api.run(command, profile="build", files={"main.c": source}, timeout=WALL_S)
    assert result.stdout is not None and b"SECRET_ANSWER" not in result.stdout
    host = Path("/etc/passwd").read_text().splitlines()
    assert not any(line.encode() in result.stdout for line in host if not line.startswith(("root:", "nobody:")))
    result = sandbox.api.run(
        command, profile="build", files={"main.c": f'#include "{answer}"\n'}, volumes=[f"{tmp_path}:{tmp_path}"], timeout=WALL_S
    )
    assert result.stdout == b"SECRET_ANSWER\n"


@needs_compiler
def test_compile_bombs() -> None:
    """Rule: a compile step is a run with limits: the big array, the endless include. Removed: the size; then the array becomes a program of 40 MB."""
    bomb = {"bomb.c": "int main[10000000] = {1};\n"}
    script = "gcc -o program bomb.c && stat -c size=%s program"
    how: dict[str, Any] = {"profile": "build", "files": bomb, "timeout": WALL_S}
    result = sandbox.api.run(["sh", "-c", script], limits={"file-size": "8M"}, **how)
    assert not result.ok and b"size" not in (result.stdout or b"")
    result = sandbox.api.run(["sh", "-c", script], **how)
    assert result.ok and int((result.stdout or b"=0").split(b"=")[1]) > 40_000_000
    endless = {"main.c": '#include "/dev/zero"\n'}
    result = sandbox.api.run(["gcc", "-c", "main.c"], profile="build", files=endless, limits={"wall": "1s", "memory": "256M", "cpu": "1s"})
    assert not result.ok and (result.verdict in (Verdict.WALL_LIMIT, Verdict.CPU_LIMIT, Verdict.MEMORY_LIMIT) or result.exit_code)


def test_language_level_tricks_meet_the_same_walls() -> None:
    """Rule: only OS walls count (pysandbox, 2012). What breaks language jails is let alone and gets nothing: builtins by subclasses, ctypes, code objects."""
    code = (
        "().__class__.__base__.__subclasses__();import ctypes;l=ctypes.CDLL(None,use_errno=True);"
        "print('mmap=%s'%(ctypes.pythonapi is not None));print('host=%d'%l.sethostname(b'x',1));exec(compile('print(\"exec=yes\")','x','exec'))"
    )
    run = run_payload(("/usr/bin/python3", "-c", code))
    assert (run["mmap"], run["host"], run["exec"]) == ("True", "-1", "yes") and run.result.denials == {"sethostname": 1}


@pytest.mark.parametrize("bytes_out", [b"\xed\xa0\x80\xff\x00\x1b[2J", b"\xf0\x9f\x98", b"\r\n\x00" * 100])
def test_output_of_any_bytes_is_kept_as_it_is(bytes_out: bytes) -> None:
    """Rule: lone surrogates, NUL bytes and half characters (snekbox's tests) neither change nor break the record. Compare them with what was sent."""
    result = sandbox.api.run(["sh", "-c", "cat; cat /dev/null"], stdin=bytes_out, timeout=WALL_S)
    assert result.ok and result.stdout == bytes_out
