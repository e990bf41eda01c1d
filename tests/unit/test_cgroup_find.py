"""Choosing a backend, making and removing a v2 cgroup, in a fake tree that behaves as the kernel documents."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cgroup import files, v2
from sandbox.cgroup.find import explain_backend, find_backend
from sandbox.cgroup.systemd import BusAddress, ScopeOffer
from sandbox.errors import SandboxError, SetupError, UnsupportedError
from sandbox.policy.profile import IoLimit, Limits

ME = os.getpid()
LIMITS = Limits(memory_bytes=64 << 20, processes=10)


class FakeKernel:
    """A cgroup2 tree of plain files, with the rules that the backend has to live with."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.point = root / "cg"
        self.proc = root / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.fail_write: str | None = None
        self.override: dict[str, str] = {}
        self.vanish = 0
        self._real_mkdir, self._real_rmdir = os.mkdir, os.rmdir
        self.point.mkdir()
        self._fill(self.point, "memory pids cpu")
        (self.point / "cgroup.type").unlink()
        self.mounts(f"1 2 3:4 / {self.point} rw - cgroup2 cgroup2 rw\n")
        self.member("/")
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "rmdir", self.rmdir)
        monkeypatch.setattr(files.NodeFiles, "write", lambda node, name, value: self.write(node, name, value))

    def mounts(self, text: str) -> None:
        (self.proc / "self" / "mountinfo").write_text(text)

    def member(self, path: str, *others: int) -> None:
        (self.proc / "self" / "cgroup").write_text(f"0::{path}\n")
        for pid in (ME, *others):
            for procs in self.point.rglob("cgroup.procs"):
                procs.write_text("".join(f"{p}\n" for p in procs.read_text().split() if p != str(pid)))
            target = self.point / path.strip("/") / "cgroup.procs"
            target.write_text(target.read_text() + f"{pid}\n")

    def node(self, path: str, controllers: str = "memory pids") -> Path:
        directory = self.point / path
        directory.mkdir(parents=True)
        self._fill(directory, controllers)
        return directory

    def _fill(self, directory: Path, controllers: str) -> None:
        contents = {"cgroup.type": "domain\n", "cgroup.controllers": controllers, "cgroup.subtree_control": "", "cgroup.procs": ""}
        contents |= {"cgroup.events": "populated 0\n", "cgroup.kill": "", "cgroup.max.descendants": "max"}
        contents |= {"cpu.stat": "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 0\n"}
        if "memory" in controllers:
            contents |= {"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0", "memory.peak": "4096\n"}
            contents |= {"memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n"}
        if "cpu" in controllers.split():
            contents |= {"cpu.max": "max 100000", "cpu.weight": "100"}
        if "cpuset" in controllers.split():
            contents |= {"cpuset.cpus": "", "cpuset.cpus.effective": "0-7"}
        if "pids" in controllers:
            contents |= {"pids.max": "max", "pids.peak": "4\n", "pids.events": "max 5\n"}
        for name, content in contents.items():
            (directory / name).write_text(content)

    def _resolve(self, path: str, dir_fd: int | None) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{dir_fd}")) / path if dir_fd is not None else Path(path)

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._real_mkdir(path, mode, dir_fd=dir_fd)
        full = self._resolve(path, dir_fd)
        if self.point in full.parents:
            self._fill(full, (full.parent / "cgroup.subtree_control").read_text())
            if self.vanish and full.name == "sandbox":  # another run ended just now
                self.vanish -= 1
                self.rmdir(str(full))

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        full = self._resolve(path, dir_fd)
        if self.point not in full.parents:
            return self._real_rmdir(path, dir_fd=dir_fd)
        if not full.exists():
            raise OSError(errno.ENOENT, "gone")
        if any(child.is_dir() for child in full.iterdir()) or (full / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "busy")
        for child in full.iterdir():
            child.unlink()
        return self._real_rmdir(full)

    def write(self, node: files.NodeFiles, name: str, value: str) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{node.fd}")) / node.relative / name
        if not path.exists():
            raise SetupError(f"open `{path}`", errno.ENOENT)
        if name == self.fail_write:
            raise SetupError(f"write `{value}` to `{path}`", errno.EIO)
        if name == "cgroup.subtree_control":
            if (path.parent / "cgroup.type").exists() and (path.parent / "cgroup.procs").read_text():
                raise SetupError(f"write `{path}`", errno.EBUSY)
            path.write_text(" ".join({*path.read_text().split(), *(word[1:] for word in value.split())}))
        elif name == "cgroup.procs":
            self.member("/" + str(path.parent.relative_to(self.point)), int(value))
        elif name == "memory.max":
            path.write_text(self.override.get(name) or str(int(value) // files.PAGE_BYTES * files.PAGE_BYTES))
        else:
            path.write_text(self.override.get(name) or value)
            if name == "cpuset.cpus":
                (path.parent / "cpuset.cpus.effective").write_text(path.read_text())


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    before = len(os.listdir("/proc/self/fd"))
    yield FakeKernel(tmp_path, monkeypatch)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"


def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def find(kernel: FakeKernel, named: str | None = None) -> v2.V2Backend:
    environ = {"SANDBOX_CGROUP": named} if named else {}
    backend = find_backend(environ=environ, proc=str(kernel.proc))
    assert isinstance(backend, v2.V2Backend), explain_backend(environ=environ, proc=str(kernel.proc))
    return backend


def why_not(kernel: FakeKernel, named: str | None = None) -> str:
    report = explain_backend(environ={"SANDBOX_CGROUP": named} if named else {}, proc=str(kernel.proc))
    assert report.backend is None
    return report.reason


def test_a_scope_is_offered_where_nothing_else_is_ours(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.node("session-2.scope")
    kernel.member("/session-2.scope", 1)
    bus = (BusAddress(path="/run/bus"),)
    monkeypatch.setattr("sandbox.cgroup.systemd.find_buses", lambda environ, uid: bus)
    offer = find_backend(environ={}, proc=str(kernel.proc))
    assert isinstance(offer, ScopeOffer) and not offer.ready
    assert offer.provides == {"memory", "processes", "cpu", "freeze"}, "what every systemd delegates"
    manager = kernel.point / "user.slice" / "user-1001.slice" / "user@1001.service"
    manager.mkdir(parents=True)
    (manager / "cgroup.controllers").write_text("cpuset cpu io memory pids hugetlb\n")
    offer = find_backend(environ={}, proc=str(kernel.proc))
    assert isinstance(offer, ScopeOffer)
    assert offer.provides == {"memory", "processes", "cpu", "freeze", "cpus", "cpu-weight", "cpuset", "io"}
    run = offer.reserve("x", LIMITS)
    assert run.joins == ((-1, "run-x/cgroup.procs"),) and run.removals == ((-1, "run-x"),), "enough for a dry run"
    run.close()
    (manager / "cgroup.controllers").write_text("cpu\n")
    assert "delegates neither memory nor pids" in why_not(kernel)
    monkeypatch.setattr("sandbox.cgroup.systemd.find_buses", lambda environ, uid: ())
    assert "no systemd of uid 1001 to ask for a scope" in why_not(kernel)


def test_root_is_offered_no_scope(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    monkeypatch.setattr("sandbox.cgroup.systemd.find_buses", lambda environ, uid: pytest.fail("asked"))
    assert isinstance(find(kernel), v2.V2Backend)


SHARES = Limits(cpu_quota_ppm=1_500_000, cpu_weight=50, cpuset=(0, 1, 3))


def test_shares_are_written_and_read_back(kernel: FakeKernel) -> None:
    scope = kernel.node("a.scope", "memory pids cpu cpuset")
    kernel.member("/a.scope")
    run = find(kernel).create("x", SHARES)
    try:
        assert (scope / "run-x" / "cpu.max").read_text() == "150000 100000"
        assert (scope / "run-x" / "cpu.weight").read_text() == "50"
        assert (scope / "run-x" / "cpuset.cpus").read_text() == "0-1,3"
        assert {entry.what for entry in run.enforced} >= {"cpus", "cpu weight", "cpuset"}
    finally:
        run.remove()
        run.close()


def test_only_what_a_limit_needs_is_enabled(kernel: FakeKernel) -> None:
    scope = kernel.node("a.scope", "memory pids cpu cpuset")
    kernel.member("/a.scope")
    run = find(kernel).create("x", LIMITS)
    run.remove()
    run.close()
    assert set((scope / "cgroup.subtree_control").read_text().split()) == {"memory", "pids"}


@pytest.mark.parametrize(
    ("name", "reads", "key"),
    [("cpu.max", "100000 100000", "cpus"), ("cpu.weight", "100", "cpu-weight"), ("cpuset.cpus", "0-1", "cpuset")],
)
def test_a_share_that_reads_otherwise_refuses_and_leaves_nothing(kernel: FakeKernel, name: str, reads: str, key: str) -> None:
    scope = kernel.node("a.scope", "memory pids cpu cpuset")
    kernel.member("/a.scope")
    kernel.override[name] = reads
    with pytest.raises(UnsupportedError, match=rf"`limits\.{key}`.*reads `{reads}`"):
        find(kernel).create("x", SHARES)
    assert not (scope / "run-x").exists()


def test_a_share_without_its_controller_is_refused(kernel: FakeKernel) -> None:
    kernel.node("a.scope", "memory pids")
    kernel.member("/a.scope")
    for limits, key in ((SHARES, "cpu-weight"), (Limits(io=(IoLimit(device="8:0", read_bytes=1 << 20),)), "io")):
        with pytest.raises(UnsupportedError, match=rf"`limits\.{key}`"):
            find(kernel).reserve("x", limits)


def test_alone_in_a_delegated_scope(kernel: FakeKernel) -> None:
    scope = kernel.node("a.scope")
    kernel.member("/a.scope")
    backend = find(kernel)
    assert (scope / "cgroup.procs").read_text() == f"{ME}\n", "probing must not move anything"
    run = backend.create("r1", LIMITS)
    assert (scope / v2.SUPERVISOR / "cgroup.procs").read_text() == f"{ME}\n"
    assert (scope / "run-r1" / "memory.max").read_text() == str(64 << 20)
    assert (scope / "run-r1" / "memory.swap.max").read_text() == "0"
    assert (scope / "run-r1" / "memory.oom.group").read_text() == "1"
    assert (scope / "run-r1" / "pids.max").read_text() == "11", "ten of the payload's and our init"
    usage = run.usage()
    assert (usage.cpu_user_ns, usage.cpu_sys_ns, usage.oom_kills, usage.process_limit_hits) == (2_000_000, 1_000_000, 2, 5)
    assert (usage.memory_peak_bytes, usage.processes_peak, run.cpu_ns()) == (4096, 3, 3_000_000)
    assert [(e.what, e.how, e.weaker) for e in run.enforced] == [
        ("memory", "cgroup2 memory.max", ""),
        ("processes", "cgroup2 pids.max", ""),
        ("cpu-time accounting", "cgroup2 cpu.stat", ""),
    ]
    assert run.kill()
    run.remove()
    run.remove()
    run.close()
    run.close()
    assert not (scope / "run-r1").exists()
    # Now we sit in the supervisor child; the next search understands that.
    again = find(kernel).create("r2", Limits())
    assert (scope / "run-r2" / "memory.max").read_text() == "max"
    again.remove()
    again.close()


def test_reservation_tells_the_removals_before_anything_exists(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    run = find(kernel).reserve("r", LIMITS)
    assert [path for _, path in run.removals] == ["sandbox/run-r", "sandbox"]
    assert [path for _, path in run.joins] == ["sandbox/run-r/cgroup.procs"]
    assert not (kernel.point / "sandbox").exists()
    run.make()
    for fd, path in run.removals:  # what the janitor does
        os.rmdir(path, dir_fd=fd)
    run.close()
    assert not (kernel.point / "sandbox").exists()


def test_others_in_our_scope_are_not_moved(kernel: FakeKernel) -> None:
    kernel.node("a.scope")
    kernel.member("/a.scope", 99999)
    assert "other processes are in" in why_not(kernel)


def test_ancestors_move_along_only_where_the_scope_was_made_for_them(kernel: FakeKernel) -> None:
    parent = os.getppid()
    (kernel.proc / str(parent)).mkdir()
    (kernel.proc / str(parent) / "stat").write_text(f"{parent} (a) S 1 ) S 0 1")
    for name, ours in (("vte-spawn-1.scope", False), ("run-r0a1b2c.scope", True), ("run-p123-i456.scope", True), ("run-r1.service", False)):
        scope = kernel.node(name)
        kernel.member(f"/{name}", parent)
        if not ours:
            assert "other processes are in" in why_not(kernel)
            continue
        run = find(kernel).create("r", LIMITS)
        assert set((scope / v2.SUPERVISOR / "cgroup.procs").read_text().split()) == {str(ME), str(parent)}
        run.remove()
        run.close()
    kernel.node("run-r2.scope")
    kernel.member("/run-r2.scope", parent, 99999)
    assert "other processes are in" in why_not(kernel)


def test_a_process_that_came_later_is_not_moved_either(kernel: FakeKernel) -> None:
    scope = kernel.node("a.scope")
    kernel.member("/a.scope")
    backend = find(kernel)
    kernel.member("/a.scope", 99999)
    with pytest.raises(SetupError, match="EBUSY"):
        backend.create("r", LIMITS)
    assert "99999" in (scope / "cgroup.procs").read_text()


def test_named_subtree_moves_everything_in_it(kernel: FakeKernel) -> None:
    scope = kernel.node("a.scope")
    kernel.member("/a.scope", 99999)
    run = find(kernel, str(scope)).create("r", LIMITS)
    assert set((scope / v2.SUPERVISOR / "cgroup.procs").read_text().split()) == {str(ME), "99999"}
    run.remove()
    run.close()


def test_named_subtree_elsewhere_with_processes_is_refused(kernel: FakeKernel) -> None:
    kernel.node("mine")
    kernel.member("/mine")
    other = kernel.node("prepared")
    (other / "cgroup.procs").write_text("99999\n")
    assert "not ours to move" in why_not(kernel, str(other))


def test_named_but_unusable_is_never_replaced_by_another(kernel: FakeKernel) -> None:
    kernel.node("a.scope")
    kernel.member("/a.scope")
    assert find(kernel).where == str(kernel.point / "a.scope")
    assert "not writable" in why_not(kernel, str(kernel.point / "missing"))
    assert "not below the cgroup2 mount" in why_not(kernel, "/tmp")
    assert "not below the cgroup2 mount" in why_not(kernel, str(kernel.point) + "/../proc")


@pytest.mark.parametrize(("controllers", "reason"), [("", "none of the controllers"), ("io cpu", "none of the controllers")])
def test_node_without_controllers(kernel: FakeKernel, controllers: str, reason: str) -> None:
    kernel.node("a.scope", controllers)
    kernel.member("/a.scope")
    assert reason in why_not(kernel)


def test_threaded_node_is_refused(kernel: FakeKernel) -> None:
    (kernel.node("a.scope") / "cgroup.type").write_text("threaded\n")
    kernel.member("/a.scope")
    assert "threaded" in why_not(kernel)


def test_missing_memory_controller_refuses_the_limit_and_only_it(kernel: FakeKernel) -> None:
    kernel.node("a.scope", "pids")
    kernel.member("/a.scope")
    backend = find(kernel)
    assert backend.provides == {"processes", "cpu", "freeze"}
    with pytest.raises(UnsupportedError, match=r"limits\.memory"):
        backend.reserve("r", LIMITS)
    run = backend.create("r", Limits(processes=3))
    assert run.usage().memory_peak_bytes is None
    run.remove()
    run.close()


def test_root_uses_a_shared_parent_and_leaves_nothing(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    backend = find(kernel)
    one, two = backend.create("1", LIMITS), backend.create("2", LIMITS)
    one.remove()
    assert (kernel.point / "sandbox" / "run-2").exists()
    two.remove()
    assert not (kernel.point / "sandbox").exists()
    one.close()
    two.close()


def test_parent_removed_by_another_run_is_made_again(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    kernel.vanish = 7
    run = find(kernel).create("r", LIMITS)
    assert (kernel.point / "sandbox" / "run-r" / "pids.max").read_text() == "11"
    run.remove()
    run.close()


@pytest.mark.parametrize("name", ["memory.max", "memory.oom.group", "pids.max"])
def test_failure_in_the_middle_leaves_nothing(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    as_root(monkeypatch)
    kernel.fail_write = name
    with pytest.raises(SetupError, match=name):
        find(kernel).create("r", LIMITS)
    assert not (kernel.point / "sandbox").exists()


@pytest.mark.parametrize(("name", "reads"), [("memory.max", "max"), ("memory.max", "134217728"), ("pids.max", "max"), ("pids.max", "")])
def test_limit_that_did_not_take_is_an_error(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, name: str, reads: str) -> None:
    as_root(monkeypatch)
    kernel.override = {name: reads or "garbage"}
    with pytest.raises(UnsupportedError, match="after"):
        find(kernel).create("r", LIMITS)
    assert not (kernel.point / "sandbox").exists()


def test_same_run_id_twice_is_refused_and_harms_nothing(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    backend = find(kernel)
    run = backend.create("r", LIMITS)
    with pytest.raises(SandboxError, match="EEXIST"):
        backend.create("r", LIMITS)
    assert (kernel.point / "sandbox" / "run-r").exists()
    run.remove()
    run.close()


def test_old_kernel_without_peaks_and_kill(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    as_root(monkeypatch)
    run = find(kernel).create("r", LIMITS)
    for name in ("memory.peak", "pids.peak", "cgroup.kill"):
        (kernel.point / "sandbox" / "run-r" / name).unlink()
    usage = run.usage()
    assert (usage.memory_peak_bytes, usage.memory_source, usage.processes_peak, usage.processes_source) == (None, None, None, None)
    assert run.kill() is False
    run.remove()
    run.close()


def test_v1_without_permission_says_the_fix(kernel: FakeKernel) -> None:
    for name in ("memory", "pids", "cpuacct"):
        (kernel.point / name).mkdir()
    kernel.mounts("".join(f"1 2 3:4 / {kernel.point}/{c} rw - cgroup cgroup rw,{c}\n" for c in ("memory", "pids", "cpuacct")))
    (kernel.proc / "self" / "cgroup").write_text("3:memory:/\n2:pids:/\n1:cpuacct:/\n")
    report = explain_backend(environ={}, proc=str(kernel.proc))
    assert report.backend is None
    assert f"`{kernel.point}/memory/sandbox-1001` is not a writable directory" in report.reason
    assert "chown 1001 $d/sandbox-1001" in report.fix
    for named in ("..", "../x", "/", "a/../.."):
        assert "does not name a directory" in explain_backend(environ={"SANDBOX_CGROUP": named}, proc=str(kernel.proc)).reason


def test_no_proc_means_no_backend(tmp_path: Path) -> None:
    assert find_backend(environ={}, proc=str(tmp_path)) is None
    assert explain_backend(environ={}, proc=str(tmp_path)).reason == "no cgroup hierarchy is mounted"
