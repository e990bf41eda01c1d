"""Cgroup v1 as root, for real: limits hold, counters prove it, nothing is left."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.cgroup.mounts import read_hierarchies
from sandbox.cgroup.v1 import CONTROLLERS, V1Backend, V1Run
from sandbox.errors import SetupError, UnsupportedError
from sandbox.policy.profile import IoLimit, Limits

NAME = f"pytest-{os.getpid()}-"
MEMORY = 48 << 20
PATIENCE_S = 60.0


def ours() -> list[str]:
    """Every cgroup that these tests made, in any hierarchy."""
    points = {hierarchy.point for hierarchy in read_hierarchies()}
    return [f"{point}/{name}" for point in points for name in os.listdir(point) if NAME in name]


@pytest.fixture
def backend() -> Iterator[V1Backend]:
    found = find_backend(environ={})
    if not isinstance(found, V1Backend):
        pytest.skip(f"not cgroup v1: {explain_backend(environ={}).reason}")
    yield found
    assert ours() == []


@contextlib.contextmanager
def run(backend: V1Backend, limits: Limits) -> Iterator[V1Run]:
    made = backend.create(f"{NAME}{threading.get_ident()}", limits)
    try:
        yield made
    finally:
        made.remove()
        made.close()


def fork_into(made: V1Run, payload: Callable[[], None]) -> int:
    """Fork a child that joins by the fds, as init does, and return its pid; exit code 3 is an exception."""
    pid = os.fork()
    if pid == 0:
        code = 3
        gc.disable()  # or it may look at everything that pytest has, which makes it this one's memory
        try:
            for fd in made.join_fds:
                os.write(fd, b"0")
            payload()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def touch(size: int) -> None:
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        area[at] = 1


def spin(seconds: float) -> None:
    """Use CPU time in user mode; looking at the clock is a system call, so rarely."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(20_000))


def test_memory_bomb_is_killed_and_the_counters_say_so(backend: V1Backend) -> None:
    with run(backend, Limits(memory_bytes=MEMORY)) as made:
        assert wait(fork_into(made, lambda: touch(64 << 20))) == -signal.SIGKILL
        usage = made.usage()
        assert usage.oom_kills == 1
        assert usage.memory_peak_bytes is not None and MEMORY - (1 << 20) < usage.memory_peak_bytes <= MEMORY
        assert usage.memory_source == "memory.max_usage_in_bytes"
        assert made.oom_fd is not None and select.select([made.oom_fd], [], [], 0)[0], "the supervisor is told"


def test_supervisor_is_told_about_a_victim_that_the_kernel_must_not_kill(backend: V1Backend) -> None:
    """oom_score_adj -1000, inherited from a protected service, makes a process at its limit spin for ever instead of die."""

    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if not effective >> 24 & 1:
        pytest.skip("this root lacks CAP_SYS_RESOURCE, which a negative oom_score_adj takes")

    def payload() -> None:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
        touch(64 << 20)

    with run(backend, Limits(memory_bytes=MEMORY)) as made:
        pid = fork_into(made, payload)
        try:
            assert made.oom_fd is not None and select.select([made.oom_fd], [], [], PATIENCE_S)[0]
            assert made.usage().oom_kills == 0
        finally:
            os.kill(pid, signal.SIGKILL)
            assert wait(pid) == -signal.SIGKILL


def test_memory_below_the_limit_lives(backend: V1Backend) -> None:
    with run(backend, Limits(memory_bytes=MEMORY)) as made:
        assert wait(fork_into(made, lambda: touch(24 << 20))) == 0
        usage = made.usage()
        assert usage.oom_kills == 0 and usage.memory_peak_bytes is not None
        assert 24 << 20 <= usage.memory_peak_bytes < MEMORY
        assert made.oom_fd is not None and not select.select([made.oom_fd], [], [], 0)[0]


def test_memfd_counts(backend: V1Backend) -> None:
    def payload() -> None:
        fd = os.memfd_create("x")
        for _ in range(64):
            os.write(fd, bytes(1 << 20))

    with run(backend, Limits(memory_bytes=MEMORY)) as made:
        assert wait(fork_into(made, payload)) == -signal.SIGKILL
        assert made.usage().oom_kills == 1


def test_page_cache_is_reclaimed_and_kills_nobody(backend: V1Backend, tmp_path: object) -> None:
    path = f"{tmp_path}/big"
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * MEMORY)

    def payload() -> None:
        fd = os.open(path, os.O_RDONLY)
        while os.read(fd, 1 << 20):
            pass

    with run(backend, Limits(memory_bytes=MEMORY)) as made:
        assert wait(fork_into(made, payload)) == 0
        assert made.usage().oom_kills == 0


def test_process_limit_hits_and_peak(backend: V1Backend) -> None:
    back, out = os.pipe()

    def payload() -> None:
        # This process stands for init, whose place comes on top of the limit.
        children = []
        try:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
        except BlockingIOError:
            os.write(out, b"%d" % len(children))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    try:
        with run(backend, Limits(processes=5)) as made:
            assert wait(fork_into(made, payload)) == 0
            assert os.read(back, 10) == b"5"
            usage = made.usage()
            assert usage.process_limit_hits == 1
            assert usage.processes_peak in (5, None)
    finally:
        os.close(back)
        os.close(out)


def test_threads_count_as_processes(backend: V1Backend) -> None:
    def payload() -> None:
        stop = threading.Event()
        try:
            for _ in range(10):
                threading.Thread(target=stop.wait, daemon=True).start()
        except RuntimeError:
            os._exit(7)

    with run(backend, Limits(processes=4)) as made:
        assert wait(fork_into(made, payload)) == 7
        assert made.usage().process_limit_hits == 1


@pytest.mark.parametrize("ignore_children", [False, True])
def test_cpu_time_of_dead_children_counts(backend: V1Backend, ignore_children: bool) -> None:
    """With SIGCHLD ignored nobody's rusage has the children's time; the cgroup must."""

    def payload() -> None:
        if ignore_children:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(4):
            child = os.fork()
            if child == 0:
                spin(0.1)
                os._exit(0)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    with run(backend, Limits()) as made:
        before = made.cpu_ns()
        assert wait(fork_into(made, payload)) == 0
        usage = made.usage()
        assert before == 0
        assert 390_000_000 < made.cpu_ns() < 3_000_000_000
        assert usage.cpu_user_ns + usage.cpu_sys_ns == made.cpu_ns()
        assert usage.cpu_user_ns > usage.cpu_sys_ns


def test_cpu_time_agrees_with_rusage(backend: V1Backend) -> None:
    with run(backend, Limits()) as made:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert wait(fork_into(made, lambda: spin(0.5))) == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        truth = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert made.cpu_ns() / 1e9 == pytest.approx(truth, abs=0.15)  # the fork itself is before the join


def until(what: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Look until it is so; the kernel has no event for it."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        os.sched_yield()


def test_frozen_members_stand_still_and_go_on(backend: V1Backend) -> None:
    with run(backend, Limits(memory_bytes=MEMORY, processes=4)) as made:
        pid = fork_into(made, lambda: spin(60))
        try:
            until(lambda: made.current().cpu_ns > 5_000_000)
            assert made.current().frozen is False
            assert made.freeze()
            until(lambda: made.current().frozen)
            before = made.current().cpu_ns
            assert select.select([], [], [], 0.1) == ([], [], []) and made.current().cpu_ns == before
            assert made.thaw()
            until(lambda: made.current().cpu_ns > before + 5_000_000)
            assert made.current().frozen is False
            assert made.thaw(), "nothing is frozen: no error"
        finally:
            os.kill(pid, signal.SIGKILL)
            wait(pid)


@pytest.mark.parametrize("way", ["kill", "remove"])
def test_frozen_members_die_when_the_run_ends(backend: V1Backend, way: str) -> None:
    """On v1 SIGKILL alone does not end a frozen process: it does in both ways only because they thaw it."""
    made = backend.create(f"{NAME}frozen", Limits())
    pid = fork_into(made, signal.pause)
    pidfd = os.pidfd_open(pid)
    until(lambda: str(pid) in made._freezer.read("cgroup.procs").split())  # type: ignore[union-attr]
    assert made.freeze()
    until(lambda: made.current().frozen)
    os.kill(pid, signal.SIGKILL)
    assert not select.select([pidfd], [], [], 0.2)[0], "still there"
    try:
        if way == "kill":
            assert made.kill() is False
        else:
            made.remove()
        assert wait(pid) == -signal.SIGKILL
    finally:
        made.remove()
        made.close()
        os.close(pidfd)


def test_current_tells_kinds_of_memory_apart(backend: V1Backend, tmp_path: object) -> None:
    path = f"{tmp_path}/big"
    back, out = os.pipe()

    def payload() -> None:
        area = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, 16 << 20, mmap.PAGESIZE):
            area[at] = 1
        shared = os.memfd_create("x")
        os.write(shared, bytes(4 << 20))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        for _ in range(8):
            os.write(fd, bytes(1 << 20))
        os.write(out, b"x")
        signal.pause()

    with run(backend, Limits(memory_bytes=MEMORY)) as made:
        assert made.current().memory_anon_bytes == 0
        pid = fork_into(made, payload)
        try:
            os.read(back, 1)
            now = made.current()
            opened = len(os.listdir("/proc/self/fd"))
            again = made.current()
            assert len(os.listdir("/proc/self/fd")) == opened, "the files stay open"
            assert now.processes == again.processes == 0, "the one process stands for init"
            assert now.memory_anon_bytes is not None and 19 << 20 <= now.memory_anon_bytes < 34 << 20, "and what the fork copies of pytest"
            assert now.memory_file_bytes is not None and 7 << 20 <= now.memory_file_bytes < 10 << 20
            assert now.memory_kernel_bytes is not None and 0 < now.memory_kernel_bytes < 4 << 20
            assert now.memory_bytes is not None and 26 << 20 <= now.memory_bytes <= MEMORY
            usage = made.usage()
            assert usage.pressure_cpu_ns is None, "v1 has no pressure files"
            assert usage.io_read_bytes is None, "v1 counts only devices that have a limit"
        finally:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            os.close(back)
            os.close(out)


def name_of(pid: bytes | str) -> str:
    """Return a process's name, "" where it is gone."""
    try:
        return Path(f"/proc/{int(pid)}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.orphans
def test_janitor_thaws_what_its_supervisor_left_frozen(backend: V1Backend) -> None:
    """A supervisor that is killed while its run is paused leaves neither process nor cgroup."""
    ready, word = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        try:
            import sandbox

            def freeze(made: V1Run) -> None:
                assert made._freezer is not None
                members = made._freezer
                # Not while the shell waits in vfork(2) for one of them: if that is frozen first, the kernel says FREEZING for ever.
                until(lambda: [name_of(pid) for pid in members.read("cgroup.procs").split()].count("sleep") == 2)
                made.freeze()
                until(lambda: made.current().frozen)
                os.write(word, made._freezer.path("cgroup.procs").encode())
                signal.pause()

            original = V1Run.make

            def make(made: V1Run) -> None:
                original(made)
                threading.Thread(target=freeze, args=(made,)).start()

            V1Run.make = make  # type: ignore[method-assign]
            sandbox.run(["sh", "-c", "sleep 900 & sleep 900"], limits={"wall": "900s"})
        finally:
            os._exit(9)
    os.close(word)
    try:
        frozen = Path(os.read(ready, 500).decode())
        pids = [int(word) for word in frozen.read_text().split()]
        assert pids
        ends = [os.pidfd_open(pid) for pid in pids]
        os.kill(supervisor, signal.SIGKILL)
        for end in ends:
            assert select.select([end], [], [], PATIENCE_S)[0], "still there"
            os.close(end)
        until(lambda: not frozen.exists())
    finally:
        os.close(ready)
        with contextlib.suppress(ChildProcessError):
            wait(supervisor)


def test_remove_waits_for_a_dying_member(backend: V1Backend) -> None:
    made = backend.create(f"{NAME}dying", Limits(memory_bytes=MEMORY))

    def payload() -> None:
        touch(32 << 20)
        signal.pause()

    pid = fork_into(made, payload)
    while made.cpu_ns() < 3_000_000:
        select.select([], [], [], 0.002)
    os.kill(pid, signal.SIGKILL)
    made.remove()  # not yet reaped
    made.remove()
    assert wait(pid) == -signal.SIGKILL
    made.close()
    made.close()


def test_remove_of_a_living_member_gives_up_and_says_which(backend: V1Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.cgroup.files._REMOVE_TIMEOUT_S", 0.2)
    made = backend.create(f"{NAME}alive", Limits())
    pid = fork_into(made, signal.pause)
    while str(pid) not in made._nodes[-1].read("cgroup.procs").split():
        os.sched_yield()
    try:
        with pytest.raises(SetupError, match=r"rmdir `.*alive`: .*EBUSY"):
            made.remove()
    finally:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        made.remove()
        made.close()


def test_janitor_can_remove_what_was_only_reserved(backend: V1Backend) -> None:
    made = backend.reserve(f"{NAME}reserved", Limits(processes=3))
    assert ours() == []
    removals, joins = made.removals, made.joins
    assert len(removals) == len({backend._bases[name] for name in (*CONTROLLERS, "freezer")})
    made.make()
    try:
        pid = os.fork()
        if pid == 0:  # as a janitor's init does: open by directory and path, join, end
            for fd, path in joins:
                os.write(os.open(path, os.O_WRONLY, dir_fd=fd), b"0")
            spin(0.05)
            os._exit(0)
        assert wait(pid) == 0
        assert made.cpu_ns() >= 40_000_000
    finally:
        for fd, path in removals:
            os.rmdir(path, dir_fd=fd)
        made.remove()
        made.close()


def test_fifty_at_once(backend: V1Backend) -> None:
    problems: list[BaseException] = []

    def one(number: int) -> None:
        try:
            made = backend.create(f"{NAME}{number}", Limits(memory_bytes=MEMORY, processes=4))
            assert made.usage().oom_kills == 0
            made.remove()
            made.close()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_run_id_in_use_is_refused_and_harms_nothing(backend: V1Backend) -> None:
    made = backend.create(f"{NAME}twice", Limits(processes=3))
    with pytest.raises(SetupError, match="EEXIST"):
        backend.create(f"{NAME}twice", Limits(processes=9))
    assert made._pids is not None and made._pids.read("pids.max") == "4\n"
    made.remove()
    made.close()


def test_failure_in_the_middle_leaves_nothing(backend: V1Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise SetupError("eventfd", 24)

    monkeypatch.setattr(V1Run, "_watch_oom", fail)
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(SetupError, match="EMFILE"):
        backend.create(f"{NAME}middle", Limits(memory_bytes=MEMORY))
    assert ours() == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_missing_controller_refuses(backend: V1Backend) -> None:
    bases = {name: backend._bases[name] for name in ("pids", "cpuacct")}
    with pytest.raises(UnsupportedError, match=r"limits\.memory"):
        V1Backend(bases, "sandbox-").reserve(f"{NAME}x", Limits(memory_bytes=MEMORY))


def test_ordinary_user_in_a_prepared_subtree(backend: V1Backend) -> None:
    """The fix that the report prints is what makes it work, and nothing less."""
    uid = 64321
    points = sorted({backend._bases[name] for name in CONTROLLERS})
    directories = [f"{point}/{NAME}user" for point in points]

    def as_user(payload: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                payload()
                code = 0
            finally:
                os._exit(code)
        return wait(pid)

    def whole_run() -> None:
        found = find_backend(environ={"SANDBOX_CGROUP": f"/{NAME}user"})
        assert isinstance(found, V1Backend)
        with run(found, Limits(memory_bytes=MEMORY, processes=4)) as made:
            assert wait(fork_into(made, lambda: touch(64 << 20))) == -signal.SIGKILL
            assert made.usage().oom_kills == 1

    def nothing_prepared() -> None:
        report = explain_backend(environ={})
        assert report.backend is None and f"sandbox-{uid}" in report.reason and "chown" in report.fix, report

    assert as_user(nothing_prepared) == 0
    try:
        for directory in directories:
            os.mkdir(directory)
        assert as_user(whole_run) == 3, "not yet the user's"
        for directory in directories:
            os.chown(directory, uid, uid)
        assert as_user(whole_run) == 0
    finally:
        for directory in directories:
            os.rmdir(directory)


# ---- shares of processors and disks ------------------------------------------------------------------------------


def test_quota_holds_and_what_it_withheld_is_counted(backend: V1Backend) -> None:
    """30 ms of CPU time at 1 ms in 100: nobody can have it sooner than in two seconds, and it is withheld in most periods."""
    begin = time.monotonic()
    with run(backend, Limits(cpu_quota_ppm=10_000)) as made:
        assert [entry.how for entry in made.enforced if entry.what == "cpus"] == ["cgroup1 cpu.cfs_quota_us"]
        assert wait(fork_into(made, lambda: spin(0.03))) == 0
        usage = made.usage()
        assert time.monotonic() - begin > 1.5
        assert usage.throttled_periods is not None and usage.throttled_periods >= 5
        assert usage.throttled_ns is not None and usage.throttled_ns > 200_000_000
    with run(backend, Limits(cpu_weight=100)) as made:
        assert wait(fork_into(made, lambda: spin(0.03))) == 0
        assert made.usage().throttled_periods == 0, "the same without a quota"
    with run(backend, Limits()) as made:
        assert made.usage().throttled_ns is None, "nothing to withhold, nobody counts"


@pytest.mark.parametrize(("weight", "shares"), [(1, 10), (33, 338), (100, 1024), (10_000, 102_400)])
def test_weight_on_the_kernels_own_scale(backend: V1Backend, weight: int, shares: int) -> None:
    with run(backend, Limits(cpu_weight=weight)) as made:
        assert made._cpu is not None and made._cpu.read("cpu.shares") == f"{shares}\n"
        assert "cpu weight" in [entry.what for entry in made.enforced]


def test_cpuset_cannot_be_left(backend: V1Backend) -> None:
    def payload() -> None:
        try:
            os.sched_setaffinity(0, {1})
        except OSError:
            os._exit(10 + len(os.sched_getaffinity(0)))

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    with run(backend, Limits(cpuset=(0,))) as made:
        assert wait(fork_into(made, payload)) == 11
    with run(backend, Limits()) as made:
        assert wait(fork_into(made, payload)) == 0, "the same without"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(cpuset=(0, 999)), r"limits\.cpuset.*cpuset\.cpus"),
        (Limits(io=(IoLimit(device="7:9999", read_bytes=1 << 20),)), r"limits\.io.*device 7:9999 is no disk"),
        (Limits(io=(IoLimit(device="/proc", read_bytes=1 << 20),)), r"limits\.io.*no disk"),
        (Limits(io=(IoLimit(device="/nonexistent", read_bytes=1 << 20),)), r"limits\.io.*No such file"),
    ],
)
def test_what_the_kernel_has_not_is_refused_and_leaves_nothing(backend: V1Backend, limits: Limits, words: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(UnsupportedError, match=words):
        backend.create(f"{NAME}none", limits)
    assert ours() == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_limit_that_reads_otherwise_is_refused_and_leaves_nothing(backend: V1Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel rounds shares that are too large down to its maximum, and says nothing."""
    monkeypatch.setattr("sandbox.cgroup.v1._WEIGHT_SHARES", 1024 * 1024)
    with pytest.raises(UnsupportedError, match=r"limits\.cpu-weight.*cpu\.shares` reads `262144` after `\d+` was written"):
        backend.create(f"{NAME}rounded", Limits(cpu_weight=10_000))
    assert ours() == []


def test_io_is_held_and_counted(backend: V1Backend, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 << 20))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    device = IoLimit(device=str(tmp_path), read_bytes=1 << 19, write_bytes=1 << 30)
    took: list[float] = []

    def payload() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        area = mmap.mmap(-1, 1 << 20)
        while os.readv(fd, [area]):
            pass

    for limit in (device, replace(device, read_bytes=1 << 40)):
        with run(backend, Limits(io=(limit,))) as made:
            begin = time.monotonic()
            assert wait(fork_into(made, payload)) == 0
            took.append(time.monotonic() - begin)
            usage = made.usage()
            assert usage.io_read_bytes is not None and 3 << 20 <= usage.io_read_bytes < 8 << 20
            entry = next(entry for entry in made.enforced if entry.what.startswith("io of"))
            assert "blkio.throttle" in entry.how and "synchronous" in entry.weaker
    assert took[0] > 4.0, "3 MiB at half a MiB a second, less what the first slice lets through"
    assert took[0] > 2 * took[1], "the same with a limit that is out of reach"
