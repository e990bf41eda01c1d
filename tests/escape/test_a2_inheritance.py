"""A2, what the program inherits: descriptors, the working directory, streams, environment, keys, groups."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import (
    PAYLOAD_ID,
    Alteration,
    Run,
    drop,
    give,
    in_child,
    no_filter,
    one_user_namespace,
    run_payload,
    shared_directory,
)

from sandbox.api.prepare import Prepared
from sandbox.errors import SetupError
from sandbox.plan import lower_confine
from sandbox.plan.steps import CloexecFrom, CloseFrom, DropGroups, NewKeyring, NotDumpable, RestrictLandlock

DIRECTORY, FILE, CHANNEL = 77, 101, 131
close_in_janitor: Alteration = drop(("janitor", CloseFrom))
close_at_exec: Alteration = drop(CloexecFrom)
no_landlock: Alteration = drop(RestrictLandlock)


# ---- descriptors -----------------------------------------------------------------------------------------------------


def leak(path: Path, alter: Sequence[Alteration], **options: Any) -> tuple[Run, bytes, bytes]:
    """Run the payload from a caller that has left three descriptors open; return also what became of the file and what the socket got."""

    def caller() -> tuple[Run, bytes, bytes]:
        ours, theirs = socket.socketpair()
        os.dup2(os.open(path, os.O_RDONLY | os.O_DIRECTORY), DIRECTORY)
        os.dup2(os.open(path / "file", os.O_RDWR), FILE)
        os.dup2(theirs.fileno(), CHANNEL)
        run = run_payload("a2_descriptors.py", str(DIRECTORY), str(FILE), str(CHANNEL), alter=alter, **options)
        ours.setblocking(False)
        try:
            got = ours.recv(100)
        except BlockingIOError:
            got = b""
        return run, (path / "file").read_bytes(), got

    shared_directory(path)
    for name, content in (("secret", "of the host"), ("file", "untouched file")):
        (path / name).write_text(content)
        (path / name).chmod(0o666)
    return in_child(caller)


@pytest.mark.parametrize("executor", ["native", "python"])
@pytest.mark.parametrize("profile", ["strict", "default"])
def test_only_the_standard_streams_are_open(tmp_path: Path, profile: str, executor: str) -> None:
    """CVE-2024-21626 (GHSA-xr7r-f8xq-vfvv). Rule: only 0, 1, 2 at exec: nothing leaked, and neither notify, cgroup, status nor log descriptor of ours."""
    run, content, got = leak(tmp_path / "d", (), profile=profile, executor=executor)
    assert run["open"] == "0 1 2"
    assert (run["climb"], run["scribble"], run["phone"]) == ("EBADF",) * 3
    assert (content, got) == (b"untouched file", b"")


def test_without_closing_every_descriptor_comes_in(tmp_path: Path) -> None:
    """Removed: close_range in the janitor, CLOEXEC in the payload, Landlock (which would still refuse the directory)."""
    run, content, got = leak(tmp_path / "d", (close_in_janitor, close_at_exec, no_landlock))
    assert {str(DIRECTORY), str(FILE), str(CHANNEL)} <= set(run["open"].split())
    assert run["climbed"] == "of the host"
    assert (content[:11], got) == (b"OVERWRITTEN", b"hello outside")


@pytest.mark.parametrize("alone", ["janitor", "exec"])
def test_each_closing_alone_keeps_the_callers_descriptors_out(tmp_path: Path, alone: str) -> None:
    """Either closing keeps out what the caller leaked; only the one before exec keeps out our own."""
    run, content, got = leak(tmp_path / "d", (close_at_exec if alone == "janitor" else close_in_janitor, no_landlock))
    assert {str(DIRECTORY), str(FILE), str(CHANNEL)}.isdisjoint(run["open"].split())
    assert (run["open"] == "0 1 2") is (alone == "exec")
    assert (content, got) == (b"untouched file", b"")


def test_a_working_directory_behind_a_leaked_descriptor_is_refused(tmp_path: Path) -> None:
    """CVE-2024-21626. A plan whose working directory is /proc/self/fd/77; removed: the look at magic links and the janitor's close_range (and Landlock)."""
    host = shared_directory(tmp_path / "d")
    (host / "secret").write_text("of the host")

    def through_descriptor(prepared: Prepared) -> Prepared:
        return replace(prepared, root=replace(prepared.root, workdir=f"/proc/self/fd/{DIRECTORY}"))

    def follow(low: Any, step: Any) -> None:
        low.call("chdir", step.path, label=f"`{step.path}`")

    def caller(alter: Sequence[Alteration], *, magic: bool) -> Run:
        os.dup2(os.open(host, os.O_RDONLY | os.O_DIRECTORY), DIRECTORY)
        if magic:
            lower_confine._set_workdir = follow  # in this child only
        return run_payload("a2_workdir.py", refit=through_descriptor, alter=alter)

    def refused(alter: Sequence[Alteration], *, magic: bool) -> str:
        with pytest.raises(SetupError) as caught:
            caller(alter, magic=magic)
        return str(caught.value)

    assert "ENOENT" in in_child(functools.partial(refused, (), magic=True))
    assert "ELOOP" in in_child(functools.partial(refused, (close_in_janitor, no_landlock), magic=False))
    run = in_child(functools.partial(caller, (close_in_janitor, no_landlock), magic=True))
    assert run["secret"] == "of the host"


# ---- streams ---------------------------------------------------------------------------------------------------------


def stream_files(path: Path) -> tuple[Path, Path]:
    given, result = path / "input", path / "output"
    given.write_bytes(b"the test's input")
    result.write_bytes(b"earlier results\n")
    for file in (given, result):
        file.chmod(0o644)
        os.utime(file, ns=(10**18, 10**18))
        give(file)
    return given, result


def state(file: Path) -> tuple[bytes, int, int, list[str]]:
    status = file.stat()
    return file.read_bytes(), status.st_mode, status.st_mtime_ns, os.listxattr(file)


def test_the_callers_files_are_out_of_reach_behind_streams(tmp_path: Path) -> None:
    """Rule: streams are pipes. stdin is a file opened read-only, stdout one opened for appending, both the payload's own by uid; removed below."""
    given, result = stream_files(tmp_path)
    before = state(given), state(result)
    with given.open("rb") as reader, result.open("ab") as writer:
        run = run_payload("a2_streams.py", stdin=reader.fileno(), stdout=writer.fileno(), same_user=True)
    assert (state(given), state(result)) == before
    # What worked, worked on the run's own pipes.
    assert "ESPIPE" in (run["drop-append"], run["rewrite-input"])


def test_without_pipes_the_callers_files_are_rewritten(tmp_path: Path) -> None:
    """Removed: the pipes, and Landlock (which refuses to open a file outside its paths again, but not to chmod it)."""
    given, result = stream_files(tmp_path)
    with given.open("rb") as reader, result.open("ab") as writer:
        run = run_payload("a2_streams.py", direct={0: reader.fileno(), 1: writer.fileno()}, alter=no_landlock, same_user=True)
    assert run["rewrite-input"] == run["truncate-output"] == run["read-output"] == "ok"
    content, mode, _, attributes = state(given)
    assert content.startswith(b"REWRITTEN") and mode & 0o777 == 0o777 and attributes == ["user.mark"]
    assert result.read_bytes() == b""


# ---- environment and arguments ---------------------------------------------------------------------------------------

TOKEN = "ghp_0123456789escape"


def leak_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a wall out of the spawner: the executor inherits the caller's environment."""
    real = os.posix_spawn

    def spawn(path: str, argv: list[str], env: dict[str, str], **options: Any) -> int:
        return real(path, argv, {"TOKEN": TOKEN}, **options)

    monkeypatch.setattr(os, "posix_spawn", spawn)


@pytest.mark.parametrize("profile", ["strict", "default", "shell"])
@pytest.mark.parametrize("executor", ["native", "python"])
def test_no_environment_leaks(monkeypatch: pytest.MonkeyPatch, profile: str, executor: str) -> None:
    """bubblewrap #725, #800, #503; Judge0 #564. Rule: an allow-list of variables, an init with an empty environment and neutral arguments."""
    monkeypatch.setenv("TOKEN", TOKEN)
    run = run_payload(
        "a2_environ.py",
        TOKEN[::-1],
        environ={"TOKEN": TOKEN, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        profile=profile,
        executor=executor,
    )
    assert (run["found"], run["own"]) == ("nothing", "False")
    assert run["read-environ"] != "ok" and run["read-cmdline"] != "ok", "init can be looked at"
    assert set(run["names"].split()) <= {
        "HOME",
        "USER",
        "LOGNAME",
        "PATH",
        "TMPDIR",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUNBUFFERED",
        "SHELL",
        "TERM",
        "PS1",
    }


dumpable: Alteration = drop(NotDumpable)


@pytest.mark.parametrize(
    ("empty", "alter", "found"),
    [
        (False, (dumpable, one_user_namespace, no_landlock), "1/environ"),
        (True, (dumpable, one_user_namespace, no_landlock), "nothing"),
        (False, (one_user_namespace, no_landlock), "nothing"),
        (False, (dumpable, no_landlock), "nothing"),
        (False, (dumpable, one_user_namespace), "nothing"),
    ],
    ids=["none", "empty environment alone", "undumpable alone", "inner namespace alone", "Landlock alone"],
)
def test_the_environment_of_init(monkeypatch: pytest.MonkeyPatch, empty: bool, alter: Sequence[Alteration], found: str) -> None:
    """Four walls before /proc/1/environ, each enough by itself; with none of them the token is read."""
    if not empty:
        leak_environment(monkeypatch)
    run = run_payload("a2_environ.py", TOKEN[::-1], alter=alter, executor="native")
    assert run["found"] == found
    if len(alter) == 3:
        assert run["cmdline"].strip() == "sandbox-init", "init's arguments tell something"


def test_variables_are_an_allow_list() -> None:
    """Removed: the allow-list (a profile that passes TOKEN); then the payload has it."""
    run = run_payload("a2_environ.py", TOKEN[::-1], environ={"TOKEN": TOKEN}, profile_changes={"env_pass": ("TOKEN",)})
    assert run["own"] == "True"


# ---- keys ------------------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
JOIN, SETPERM, REVOKE, ANYBODY = 1, 5, 3, 0x3F3F3F3F
SESSION, USER = ctypes.c_int(-3), ctypes.c_int(-4)


def make_key(ring: ctypes.c_int, content: bytes) -> int:
    from sandbox.abi.arch import Arch
    from sandbox.abi.tables import syscall_number

    number = syscall_number(Arch(os.uname().machine), "add_key")
    serial = _libc.syscall(number, b"user", b"sandbox-escape-test", content, len(content), ring)
    if serial < 0:
        pytest.skip(f"add_key: {os.strerror(ctypes.get_errno())}")
    keyctl(SETPERM, serial, ANYBODY)
    return int(serial)


def keyctl(*words: Any) -> int:
    from sandbox.abi.arch import Arch
    from sandbox.abi.tables import syscall_number

    return int(_libc.syscall(syscall_number(Arch(os.uname().machine), "keyctl"), *words))


def with_keys(*alterations: Sequence[Alteration]) -> list[Run]:
    """Run the payload once for each alteration, from one caller that has a key in @s and one in @u, both open to anybody by serial."""

    def caller() -> list[Run]:
        keyctl(JOIN, None)
        # The payload's own session ring would have to be linked; a key that the user may read by serial needs no possession at all.
        session_key, user_key = make_key(SESSION, b"session secret"), make_key(USER, b"user secret")
        keyctl(SETPERM, SESSION, ANYBODY)
        try:
            return [run_payload("a2_keys.py", str(session_key), str(user_key), alter=alter, same_user=True) for alter in alterations]
        finally:
            keyctl(REVOKE, user_key)

    return in_child(caller)


def test_no_key_is_readable_and_none_is_left() -> None:
    """Rule: a session keyring of the run's own, and keyctl, add_key and request_key denied. Twice, for the covert channel."""
    for run in with_keys((), ()):
        for name in ("by-serial-session", "by-serial-user", "search-session", "search-user", "request", "find-note", "leave-note"):
            assert run[name] == "EPERM", name
        assert run.result.denials["keyctl"] >= 5 and run.result.denials["add_key"] == 1 and run.result.denials["request_key"] == 1


def test_without_walls_keys_are_read_and_carry_notes() -> None:
    """Removed: the keyring and the filter; then the secret is read in three ways and the second run reads the first one's note."""
    first, second = with_keys((drop(NewKeyring), no_filter), (drop(NewKeyring), no_filter))
    assert first["session-serial"] == "session secret" and first["search-session"] == first["request"] == "ok"
    assert first["find-note"] == "ENOKEY" and first["leave-note"] == "ok"
    assert second["note"] == "from the first run"


def test_a_keyring_of_its_own_stops_search_and_notes_but_not_serials() -> None:
    """The keyring alone: what is found by name is gone; a key whose owner lets its user read it is still read by its number: hence the filter, too."""
    first, second = with_keys((no_filter,), (no_filter,))
    for run in (first, second):
        assert run["search-session"] == run["request"] == run["find-note"] == "ENOKEY"
        assert run["session-serial"] == "session secret"


def test_the_filter_alone_stops_keys() -> None:
    """The filter without the keyring is enough."""
    (run,) = with_keys((drop(NewKeyring),))
    assert run["by-serial-session"] == run["search-session"] == run["request"] == run["leave-note"] == "EPERM"


# ---- identity --------------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("walled", [True, False])
def test_roots_groups_are_dropped(tmp_path: Path, walled: bool) -> None:
    """Rule: no supplementary group of the caller. Removed: setgroups(0); then a file of that group is read through a shared directory."""
    host = shared_directory(tmp_path / "d")
    (host / "secret").write_text("of the group")
    os.chown(host / "secret", 0, 4)
    (host / "secret").chmod(0o640)

    def caller() -> Run:
        os.setgroups([4])
        return run_payload(
            ["/bin/sh", "-c", "read line </host/secret; echo content=$line"],
            volumes=[f"{host}:/host"],
            alter=() if walled else drop(DropGroups),
        )

    assert in_child(caller)["content"] == ("" if walled else "of the group")


def test_the_payload_is_nobody_of_importance_outside(tmp_path: Path) -> None:
    """Rule: the payload's host uid is the caller's or, for root, one that nobody has; never 0, and never 0 inside."""
    host = shared_directory(tmp_path / "d")
    run = run_payload(["/bin/sh", "-c", "echo >/host/made; echo uid=$(id -u)"], volumes=[f"{host}:/host:rw"])
    owner = (host / "made").stat().st_uid
    assert run["uid"] != "0" and owner != 0
    assert owner == PAYLOAD_ID if os.geteuid() else owner >= 0x70000000 or owner > 1000
