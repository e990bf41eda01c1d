"""The machine view in the kernel: what programs are told of processors and memory, in every tier, and the two calls that the supervisor answers."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kernel.tiers import TIERS, only_tier

import sandbox
from sandbox import Sandbox
from sandbox.audit.sinks import MemorySink
from sandbox.kernel.calls import affinity_sizes, write_memory
from sandbox.plan import build

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

PAYLOAD = Path(__file__).parent.parent / "payloads" / "machine_calls.py"
MEBIBYTE = 1 << 20
PYTHON = "/usr/bin/python3"
FILES = (
    "/sys/devices/system/cpu/online", "/sys/devices/system/cpu/possible", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max",
    "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/uptime",
)  # fmt: skip


def ask(box: Any, **options: Any) -> dict[str, Any]:
    """Run the payload and return its report."""
    run = box.run if isinstance(box, Sandbox) else box
    result = run([PYTHON, "-S", "main.py", *FILES], files={"main.py": PAYLOAD.read_bytes()}, **options)
    assert result.ok, (result.cause, result.stderr)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let it be so in every tier."""
    only_tier(request.param, monkeypatch)
    return str(request.param)


@pytest.mark.parametrize(("profile", "view"), [("strict", None), ("strict", "live"), ("default", "static"), ("default", None)])
@pytest.mark.usefixtures("tier")
def test_everything_agrees_with_the_limits(profile: str, view: str | None) -> None:
    with Sandbox(profile=profile, limits={"memory": "256M", "processes": 40, "wall": "240s"}, machine_view=view) as box:
        for memory in (256, 128, 256):  # runs of one Sandbox with other limits see their own
            seen = ask(box, limits={"memory": f"{memory}M"})
            host = os.sched_getaffinity(0)
            assert (seen["sysinfo"], seen["unit"], seen["total"]) == (0, 1, memory * MEBIBYTE)
            assert 0 < seen["free"] <= seen["total"] and seen["procs"] >= 1
            assert seen["affinity"] == seen["own pid"] == seen["init"] == sorted(host) and seen["online"] == len(host)
            assert seen["mask bytes"] == affinity_sizes()[1]
            files = seen["files"]
            assert files["/sys/fs/cgroup/memory.max"] == f"{memory * MEBIBYTE}\n" and files["/sys/fs/cgroup/pids.max"] == "40\n"
            if profile == "strict":
                assert files["/proc/meminfo"] is None, "minimal stays minimal"
                assert seen["uptime"] < 60
                continue
            assert files["/proc/meminfo"].split()[:3] == ["MemTotal:", str(memory * 1024), "kB"]
            assert files["/proc/cpuinfo"].count("processor\t: ") == len(host)
            assert files["/proc/stat"].count("\ncpu") == len(host)


def test_a_quota_shows_as_many_processors_as_it_is_worth() -> None:
    try:
        seen = ask(sandbox.run, profile="default", limits={"cpus": 1, "memory": "256M"})
    except sandbox.UnsupportedError as error:
        pytest.skip(f"no quota here: {error.message}")
    first = min(os.sched_getaffinity(0))
    assert seen["affinity"] == seen["own pid"] == seen["init"] == [first] and seen["online"] == 1
    assert seen["files"]["/sys/fs/cgroup/cpu.max"] == "100000 100000\n" and seen["files"]["/proc/cpuinfo"].count("processor\t:") == 1
    # Whoever keeps an array by sched_getcpu() is told how long it has to be: a quota pins nobody.
    assert seen["configured"] == os.cpu_count()
    if (os.cpu_count() or 1) > 1:
        wanted = max(os.sched_getaffinity(0))
        program = f"import os; os.sched_setaffinity(0, {{{wanted}}}); print(sorted(os.sched_getaffinity(0)))"
        result = sandbox.run([PYTHON, "-c", program], profile="default", limits={"cpus": 1})
        assert result.stdout == f"[{wanted}]\n".encode(), "who went elsewhere is told so"


def test_a_cpuset_shows_those_processors_everywhere() -> None:
    processor = max(os.sched_getaffinity(0))
    seen = ask(sandbox.run, profile="default", policy="judge", limits={"cpuset": [processor], "memory": "256M"})
    assert seen["affinity"] == [processor] and seen["online"] == 1
    assert seen["files"]["/sys/devices/system/cpu/online"] == f"{processor}\n"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_runs_from_a_thread_that_has_moved_are_told_of_its_processors() -> None:
    """What was prepared a moment before, or by another thread, is about other processors."""
    before = sorted(os.sched_getaffinity(0))
    with Sandbox(profile="default", limits={"memory": "256M"}) as box:
        try:
            for mask in (before, before[:1], before[-1:], before):
                os.sched_setaffinity(0, mask)
                seen = ask(box)
                assert seen["affinity"] == mask and seen["online"] == len(mask) and seen["files"]["/proc/cpuinfo"].count("processor\t: ") == len(mask)
        finally:
            os.sched_setaffinity(0, before)


def test_odd_questions_get_the_kernels_answers() -> None:
    """The same program outside, where the kernel answers, and inside."""
    outside = json.loads(subprocess.run([PYTHON, "-S", str(PAYLOAD)], capture_output=True, check=True).stdout)
    for profile in ("strict", "default"):
        inside = ask(sandbox.run, profile=profile, limits={"memory": "128M"})
        assert inside["odd"] == outside["odd"]
        assert inside["mask bytes"] == outside["mask bytes"] and inside["total"] != outside["total"]
        assert inside["set"] == outside["set"], "what was set is what is told, as outside"


@pytest.mark.parametrize("executor", ["native", "python"])
def test_both_executors_and_no_listener(executor: str) -> None:
    seen = ask(sandbox.run, profile="default", limits={"memory": "128M"}, executor=executor)
    assert seen["total"] == 128 * MEBIBYTE
    off = ask(sandbox.run, profile="default", limits={"memory": "128M"}, executor=executor, machine_view="off")
    assert off["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") and off["files"]["/sys/fs/cgroup/memory.max"] is None


def test_without_a_listener_the_calls_are_the_kernels_and_the_result_says_so(sandbox_cli: Any, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    code = "import os; print(os.sysconf('SC_PHYS_PAGES'))"
    done = sandbox_cli("exec", "-p", "strict", "-q", "--no-audit", "--result", str(result), "--", PYTHON, "-S", "-c", code)
    assert done.returncode == 0 and int(done.stdout) == os.sysconf("SC_PHYS_PAGES")
    entry = next(entry for entry in json.loads(result.read_text())["enforced"] if entry["what"] == "machine view")
    assert "sysinfo and sched_getaffinity tell of the host" in entry["weaker"]


LIVE = """
import os, select, sys, time
def used():
    return int(open('/sys/fs/cgroup/memory.current').read())
def meminfo():
    return {line.split(':')[0]: int(line.split()[1]) for line in open('/proc/meminfo')}
sizes = {path: len(open(path).read()) for path in ('/proc/meminfo', '/proc/stat', '/proc/loadavg', '/proc/uptime', '/sys/fs/cgroup/cpu.stat')}
before, uptime = used(), float(open('/proc/uptime').read().split()[0])
held = bytearray(b'x') * (64 << 20)
deadline = time.monotonic() + 120
while used() < before + (60 << 20) and time.monotonic() < deadline:
    sum(range(20000))
info = meminfo()
assert used() >= before + (60 << 20), (before, used())
assert info['MemFree'] < info['MemTotal'] - (60 << 10) and info['MemAvailable'] <= info['MemTotal']
assert float(open('/proc/uptime').read().split()[0]) > uptime
assert int(open('/proc/stat').readline().split()[1]) > 0 and 'usage_usec 0\\n' not in open('/sys/fs/cgroup/cpu.stat').read()
assert sizes == {path: len(open(path).read()) for path in sizes}, 'one length for good'
print(os.sysconf('SC_AVPHYS_PAGES') * 4096 < 200 << 20)
"""


@pytest.mark.usefixtures("tier")
def test_live_figures_follow_what_is_used() -> None:
    with Sandbox(profile="default", limits={"memory": "256M", "wall": "240s"}, machine_view="live") as box:
        for _ in range(2):
            result = box.run([PYTHON, "-S", "-c", LIVE])
            assert result.ok and result.stdout == b"True\n", (result.cause, result.stderr)


def test_processes_have_started_when_the_clocks_say() -> None:
    """btime, /proc/uptime, starttime and CLOCK_BOOTTIME agree, and none of them tells when the host was booted."""
    code = """
import os, time
start = int(open('/proc/self/stat').read().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')
btime = int(next(line.split()[1] for line in open('/proc/stat') if line.startswith('btime')))
up = float(open('/proc/uptime').read().split()[0])
print(start, up, time.clock_gettime(time.CLOCK_BOOTTIME), btime + start - time.time())
"""
    for view in ("static", "live"):
        result = sandbox.run([PYTHON, "-S", "-c", code], profile="default", machine_view=view)
        assert result.ok, result.stderr
        start, up, clock, off = map(float, result.stdout.split())
        age = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert abs(start - clock) < 40 and abs(up - clock) < 40 and abs(off) < 40
        assert clock < age - 100 or age < 1000, "the host is older"


def test_forks_of_a_warm_interpreter_are_answered_too() -> None:
    for profile in ("python", "default"):
        with Sandbox(profile=profile, limits={"memory": "300M", "wall": "240s"}, python={"size": 1, "mode": "forked", "command": [PYTHON]}) as box:
            box.warm()
            code = "import os; print(os.sysconf('SC_PHYS_PAGES') * 4096 >> 20, open('/sys/fs/cgroup/memory.max').read(), end='')"
            result = box.run([PYTHON, "-c", code])
            assert result.ok and result.stdout.split() == [b"300", str(300 * MEBIBYTE).encode()], (result.cause, result.stderr, result.notes)


FLOOD = """
import ctypes, os, threading
libc = ctypes.CDLL(None)
NUMBER = {"x86_64": 99, "aarch64": 179}[os.uname().machine]
def flood():
    buffer = ctypes.create_string_buffer(112)
    while not stop.is_set():
        libc.syscall(NUMBER, buffer)
stop = threading.Event()
threads = [threading.Thread(target=flood) for _ in range(16)]
for thread in threads: thread.start()
refused = 0
for _ in range(200):
    try: os.open('/dev/null', os.O_RDONLY); os.chroot('/')
    except PermissionError: refused += 1
stop.set()
for thread in threads: thread.join()
print(refused)
"""


def test_a_flood_of_questions_leaves_the_audit_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen threads ask without end; a seventeenth's refused calls are all answered and counted meanwhile, and the wall limit holds."""
    sink = MemorySink()
    result = sandbox.run([PYTHON, "-S", "-c", FLOOD], profile="default", audit=sink, limits={"wall": "240s"})
    assert result.ok and result.stdout == b"200\n", (result.cause, result.stderr)
    assert result.denials == {"chroot": 200}
    monkeypatch.setattr(build, "INIT_GRACE_NS", 240 * 10**9)  # it is the supervisor, busy as it is, that ends it, and not init
    result = sandbox.run([PYTHON, "-S", "-c", FLOOD.replace("range(200)", "iter(int, 1)")], profile="default", limits={"wall": "1s"})
    assert result.verdict == "wall-limit" and result.usage.wall_ns < 120 * 10**9


def test_write_memory_writes_where_the_other_may_and_nowhere_else() -> None:
    """Of a child of ours: its writable page changes, a read-only one does not, which /proc/PID/mem would have changed."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import ctypes, mmap, sys\n"
         "page = mmap.mmap(-1, 4096)\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_ulong\n"
         "barred = libc.mmap(ctypes.c_ulong(0), ctypes.c_ulong(4096), 1, 0x22, -1, ctypes.c_long(0))\n"
         "print(ctypes.addressof(ctypes.c_char.from_buffer(page)), barred, flush=True)\n"
         "sys.stdin.readline()\nprint(page[:4], ctypes.string_at(barred, 4))"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    with child:
        page, barred = map(int, child.stdout.readline().split())
        assert write_memory(child.pid, page, b"mine") == 4
        for address in (barred, 0, 0xFFFF_8000_0000_0000):
            with pytest.raises(OSError, match="Bad address"):
                write_memory(child.pid, address, b"mine")
        with open(f"/proc/{child.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(barred)
            forced = memory.write(b"them")
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.read() == b"b'mine' b'them'\n" and forced == 4, "the control: the other way writes to it"
    with pytest.raises(OSError, match="No such process"):
        write_memory(child.pid, page, b"mine")


def test_a_run_that_ends_before_the_first_look_pays_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on until the second look pays for two, half a second apart."""
    from sandbox.supervise import machine_view

    looks: list[int] = []
    look = machine_view.MachineState.look

    def count(self: machine_view.MachineState, now: int) -> None:
        looks.append(now)
        look(self, now)
        if len(looks) == 2:
            os.close(writer)

    monkeypatch.setattr(machine_view.MachineState, "look", count)
    with monkeypatch.context() as late:
        late.setattr(machine_view, "_FIRST_NS", 10**15)
        assert sandbox.run(["true"], profile="default").ok and not looks
    reader, writer = os.pipe()
    result = sandbox.run(["cat"], profile="default", stdin=reader, timeout=120)
    os.close(reader)
    assert result.ok and len(looks) >= 2, (result.cause, looks)
    assert all(later - before >= 500_000_000 for before, later in itertools.pairwise(looks))


def test_what_cannot_be_answered_is_made_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An outer filter that refuses process_vm_writev, a policy that lets a program hold up who writes to its memory, one that says `allow` itself."""
    from sandbox.kernel import calls

    code = "import os; print(os.sysconf('SC_PHYS_PAGES') * 4096 >> 20)"
    host = f"{os.sysconf('SC_PHYS_PAGES') * 4096 >> 20}\n".encode()

    def policy(name: str, call: str) -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(f'name = "{name}"\ndescription = "d"\nextends = ["default"]\n[[rule]]\nsyscalls = ["{call}"]\naction = "allow"\n')
        return str(path)

    def weaker(**how: Any) -> str:
        result = sandbox.run([PYTHON, "-S", "-c", code], profile="default", limits={"memory": "100M"}, **how)
        assert result.ok and result.stdout == host, (result.cause, result.stderr)
        return next(entry.weaker for entry in result.enforced if entry.what == "machine view")

    assert weaker(policy=policy("open", "userfaultfd")) == "sched_getaffinity and sysinfo tell of the host: policy `open` allows userfaultfd"
    assert weaker(policy=policy("plain", "sysinfo")) == "sysinfo tell of the host: policy `plain` allows them"
    ask_kernel = calls.ask_kernel
    assert ask_kernel("write-memory") == 1
    monkeypatch.setattr(calls, "ask_kernel", lambda question: -1 if question == "write-memory" else ask_kernel(question))
    assert weaker() == "sched_getaffinity and sysinfo tell of the host: process_vm_writev is refused here"
