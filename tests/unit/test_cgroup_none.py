"""The fallback: sampling real process trees, hostile fake ones, and the rlimits."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.cgroup.none import TreeSampler, fallback_enforcements, rlimits_for
from sandbox.policy.profile import Limits

# Says "x" when its memory is touched and its children and threads run; ends when stdin does.
TREE = r"""
import os, sys, threading
read, write = os.pipe()
def leaf():
    block = bytearray(os.urandom(1) * (8 << 20))
    threading.Thread(target=os.read, args=(0, 1), daemon=True).start()
    os.write(write, b"x")
    os.read(0, 1)
    os._exit(0)
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            leaf()
        os.wait()
        os._exit(0)
for _ in range(3):
    os.read(read, 1)
os.write(1, b"x")
os.read(0, 1)
for _ in range(3):
    os.wait()
"""


def start(script: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.read()  # ends when the last of the tree is gone
    process.stdout.close()
    process.wait()


@pytest.mark.parametrize("children_file", [True, False])
def test_sums_a_real_tree(children_file: bool) -> None:
    process = start(TREE)
    sampler = TreeSampler(process.pid)
    sampler._has_children_file = sampler._has_children_file and children_file
    try:
        sample = sampler.sample()
        exact = sampler.proportional_bytes()
    finally:
        stop(process)
    assert (sample.processes, sample.threads, sample.truncated) == (6, 9, False)
    assert 24 << 20 < sample.rss_bytes < 80 << 20
    assert exact is not None
    assert 24 << 20 < exact < sample.rss_bytes


def test_shared_pages_are_counted_once_when_asked() -> None:
    script = r"""
import os
block = bytearray(b"x" * (32 << 20))
for _ in range(3):
    if os.fork() == 0:
        os.read(0, 1)
        os._exit(0)
os.write(1, b"x")
os.read(0, 1)
for _ in range(3):
    os.wait()
"""
    process = start(script)
    sampler = TreeSampler(process.pid)
    try:
        rough, exact = sampler.sample().rss_bytes, sampler.proportional_bytes()
    finally:
        stop(process)
    assert rough > 128 << 20, "four processes, each with the 32 MiB mapped"
    assert exact is not None
    assert 32 << 20 <= exact < 64 << 20


def test_page_tables_count() -> None:
    # One touched byte in each 2 MiB: one page and one page table each, so the tables are half of what it costs.
    script = r"""
import mmap, os
area = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
area.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, 2 << 30, 2 << 20):
    area[at] = 1
os.write(1, b"x")
os.read(0, 1)
"""
    process = start(script)
    try:
        sample = TreeSampler(process.pid).sample()
    finally:
        stop(process)
    assert sample.rss_bytes > 8 << 20


def test_cpu_time_of_ended_children_stays() -> None:
    script = r"""
import os, time
for _ in range(3):
    if os.fork() == 0:
        end = time.process_time() + 0.1
        while time.process_time() < end: pass
        os._exit(0)
    os.wait()
os.write(1, b"x")
os.read(0, 1)
"""
    process = start(script)
    try:
        cpu = TreeSampler(process.pid).cpu_ns()
    finally:
        stop(process)
    assert 250_000_000 < cpu < 5_000_000_000  # the interpreter's start is included, and slow where processors are emulated


def test_gone_process_is_an_empty_sample_and_cpu_never_falls() -> None:
    process = start("import os; sum(i * i for i in range(3_000_000)); os.write(1, b'x'); os.read(0, 1)")
    sampler = TreeSampler(process.pid)
    first = sampler.cpu_ns()
    stop(process)
    last = sampler.sample()
    assert first > 0
    assert (last.processes, last.threads, last.rss_bytes, sampler.cpu_ns()) == (0, 0, 0, first)


def fake_process(proc: Path, pid: int, children: str, *, parent: int = 1, threads: int = 1, name: str = "x") -> None:
    task = proc / str(pid) / "task" / str(pid)
    task.mkdir(parents=True)
    (task / "children").write_text(children)
    numbers = ["0"] * 60
    numbers[0:2] = ["S", str(parent)]
    numbers[11:15] = ["1", "1", "1", "1"]
    numbers[17] = str(threads)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(numbers)}")
    (proc / str(pid) / "status").write_text("Name:\tx\nRssAnon:\t 4 kB\nVmPTE:\t 4 kB\n")


def test_circle_from_a_reused_pid_ends(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, "11 12 ")
    fake_process(tmp_path, 11, "10 12 11", name=") S 1 (")
    fake_process(tmp_path, 12, "11 999 garbage")
    sample = TreeSampler(10, proc=str(tmp_path)).sample()
    assert (sample.processes, sample.rss_bytes, sample.truncated) == (2, 3 * 8192, False)


def test_file_pages_are_those_of_one_process_and_never_inits(tmp_path: Path) -> None:
    """What is taken off the peak of the largest process is its own: with init's pages in it, a program just over its limit would seem to be below."""
    for pid, children, held, mapped, tables in ((10, "11 12 ", 900, 1000, 99), (11, "", 50, 8, 3), (12, "", 40, 20, 30)):
        fake_process(tmp_path, pid, children)
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nRssAnon:\t {held} kB\nRssFile:\t {mapped} kB\nVmPTE:\t {tables} kB\n")
    sample = TreeSampler(10, proc=str(tmp_path)).sample()
    assert (sample.file_bytes, sample.table_bytes) == (20 * 1024, 30 * 1024)  # 12 has most with its page tables


def test_bound_cuts_off_and_says_so(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, " ".join(str(pid) for pid in range(100, 5000)))
    for pid in range(100, 130):
        fake_process(tmp_path, pid, "")
    sample = TreeSampler(10, proc=str(tmp_path), max_pids=20).sample()
    assert sample.truncated and sample.processes <= 20


def test_threads_are_bounded_too(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, "", threads=50)
    for tid in range(11, 60):
        (tmp_path / "10" / "task" / str(tid)).mkdir()
    assert TreeSampler(10, proc=str(tmp_path), max_pids=20).sample().truncated
    assert not TreeSampler(10, proc=str(tmp_path), max_pids=60).sample().truncated


def test_rlimits() -> None:
    limits = Limits(cpu_ns=1_500_000_000, memory_bytes=64 << 20, processes=7)
    assert rlimits_for(limits) == [
        (resource.RLIMIT_CPU, 2, 3),
        (resource.RLIMIT_DATA, 128 << 20, 128 << 20),
        (resource.RLIMIT_NPROC, 7, 7),
    ]
    assert rlimits_for(Limits()) == []
    assert rlimits_for(Limits(cpu_ns=1))[0][1] == 1


def test_data_limit_stops_one_process() -> None:
    (number, soft, hard) = rlimits_for(Limits(memory_bytes=64 << 20))[0]
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(number, (soft, hard))
        try:
            mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)  # reserving is free
        except OSError:
            os._exit(1)
        try:
            mmap.mmap(-1, 130 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.userns
@pytest.mark.skipif(os.geteuid() == 0, reason="RLIMIT_NPROC does not bind the host's root")
def test_nproc_is_exact_in_a_user_namespace_of_its_own() -> None:
    # Processes of the same user elsewhere must not count, and the second namespace must not count the first one's.
    count = "import os\nn = 1\ntry:\n while n < 50:\n  if os.fork() == 0: os.read(0, 1); os._exit(0)\n  n += 1\nexcept OSError: pass\n"
    count += "os.write(1, b'%d' % n)\n[os.wait() for _ in range(n - 1)]\n"
    others = [start("import os; os.write(1, b'x'); os.read(0, 1)") for _ in range(4)]
    try:
        command = ["unshare", "-Ur", "unshare", "-Uc", "prlimit", "--nproc=5", sys.executable, "-I", "-S", "-c", count]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = process.communicate()
    finally:
        for other in others:
            stop(other)
    assert out == b"5"


def test_fallback_names_what_is_weaker() -> None:
    found = fallback_enforcements(Limits(memory_bytes=1, processes=1))
    assert [enforcement.what for enforcement in found] == ["memory", "processes", "cpu-time accounting"]
    assert all(enforcement.weaker for enforcement in found)
