"""Servers: a run is the same as any other, in both executors; failures are told; whoever dies, nothing is left."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel.served import PATIENCE_S, Resident, prepare_for
from kernel.test_executors import LOOK, VOLATILE, make_plan, run_table

from sandbox.errors import InternalError, SandboxError
from sandbox.launch.resident import ServerGoneError, clone_refusal
from sandbox.launch.spawn import Launched, executor_command
from sandbox.plan import fds
from sandbox.plan.codec import NO_ROW, Ask, Kind, encode_command, encode_request
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import Bind
from sandbox.plan.steps import CloneTree, MountTmpfs, Plan, SetLimit
from sandbox.plan.template import anew_refusal, build_run_plan, clone_flags, may_recycle_network, template_refusal
from sandbox.policy.profile import NetworkMode, ProcMode
from sandbox.record import replace

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
pytestmark.append(pytest.mark.skipif(len(executor_command()) > 1, reason="the native executor is not built"))

ROOT = os.geteuid() == 0
EXECUTORS = ("native", "python")
KINDS = [
    pytest.param(True, id="template"),
    pytest.param(False, id="anew", marks=pytest.mark.skipif(ROOT, reason="root takes shared trees itself")),
]
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
NET = (*PYTHON, "import os; print(os.readlink('/proc/self/ns/net'))")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(*pids: int) -> None:
    """Wait until processes are gone; fails when they do not go."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([fd], [], [], PATIENCE_S)
            assert ready, f"process {pid} lives on"
        finally:
            os.close(fd)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; fails when it does not come to."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        select.select([], [], [], 0.01)


# ---- the same as any other run -------------------------------------------------------------------------------------------


def facts_of(text: str, proc_covered: bool) -> str:
    """Take out of what a payload saw what differs from run to run, and the server's /proc, which lies under the run's own."""
    lines: list[str] = []
    mounts: list[str] = []
    procs = [line for line in text.splitlines() if re.match(r"\d+ \d+ \S+ / /proc ", line)]
    if proc_covered:
        assert len(procs) == 2, "the server's /proc and the run's"
        text = text.replace(procs[0] + "\n", "")
    for line in text.splitlines():
        if VOLATILE.match(line) or line.startswith("FDSize"):  # how far a process's table of descriptors once reached
            continue
        if mount := re.match(r"(\d+) (\d+) (\S+) (.*)", line):
            mounts.append(re.sub(r"[ug]id=\d+", "id", mount[4]))
        else:
            lines.append(line)
    return "\n".join([*sorted(mounts), *lines])


@pytest.mark.parametrize("profile", ["strict", "default"])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("template", KINDS)
def test_a_served_run_sees_what_a_spawned_one_sees(template: bool, executor: str, profile: str, tmp_path: Path) -> None:
    """Mounts, ids, limits, capabilities, descriptors, environment, files and their owners: as of a run that was started alone."""
    prepared = prepare_for((*PYTHON, LOOK), profile)
    with Resident(prepared, template=template, executor=executor) as resident:
        served = [resident.run() for _ in range(2)]
        outside = resident.request.outside_uid
        table = lower_plan(make_plan(prepared, outside))
        collected, out, failure = run_table(prepared, table, "native", outside)
    assert (collected.wait_status, failure) == (0, None)
    expected = facts_of(out.decode(), False)
    assert "== statvfs" in expected
    for run in served:
        assert run.status == 0, run.out.decode()
        assert facts_of(run.out.decode(), template) == expected


@pytest.mark.parametrize("executor", EXECUTORS)
def test_files_and_shared_trees_below_a_tmpfs(executor: str, tmp_path: Path) -> None:
    """What belongs on the run's own tmpfs is made anew for each run: files of the caller's, and trees that the server keeps under /dev/shm until then."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "note").write_text("of the host")
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    program = (
        "import os; print(open('/home/user/in/given').read(), open('/tmp/share/note').read(), os.listdir('/dev/shm'));"
        "open('/home/user/in/given', 'w').write('changed'); open('/tmp/made', 'w'); os.rename('/tmp/made', '/tmp/kept'); print(os.listdir('/tmp'))"
    )
    prepared = prepare_for((*PYTHON, program), files={"in/given": b"as given"})
    bind = Bind(path="/tmp/share", source=os.path.realpath(tmp_path / "shared"), directory=True)
    prepared = replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, bind)))
    with Resident(prepared, executor=executor) as resident:
        for _ in range(2):
            run = resident.run()
            assert run.out.decode().splitlines() == ["as given of the host []", "['kept', 'share']"] or run.out.decode().splitlines() == [
                "as given of the host []", "['share', 'kept']",
            ]  # fmt: skip


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("template", KINDS)
def test_ends_and_usage_are_told(template: bool, executor: str) -> None:
    burn = "import os, time\nwhile time.process_time() < 0.05: pass\nos.kill(os.getpid(), 9)"
    with Resident(prepare_for((*PYTHON, burn)), template=template, executor=executor) as resident:
        run = resident.run()
        assert run.status == 9
        assert run.records[Kind.REAPED].a == 0 and run.records[Kind.REAPED].pid == resident.server.pid
        assert run.records[Kind.REAPED].rusage.cpu_ns >= run.records[Kind.EXITED].rusage.cpu_ns >= 50_000_000
        assert resident.run(("/bin/false",)).status == 256


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_command_is_told_when_all_is_done(executor: str) -> None:
    """The payload waits confined; what it gets may be larger than a pipe. A wrong block, another word or the end of the pipe ends the run."""
    with Resident(prepare_for(("/bin/true",)), executor=executor) as resident:
        words = ["x" * 100_000, "", "ü"]
        command = encode_command("/bin/sh", ("sh", "-c", 'echo "${#1} $2 $3 $A"', "sh", *words), (("A", "b"),))
        run = resident.run(waits=True, command=command)
        assert run.status == 0 and run.out.decode() == "100000  ü b\n"
        run = resident.run(waits=True, command=encode_command("/usr/bin/env", ("env",), (("A", "b c"), ("B", ""))))
        assert run.out == b"A=b c\nB=\n"
        run = resident.run(waits=True, command=encode_command("/nonexistent", ("x",), ()))
        assert run.failure is not None and run.failure[1] == errno.ENOENT
        good = encode_command("/bin/true", ("true",), ())
        for at, value in (
            (0, 0),
            (4, 10),
            (4, 1 << 30),
            (8, 3),
            (8, len(good)),
            (12, 1 << 31),
            (len(good) - 4, len(good)),
            (40 - 24, len(good)),
        ):
            bad = bytearray(good)
            bad[at : at + 4] = value.to_bytes(4, "little")
            run = resident.run(waits=True, command=bytes(bad))
            assert run.failure is not None and run.failure[1] == errno.ECANCELED, (at, value)
        for word in (bytes([fds.WORD_STOP]) * 40, bytes([fds.WORD_GO]) * 40):
            run = resident.run(waits=True, command=word)
            assert run.failure is not None and run.failure[1] == errno.ECANCELED
        with resident.start(waits=True) as waiting:
            waiting.until(Kind.READY)
            os.close(waiting.launched.descriptors.go)
            waiting.launched.descriptors.go = -1
            ended = waiting.finish()
        assert ended.failure is not None and ended.failure[1] == errno.ECANCELED


# ---- networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_clean_network_is_used_again_and_never_shared(executor: str) -> None:
    with Resident(prepare_for(NET), executor=executor) as resident:
        seen = [resident.run(recycle=True).out for _ in range(3)]
        assert len(set(seen)) == 1 and seen[0].startswith(b"net:")
        with resident.start(("/bin/sleep", "60"), recycle=True) as other:
            other.go()
            there = os.stat(
                f"/proc/{other.until(Kind.READY).pid if Kind.READY not in other.pids else other.pids[Kind.READY]}/ns/net"
            ).st_ino
            assert f"net:[{there}]".encode() == seen[0].strip()
            assert resident.run(recycle=True).out != seen[0]
            held = os.open(f"/proc/{other.pids[Kind.READY]}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:  # nobody else gets its number as long as it is there
            assert resident.run().out not in seen, "who does not ask for one gets a new one"
        finally:
            os.close(held)


# ---- failures ------------------------------------------------------------------------------------------------------------


def limit_too_high(plan: Plan) -> Plan:
    """A row of the payload that the kernel refuses."""
    return replace(
        plan,
        payload=tuple(
            replace(step, soft=1 << 40, hard=1 << 40) if isinstance(step, SetLimit) and step.resource == 7 else step
            for step in plan.payload
        ),
    )


def no_mount_point(plan: Plan) -> Plan:
    """A row of init that the kernel refuses."""
    return replace(
        plan,
        init=tuple(replace(step, path="/nowhere") if isinstance(step, MountTmpfs) and step.path == "/tmp" else step for step in plan.init),
    )


@pytest.mark.parametrize(("alter", "kind", "error"), [(limit_too_high, SetLimit, errno.EPERM), (no_mount_point, MountTmpfs, errno.ENOENT)])
def test_a_failing_row_is_told_the_same(alter: Any, kind: type, error: int) -> None:
    prepared = prepare_for(("/bin/true",))
    failures = []
    for executor in EXECUTORS:
        with Resident(prepared, executor=executor) as resident:
            run = resident.run(alter=alter)
            failures.append(run.failure)
            assert resident.run().status == 0, "the server goes on"
            plan = alter(build_run_plan(resident.request, template=True))
            assert run.failure is not None
            step = plan.steps()[lower_plan(plan).rows[run.failure[0]].step]
            assert isinstance(step, kind)
    assert failures[0] == failures[1] and failures[0] is not None and failures[0][1] == error


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_refused_clone_is_the_servers_own_failure(executor: str) -> None:
    with Resident(prepare_for(("/bin/true",)), executor=executor) as resident:
        run = resident.run(flags=0x20000 | 0x200)  # CLONE_NEWNS with CLONE_FS
        assert run.failure == (NO_ROW, errno.EINVAL)
        assert clone_refusal(*run.failure) is not None and clone_refusal(0, errno.EINVAL) is None
        assert resident.run().status == 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_no_request_is_dropped(executor: str) -> None:
    """Wrong bytes, too few descriptors, more than there is room for: nothing is started, nothing of it stays open."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    good = encode_request(clone_flags(template=True, recycled_network=False), Ask(0))
    with Resident(prepare_for(("/bin/true",)), executor=executor) as resident:
        assert resident.run().status == 0
        sender: Any = resident.server._sender
        before = set(os.listdir(f"/proc/{resident.server.pid}/fd")) if ROOT else set()
        for data, count in (
            (b"x", 0),
            (bytes(16), 8),
            (good[:-1], 8),
            (good + b"x", 8),
            (good, 0),
            (good, 6),
            (good, 70),
            (bytes(4096), 20),
        ):
            rights = struct.pack(f"{count}i", *[null] * count)
            sender.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if count else [])
        assert resident.run().status == 0 and resident.server.alive
        wait_until(lambda: not ROOT or set(os.listdir(f"/proc/{resident.server.pid}/fd")) <= before)
    os.close(null)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failing_start_is_explained_and_leaves_nothing(executor: str) -> None:
    def no_source(plan: Plan) -> Plan:
        def change(step: Any) -> Any:
            return (
                replace(step, bind=replace(step.bind, source="/nonexistent"))
                if isinstance(step, CloneTree) and step.bind.path == "/usr"
                else step
            )

        return replace(plan, janitor=tuple(map(change, plan.janitor)), init=tuple(map(change, plan.init)))

    with pytest.raises(SandboxError, match=r"/nonexistent.*ENOENT(.|\n)*take `/nonexistent`"):
        Resident(prepare_for(("/bin/true",)), executor=executor, alter_server=no_source)


def test_what_a_server_cannot_do_is_said() -> None:
    request = Resident.__new__(Resident)
    prepared = prepare_for(("/bin/true",))
    with Resident(prepared) as resident:
        request = resident.request
        assert template_refusal(request) == ""
        assert "id range" in template_refusal(replace(request, map_range=True))
        assert "/proc" in template_refusal(replace(request, host=replace(request.host, proc_mountable=False)))
        assert bool(anew_refusal(request)) is ROOT
        assert may_recycle_network(request)
        assert not may_recycle_network(replace(request, filter_bpf=None))
        assert not may_recycle_network(replace(request, profile=replace(request.profile, network=NetworkMode.LOOPBACK)))
        with pytest.raises(InternalError):
            build_run_plan(replace(request, map_range=True), template=True)


# ---- ends ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("template", KINDS)
def test_the_server_dies_and_everything_with_it(template: bool, executor: str, tmp_path: Path) -> None:
    """SIGKILL of the server in the middle of three runs, one of which waits: all end, the keeper removes what it was told, a request says so."""
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "entry").touch()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    prepared = prepare_for(("/bin/sleep", "60"))
    with Resident(
        prepared, template=template, executor=executor, removals=("cgroup",), entries=("entry",), directory=directory
    ) as resident:
        os.close(directory)
        runs = [resident.start(waits=number == 2) for number in range(3)]
        for run in runs[:2]:
            run.go()
        runs[2].until(Kind.READY)
        pids = [pid for run in runs for pid in run.pids.values()]
        assert all(map(alive, pids)) and resident.server.alive
        os.kill(resident.server.pid, signal.SIGKILL)
        wait_gone(*pids)
        for run in runs:
            ended = run.finish()
            assert Kind.REAPED not in ended.records and ended.failure is None
        wait_gone(resident.server.pid)
        assert not resident.server.alive
        launched = Launched()
        with pytest.raises(ServerGoneError, match="ask the server"):
            resident.server.launch(launched, 0, stdio=(0, 1, 2), flags=0)
        launched.close()
    assert not os.listdir(tmp_path), "the keeper has removed both"


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("template", KINDS)
def test_the_client_is_killed_and_nothing_stays(template: bool, executor: str, tmp_path: Path) -> None:
    """SIGKILL of the process that has a server with two runs: its server, keeper, inits and payloads end, what was to be removed is."""
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "entry").touch()
    program = f"""
        import os, sys
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
        from kernel.served import Resident, prepare_for, Kind
        directory = os.open({str(tmp_path)!r}, os.O_RDONLY | os.O_DIRECTORY)
        how = dict(template={template}, executor={executor!r}, removals=("cgroup",), entries=("entry",), directory=directory)
        resident = Resident(prepare_for(("/bin/sleep", "60")), **how)
        runs = [resident.start() for _ in range(2)]
        for run in runs:
            run.go()
        print(resident.server.pid, resident.server._keeper.pid, *(pid for run in runs for pid in run.pids.values()), flush=True)
        sys.stdin.read()
    """
    client = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None and client.stdout is not None
    pids = [int(word) for word in client.stdout.readline().split()]
    assert len(pids) == 6 and all(map(alive, pids))
    watches = [os.pidfd_open(pid) for pid in pids]
    client.kill()
    client.wait()
    client.stdin.close()
    client.stdout.close()
    for fd in watches:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, "a process of a killed client lives on"
        os.close(fd)
    try:
        os.waitpid(pids[1], 0)  # the keeper became ours: the tests are subreapers
    except ChildProcessError:
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("template", KINDS)
def test_closing_ends_the_runs_and_waits(template: bool) -> None:
    resident = Resident(prepare_for(("/bin/sleep", "60")), template=template)
    run = resident.start()
    run.go()
    pids = list(run.pids.values())
    resident.close()
    assert not any(map(alive, [resident.server.pid, *pids]))
    run.close()
    resident.close()  # again


def test_closing_a_run_ends_it() -> None:
    with Resident(prepare_for(("/bin/sleep", "60"))) as resident:
        for stage in ("asked", "ready", "running"):
            run = resident.start()
            if stage == "ready":
                run.until(Kind.READY)
            if stage == "running":
                run.go()
            run.close()
            wait_gone(*run.pids.values())


def test_a_fork_is_told_that_the_server_is_not_its_own() -> None:
    with Resident(prepare_for(("/bin/true",))) as resident:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert not resident.server.alive
                resident.server.launch(Launched(), 0, stdio=(0, 1, 2), flags=0)
            except SandboxError as error:
                code = 0 if "another" in str(error) or "belongs to process" in str(error) else 2
                resident.server.close()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert resident.run().status == 0, "closing it in the fork has not ended ours"


def test_many_at_once_from_many_threads() -> None:
    """One message each: requests of several threads do not mix. Every run ends with its own words."""
    import threading

    with Resident(prepare_for(("/bin/true",))) as resident:
        words: dict[int, bytes] = {}

        def body(first: int) -> None:
            for number in range(first, first + 10):
                words[number] = resident.run(("/bin/echo", str(number)), recycle=True).out

        threads = [threading.Thread(target=body, args=(10 * index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert words == {number: f"{number}\n".encode() for number in range(60)}
        assert resident.server.alive


def test_proc_modes() -> None:
    for mode in ProcMode:
        with Resident(prepare_for((*PYTHON, "import os; print(sorted(os.listdir('/proc'))[:1])"), proc=mode)) as resident:
            run = resident.run()
            assert run.status == 0 and run.out.startswith(b"[]" if mode is ProcMode.NONE else b"['2']"), run.out
