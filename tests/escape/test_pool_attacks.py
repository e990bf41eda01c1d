"""A program that attacks its pool: the sandboxes that wait, the runs beside it and the ones to come. None of them is harmed, reached or seen.

Each technique is shown to work where the layer that stops it is missing: from a process of the same user outside of the run's pid namespace, or with a
descriptor that was left open. Sources: ptrace(2), process_vm_readv(2), kill(2), proc(5), unix(7).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import PIPE, Sandbox

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
PYTHON = "/usr/bin/python3"
KINDS: dict[str, dict[str, Any]] = {
    "ahead": {"pool": 3},
    "started": {"python": {"command": (PYTHON,), "size": 3}},
    "forked": {"python": {"command": (PYTHON,), "size": 3, "mode": "forked"}},
}

# What a program can try against processes that it knows, or guesses, the numbers of. Prints what it reached.
REACH = r"""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
given = [int(word) for word in sys.argv[1:]]
found = set()
for pid in given or range(3, 400):
    if pid == os.getpid(): continue
    try:
        os.kill(pid, 0); found.add("signal")
    except OSError: pass
    try:
        os.listdir(f"/proc/{pid}/fd"); found.add("proc")
    except OSError: pass
    try:
        open(f"/proc/{pid}/mem", "rb").close(); found.add("memory")
    except OSError: pass
    try:
        os.close(os.pidfd_open(pid)); found.add("pidfd")
    except (OSError, AttributeError): pass
    if libc.ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
        found.add("ptrace"); os.waitpid(pid, 0x40000000); libc.ptrace(17, pid, 0, 0)
print(*sorted(found))
"""

DESCRIPTORS = r"""
import os
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
print(*[fd for fd in range(3, 1024) if is_open(fd)])
"""

# Everything that is counted for the user of all these sandboxes, taken and held until standard input ends.
EXHAUST = r"""
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
held = []
def take(what):
    try:
        for _ in range(5000): held.append(what())
    except OSError: pass
for number in range(400):
    fd = libc.inotify_init1(0)
    if fd < 0: break
for number in range(2000):
    if libc.syscall(248, b"user", b"k%d" % number, b"x", 1, -3) < 0: break
take(lambda: os.open("/dev/null", os.O_RDONLY))
for pid in range(300):
    try:
        if not os.fork():
            while True: os.read(0, 1) or os._exit(0)
    except OSError: break
try:
    while True: held.append(bytearray(1 << 20))
except MemoryError: pass
"""


@pytest.fixture(params=KINDS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox("python", limits={"wall": "600s", "processes": 32}, **KINDS[request.param]) as made:
        assert made.warm(300)
        yield made


def run(box: Sandbox, code: str, *words: str, **options: Any) -> sandbox.Result:
    return box.run([PYTHON, "-c", code, *words], **options)


def unharmed(box: Sandbox) -> None:
    """Several runs, more than wait, each from the pool and with its own output."""
    for number in range(5):
        assert box.warm(300)  # a new one is ready: what came before may have taken all
        result = run(box, f"print({number})")
        assert (result.stdout, result.stderr, result.verdict) == (f"{number}\n".encode(), b"", "ok")
        assert result.launched in ("pool", "interpreter")
    assert box.warm(300)
    stats = box.stats().pool or box.stats().python
    assert stats is not None
    assert stats.failed == 0, stats.failure


def waiting_pids(box: Sandbox) -> list[int]:
    """Return every process of the sandboxes that wait, as the host numbers them."""
    assert box._launcher is not None
    found: list[int] = []
    pending = [house.server.pid for house in box._launcher._houses if house.server is not None]
    while pending:
        children = Path(f"/proc/{(pid := pending.pop())}/task/{pid}/children").read_text().split()
        found += [int(child) for child in children]
        pending += [int(child) for child in children]
    return found


def test_nobody_who_waits_is_reached(box: Sandbox) -> None:
    unharmed(box)
    pids = waiting_pids(box)
    assert pids
    for words in ((), [str(pid) for pid in pids]):
        assert box.warm(300)
        result = run(box, REACH, *words)
        assert (result.stdout, result.launched in ("pool", "interpreter")) == (b"\n", True)
    everything = "import os, signal\nfor n in (0, 19, 18, 15): \n    try: os.kill(-1, n)\n    except OSError: pass"
    run(box, "import signal; signal.signal(15, signal.SIG_IGN)\n" + everything)
    unharmed(box)
    if os.geteuid() == 0:
        return  # root's sandboxes belong to a user that nobody else is
    outside = subprocess.run([PYTHON, "-c", REACH, *map(str, waiting_pids(box))], capture_output=True, check=False)
    assert {b"signal", b"pidfd", b"proc"} <= set(outside.stdout.split()), "the same attack, with no pid namespace around it"


def test_no_descriptor_is_found(box: Sandbox) -> None:
    assert run(box, DESCRIPTORS).stdout == b"\n"
    reader, writer = os.pipe()
    control = subprocess.run([sys.executable, "-c", DESCRIPTORS], pass_fds=(reader,), capture_output=True, check=False)
    assert control.stdout.split() == [str(reader).encode()], "the same look finds one that was left open"
    os.close(reader)
    os.close(writer)


def test_pipes_that_nobody_reads_hold_up_nobody_else(box: Sandbox) -> None:
    flood = "import os\nwhile True: os.write(1, b'x' * 65536)"
    with box.popen([PYTHON, "-c", flood]) as full, box.popen([PYTHON, "-c", "import time; time.sleep(600)"], stdin=PIPE) as deaf:
        assert deaf.stdin is not None
        os.set_blocking(deaf.stdin.fileno(), False)
        written = 0
        while select.select([], [deaf.stdin], [], 0.2)[1]:
            written += os.write(deaf.stdin.fileno(), bytes(4096))
        assert written >= 4096
        assert full.poll() is None
        unharmed(box)


def test_what_is_counted_for_the_user_is_left_for_others(box: Sandbox) -> None:
    code = EXHAUST + "\nprint('taken', flush=True)\nos.read(0, 1)\n"
    with box.popen([PYTHON, "-c", code], stdin=PIPE, stderr=None) as one, box.popen([PYTHON, "-c", code], stdin=PIPE, stderr=None) as two:
        for process in (one, two):
            assert process.stdout is not None
            process.stdout.readline()  # taken, or ended for it
        unharmed(box)


def test_a_program_that_leaves_everything_behind_is_not_seen_by_the_next(box: Sandbox) -> None:
    code = """
import os, socket, sys, time
names = ["/tmp/x", os.path.expanduser("~/x"), "/dev/shm/x"]
print([name for name in names if os.path.exists(name)], len([pid for pid in os.listdir("/proc") if pid.isdigit()]), os.environ.get("LEFT"), os.getcwd())
try:
    s = socket.socket(socket.AF_UNIX); s.connect("\\0left"); print("met")
except OSError: print("alone")
for name in names: open(name, "w").close()
os.environ["LEFT"] = "1"
if not os.fork():
    os.setsid()
    try:
        s = socket.socket(socket.AF_UNIX); s.bind("\\0left"); s.listen()
    except OSError: pass
    os.close(0); os.close(1); os.close(2)
    time.sleep(60)
"""
    seen = {run(box, code).stdout for _ in range(5)}
    assert seen == {b"[] 1 None /home/user\nalone\n"}


def test_a_module_that_is_hostile_harms_its_own_run_only(tmp_path: Path) -> None:
    """It is imported ahead, in every member: it says it is ready before it is, reads what comes, prints on, and has children that outlive the import."""
    tmp_path.chmod(0o755)
    (tmp_path / "hostile.py").write_text(
        "import os, sys, threading, time\n"
        "line = open('/proc/self/cmdline', 'rb').read()\n"
        "for at in range(len(line) - 24):\n"
        "    word = line[at : at + 24]\n"
        "    if all(byte in b'0123456789abcdef' for byte in word): os.write(1, word + b'+')\n"
        "if not os.fork():\n"
        "    for _ in range(50): os.write(1, b'LATE'); time.sleep(0.02)\n"
        "    os._exit(0)\n"
    )
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/m"], "env": {"PYTHONPATH": "/m"}, "limits": {"wall": "60s"}}
    with Sandbox("python", **settings, python={"command": (PYTHON,), "modules": ["hostile"], "size": 2}) as box, Sandbox("python", pool=2) as other:
        for _ in range(3):
            run(box, "print('own')")  # whatever comes of it
            for number in range(3):
                assert run(other, f"print({number})").stdout == f"{number}\n".encode()
