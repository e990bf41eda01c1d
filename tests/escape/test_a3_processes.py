"""A3, the process boundary: groups, tracing, survivors, and who is signalled by what."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import (
    PATIENCE_S,
    PAYLOAD_ID,
    Alteration,
    Run,
    drop,
    in_child,
    namespace_members,
    no_filter,
    one_user_namespace,
    run_payload,
    run_plain,
)

import sandbox
from sandbox.abi import uapi
from sandbox.errors import SetupError
from sandbox.plan.codec import Op
from sandbox.plan.lower import lower_plan
from sandbox.plan.steps import (
    CloneInit,
    DieWithJanitor,
    NewSession,
    NotDumpable,
    Plan,
    RestrictLandlock,
)
from sandbox.policy.profile import ProcMode

no_session: Alteration = drop(NewSession)
no_landlock: Alteration = drop(RestrictLandlock)
dumpable: Alteration = drop(NotDumpable)
NO_PROC = {"proc": ProcMode.NONE}


PACKAGE = Path(sandbox.__file__).resolve().parent
SECRET = "supervised-secret-4711"


# ---- groups ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What a victim outside saw: the signals it got and its nice value and I/O priority afterwards."""

    run: Run
    signals: tuple[int, ...]
    nice: int
    io: int


def attack_group(alter: Sequence[Alteration], plain: bool = False, **options: Any) -> Damage:
    """Run the payload from a caller that has a victim of the payload's user in its process group."""
    from sandbox.abi.arch import Arch
    from sandbox.abi.tables import syscall_number

    def caller() -> Damage:
        import ctypes

        os.setpgid(0, 0)
        caught = {signal.SIGUSR1, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, caught)
        reader, writer = os.pipe()
        report_r, report_w = os.pipe()
        victim = os.fork()
        if victim == 0:
            os.close(writer)
            if os.geteuid() == 0:
                os.setresgid(PAYLOAD_ID, PAYLOAD_ID, PAYLOAD_ID)
                os.setresuid(PAYLOAD_ID, PAYLOAD_ID, PAYLOAD_ID)
            os.write(report_w, b"up")
            os.read(reader, 1)
            got = sorted(int(number) for number in signal.sigpending() & caught)
            priority = ctypes.CDLL(None).syscall(syscall_number(Arch(os.uname().machine), "ioprio_get"), 1, 0)
            os.write(report_w, repr((tuple(got), os.getpriority(os.PRIO_PROCESS, 0), priority)).encode())
            os._exit(0)
        assert os.read(report_r, 2) == b"up"
        if plain:
            os.setpgid(0, 0)
            run = run_plain("a3_group.py", str(victim))
        else:
            run = run_payload("a3_group.py", str(victim), alter=alter, same_user=True, **options)
        os.close(writer)
        signals, nice, io = ast.literal_eval(os.read(report_r, 100).decode())
        os.waitpid(victim, 0)
        return Damage(run=run, signals=signals, nice=nice, io=io)

    return in_child(caller)


@pytest.mark.parametrize("profile", ["strict", "default", "shell"])
def test_nobody_outside_is_signalled_or_slowed(profile: str) -> None:
    """Rule: setsid before entering: a pid namespace does not stop operations on a shared process group."""
    damage = attack_group((), profile=profile)
    assert damage.run["done"] == "yes"
    assert (damage.signals, damage.nice, damage.io) == ((), 0, 0)
    assert damage.run["kill-victim"] == damage.run["pidfd-victim"] == "ESRCH"


def test_in_the_callers_group_everybody_is_hit() -> None:
    """Removed: both setsid, the filter (slowing), Landlock's signal scope (signals). The pid namespace stands, and does not help."""
    damage = attack_group((no_session, no_filter, no_landlock))
    assert damage.run["done"] == "yes"
    assert (damage.signals, damage.nice) == ((signal.SIGUSR1,), 7)
    # In root's group the kernel stops at the first process that is another user's.
    assert damage.io >> 13 == 3 or os.geteuid() == 0


def test_the_session_alone_stops_group_operations() -> None:
    """Without filter and Landlock, setsid is enough."""
    damage = attack_group((no_filter, no_landlock))
    assert (damage.signals, damage.nice, damage.io) == ((), 0, 0)


@pytest.mark.landlock
def test_filter_and_landlock_stop_group_operations_without_a_session() -> None:
    """Landlock's scope stops the signal, strict's filter the slowing, where the kernel has the scope."""
    damage = attack_group((no_session,))
    landlock = next(step for step in damage.run.plan.payload if isinstance(step, RestrictLandlock)) if damage.run.plan else None
    if landlock is None or not landlock.scoped:
        pytest.skip("Landlock has no signal scope here (ABI 6)")
    assert (damage.signals, damage.nice, damage.io) == ((), 0, 0)


def test_a_process_outside_is_killed_by_number_without_a_sandbox() -> None:
    """Removed: everything, as init refuses to run outside a pid namespace (below). The victim gets a signal by its number."""
    damage = attack_group((), plain=True)
    assert damage.run["kill-victim"] == damage.run["pidfd-victim"] == "ok" and signal.SIGUSR2 in damage.signals


def test_init_refuses_to_be_anything_but_pid_1() -> None:
    """Rule: end by the death of the namespace's init. Init kills by kill(-1); not being pid 1 it would kill all that the caller has running."""

    def share_pids(plan: Plan) -> Plan:
        clone = next(step for step in plan.janitor if isinstance(step, CloneInit))
        shared = replace(clone, flags=clone.flags & ~uapi.CLONE_NEWPID)
        altered = replace(plan, janitor=tuple(shared if step is clone else step for step in plan.janitor))
        # Looked at first: without these rows the run below would take this very test down, and more.
        rows = [row for row in lower_plan(altered).rows if row.step >= len(plan.janitor)]
        assert rows[0].label == "getpid" and rows[1].op is Op.EXPECT and rows[1].args[1:4] == (8, 0xFFFFFFFFFFFFFFFF, 1)
        return altered

    with pytest.raises(SetupError, match="pid 1"):
        run_payload(["/bin/true"], alter=share_pids, profile_changes=NO_PROC)


# ---- tracing ---------------------------------------------------------------------------------------------------------

CALLS = ("read", "write", "take", "kcmp", "trace")


@pytest.mark.parametrize("profile", ["strict", "python", "default", "build", "shell"])
def test_processes_do_not_reach_into_each_other(profile: str) -> None:
    """firejail CVE-2017-5206. Rule: ptrace, process_vm_*, pidfd_getfd, kcmp, process_madvise denied, also among the sandbox's own processes."""
    run = run_payload("a3_trace.py", profile=profile)
    assert {name: run[f"child-{name}"] for name in CALLS} == dict.fromkeys(CALLS, "EPERM")
    assert run["init-taken"] == "nothing" and run["init-trace"] == "EPERM"
    # The kernel itself refuses process_madvise on others without CAP_SYS_NICE, so only the record tells that the filter did.
    assert run["child-advise"] == "EPERM" and run.result.denials["process_madvise"] == 1


def test_without_the_filter_a_child_is_read_and_steered() -> None:
    """Removed: the filter; then every call works on a child. Init is still out of reach."""
    run = run_payload("a3_trace.py", alter=no_filter)
    assert {name: run[f"child-{name}"] for name in CALLS} == dict.fromkeys(CALLS, "ok")
    assert run["init-taken"] == "nothing" and run["init-trace"] != "ok" and run["init-mem"] != "ok" and run["init-exe"] != "ok"


def test_init_without_its_walls_gives_away_its_report_channel_and_program() -> None:
    """Rule: init is undumpable, of another user namespace, outside Landlock's domain. Removed: all and the filter; then the payload takes the
    descriptor that reports verdicts, and holds the launcher's program (CVE-2019-5736)."""
    run = run_payload("a3_trace.py", alter=(no_filter, dumpable, one_user_namespace, no_landlock), executor="native")
    assert "socket" in run["init-taken"].split() and run["init-trace"] == "ok" and run["init-mem"] == "ok"
    assert run["init-program"] == repr(b"\x7fELF")


@pytest.mark.parametrize(
    "alter",
    [(no_filter, one_user_namespace, no_landlock), (no_filter, dumpable, no_landlock), (no_filter, dumpable, one_user_namespace)],
    ids=["undumpable alone", "inner namespace alone", "Landlock alone"],
)
def test_each_wall_of_init_alone_is_enough(alter: Sequence[Alteration]) -> None:
    """Undumpable, the inner user namespace or Landlock: each keeps init closed without the filter."""
    if no_landlock not in alter and not _has_landlock():
        pytest.skip("no Landlock here")
    run = run_payload("a3_trace.py", alter=alter, executor="native")
    assert run["init-taken"] == "nothing" and run["init-trace"] != "ok" and run["init-mem"] != "ok" and run["init-exe"] != "ok"


def _has_landlock() -> bool:
    from sandbox.kernel.probe import probe_landlock

    return probe_landlock() > 0


# ---- survivors -------------------------------------------------------------------------------------------------------


def survivors(alter: Sequence[Alteration], wait_s: float, plain: bool = False, **options: Any) -> tuple[Run, bool]:
    """Run the payload that leaves daemons; return whether all of them were dead when the run had ended (they hold a pipe of ours)."""

    def caller() -> tuple[Run, bool]:
        hold_r, hold_w = os.pipe()
        feed_r, feed_w = os.pipe()
        if plain:
            run = run_plain("a3_survive.py", direct={0: feed_r, 2: hold_w})
        else:
            run = run_payload("a3_survive.py", direct={0: feed_r, 2: hold_w}, alter=alter, **options)
        os.close(hold_w)
        os.close(feed_r)
        ready, _, _ = select.select([hold_r], [], [], wait_s)
        os.close(feed_w)  # lets whoever is left end
        select.select([hold_r], [], [], PATIENCE_S)
        return run, bool(ready)

    return in_child(caller)


@pytest.mark.parametrize("executor", ["native", "python"])
def test_nothing_survives_the_run(executor: str) -> None:
    """DMOJ #318. Rule: the end is the death of the pid namespace's init, whatever forked, detached or ignored signals."""
    run, dead = survivors((), PATIENCE_S, executor=executor)
    assert run["left"] == "3" and dead


@pytest.mark.orphans
def test_without_a_sandbox_daemons_survive() -> None:
    """Removed: everything; then the program ends and its daemons live on."""
    _, dead = survivors((), 0.3, plain=True)
    assert not dead


@pytest.mark.orphans
@pytest.mark.parametrize("walled", [True, False], ids=["whole", "without PDEATHSIG"])
def test_init_dies_with_the_janitor(walled: bool) -> None:
    """Rule: PR_SET_PDEATHSIG as a second line. The supervisor is stopped and the janitor, who would kill init, is killed itself.

    Removed: DieWithJanitor; then the payload lives on until the supervisor goes on, who would notice.
    """
    feed_r, feed_w = os.pipe()
    words_r, words_w = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(feed_w)
        alter = () if walled else drop(DieWithJanitor)
        try:
            run_payload("a3_neighbour.py", SECRET, alter=alter, stdin=feed_r, stdout=words_w, same_user=True, executor="native")
        finally:
            os._exit(0)
    try:
        os.close(feed_r)
        os.close(words_w)
        link = os.read(words_r, 100).decode().partition("=")[2].strip()
        payload = namespace_members(link)[-1]
        (janitor,) = map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
        with os.fdopen(os.pidfd_open(payload)) as pidfd:
            os.kill(supervisor, signal.SIGSTOP)
            os.waitpid(supervisor, os.WUNTRACED)
            os.kill(janitor, signal.SIGKILL)
            dead, _, _ = select.select([pidfd], [], [], PATIENCE_S if walled else 0.3)
        assert bool(dead) is walled
    finally:
        os.close(feed_w)
        os.close(words_r)
        os.kill(supervisor, signal.SIGCONT)
        os.waitpid(supervisor, 0)


# ---- the supervisor --------------------------------------------------------------------------------------------------


def test_the_command_line_program_cannot_be_read(sandbox_cli: Any) -> None:
    """Rule: the supervisor is undumpable: no process of the same user reads its environment or memory. Removed: this process, which is not hardened."""
    if os.geteuid() == 0:
        pytest.skip("root reads every process")
    pytest.importorskip("prctl")
    with sandbox_cli.popen("exec", "--profile", "strict", "--", "/bin/sh", "-c", "echo up; read line", env={"TOKEN": SECRET}) as process:
        assert process.stdout.readline() == b"up\n"
        for name in ("environ", "mem", "maps", "fd", "cwd", "root", "ns/user"):
            with pytest.raises(PermissionError):
                _open_any(f"/proc/{process.pid}/{name}")
        process.communicate(b"\n", timeout=PATIENCE_S)
    _open_any(f"/proc/{os.getpid()}/environ")
    assert subprocess.run(["/bin/cat", f"/proc/{os.getpid()}/environ"], capture_output=True, check=False, timeout=PATIENCE_S).returncode == 0


def _open_any(path: str) -> None:
    if os.path.basename(path) in ("cwd", "root", "user"):
        os.readlink(path)
    elif os.path.basename(path) == "fd":
        os.listdir(path)
    else:
        with open(path, "rb"):
            pass


# ---- by number -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["supervise", "launch", "api", "cgroup"])
def test_no_process_is_signalled_by_number(folder: str) -> None:
    """Rule: a pidfd for every process that is signalled, never a number that another process may have by then (a rule on our source)."""
    calls = []
    for path in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("kill", "killpg")
                and isinstance(node.value, ast.Name)
                and node.value.id in ("os", "signal")
            ):
                calls.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert calls == []
