"""Priorities and processors of a run: not the caller's, what was asked, and not to be undone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import SandboxError, UnsupportedError

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

SHOW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), libc.syscall(252, 1, 0), sorted(os.sched_getaffinity(0)))
"""
UNDO = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(251, 1, 0, 2 << 13), libc.syscall(141, 0, 0, 0), libc.syscall(203, 0, 8, (ctypes.c_ulong * 1)(3)))
print(libc.syscall(252, 1, 0), os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0)))
"""


def inside(program: str, **options: object) -> str:
    result = sandbox.run([sys.executable, "-S", "-c", program], **options)  # type: ignore[arg-type]
    assert result.exit_code == 0 and result.stdout is not None, result
    return result.stdout.decode()


def in_a_fork(what: Callable[[], str]) -> str:
    """Return what is returned in a child, whose priorities are its own to spoil."""
    ready, word = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.write(word, what().encode())
        except SandboxError as error:
            os.write(word, f"error: {error.message} {error.hint}".encode())
        finally:
            os._exit(0)
    os.close(word)
    with open(ready, "rb") as file:
        text = file.read().decode()
    os.waitpid(child, 0)
    return text


def here() -> str:
    return str(sorted(os.sched_getaffinity(0)))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs have that machine's numbers")
class TestScheduling:
    def test_defined_values(self) -> None:
        base = os.getpriority(os.PRIO_PROCESS, 0) if os.geteuid() else 0
        assert inside(SHOW, profile="default") == f"0 {max(0, base)} 0 {here()}\n"

    @pytest.mark.root
    def test_the_callers_are_not_inherited(self) -> None:
        def spoiled() -> str:
            import ctypes

            os.setpriority(os.PRIO_PROCESS, 0, 7)
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            ctypes.CDLL(None).syscall(251, 1, 0, 3 << 13)
            return inside(SHOW, profile="default")

        assert in_a_fork(spoiled) == f"0 0 0 {here()}\n"

    def test_who_may_not_go_back_is_told(self) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may go back")

        def nicer() -> str:
            os.nice(3)
            result = sandbox.run([sys.executable, "-S", "-c", SHOW], profile="default")
            assert result.stdout is not None
            return f"{os.getpriority(os.PRIO_PROCESS, 0)}|{result.stdout.decode()}|{result.notes}"

        own, shown, notes = in_a_fork(nicer).split("|")
        assert shown.split()[1] == own
        assert f"the program runs with nice {own}, like the caller" in notes

        def refused() -> str:
            os.nice(19)
            return inside(SHOW, limits={"nice": 5})

        assert "`limits.nice` needs a caller that is allowed nice 5" in in_a_fork(refused)

    def test_what_was_asked(self) -> None:
        if os.getpriority(os.PRIO_PROCESS, 0) > 11:
            pytest.skip("runs at a nice value above the one asked for")
        shown = inside(SHOW, profile="default", limits={"nice": 11, "io-priority": "idle"})
        assert shown == f"0 11 {3 << 13 | 7} {here()}\n"
        assert inside(SHOW, profile="default", limits={"nice": 11, "io-priority": "best-effort:6"}).split()[2] == str(2 << 13 | 6)

    def test_nice_cannot_be_undone_and_io_priority_only_where_it_is_said(self) -> None:
        limits = {"nice": 19, "io-priority": "idle"}
        result = sandbox.run([sys.executable, "-S", "-c", UNDO], profile="default", limits=limits)
        assert result.stdout is not None
        told = {entry.what: entry.weaker for entry in result.enforced}
        first, second = result.stdout.decode().splitlines()
        assert first.split()[0] == "0" and "may go back to best-effort" in told["io priority"]
        assert first.split()[1] == "-1" and second.split()[1] == "19" and told["nice"] == ""
        strict = sandbox.run([sys.executable, "-S", "-c", UNDO], profile="strict", limits=limits)
        assert strict.stdout is not None and strict.stdout.split()[0] == b"-1"
        assert {entry.what: entry.weaker for entry in strict.enforced}["io priority"] == ""

    def test_processors_by_affinity_only_where_the_policy_keeps_them(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        if len(os.sched_getaffinity(0)) < 2:
            pytest.skip("one processor")
        monkeypatch.setattr("sandbox.api.prepare.find_backend", lambda: None)
        with pytest.raises(UnsupportedError, match=r"limits\.cpuset.*policy `strict` the program could leave its processors"):
            sandbox.run(["true"], profile="strict", limits={"cpuset": "1"})
        logged = tmp_path / "logged.toml"  # the kernel lets a logged call through
        logged.write_text('name = "logged"\ndescription = "test"\nextends = ["strict"]\n[[rule]]\nsyscalls = ["sched_setaffinity"]\naction = "log"\n')
        with pytest.raises(UnsupportedError, match="with policy `logged` the program could leave its processors"):
            sandbox.run(["true"], profile="strict", policy=str(logged), limits={"cpuset": "1"})
        result = sandbox.run([sys.executable, "-S", "-c", UNDO], profile="strict", policy="judge", limits={"cpuset": "1"})
        assert result.stdout is not None, result
        assert result.stdout.split()[2] == b"-1" and result.stdout.strip().endswith(b"[1]")
        assert [entry.how for entry in result.enforced if entry.what == "cpuset"] == ["sched_setaffinity"]
        assert any("refuses sched_setaffinity" in entry.weaker for entry in result.enforced)

    @pytest.mark.parametrize("limits", [{"cpus": 0.5}, {"cpu-weight": 50}, {"io": {"device": "/", "read": "1M"}}])
    def test_shares_without_a_cgroup_are_refused(self, monkeypatch: pytest.MonkeyPatch, limits: dict[str, object]) -> None:
        monkeypatch.setattr("sandbox.api.prepare.find_backend", lambda: None)
        (key,) = limits
        with pytest.raises(UnsupportedError, match=rf"`limits\.{key}` needs a writable cgroup with {key}"):
            sandbox.run(["true"], profile="strict", limits=limits)
