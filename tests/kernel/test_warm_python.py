"""Warm interpreters: what runs in one is told from a cold run by nothing but the time, and what it used before its command is nobody's."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel.running import eventually
from kernel.warm_programs import PROGRAMS

import sandbox
from sandbox import DEVNULL, PIPE, Sandbox
from sandbox.api import recipe
from sandbox.plan.build import INIT_GRACE_NS

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
PYTHON = "/usr/bin/python3"
COMMAND = (PYTHON,)
_ADDRESS = re.compile(rb"0x[0-9a-f]+")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """Return a Sandbox with two warm interpreters, and see that its end leaves no thread and no descriptor."""
    sandbox.run(["true"])
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    with Sandbox("python", python={"command": COMMAND, "size": 2}) as made:
        assert made.warm(60)
        yield made
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("sandbox "):
            thread.join(90)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sandbox ")]
    eventually(lambda: set(os.listdir("/proc/self/fd")) == before, "everything is let go of")


def outcome(result: sandbox.Result) -> tuple[object, ...]:
    """What two runs must agree on."""
    return (
        result.verdict, result.exit_code, result.signal, _ADDRESS.sub(b"0x", result.stdout or b""), _ADDRESS.sub(b"0x", result.stderr or b""),
        result.files,
    )  # fmt: skip


def command_lines(code: str, how: dict[str, Any]) -> dict[str, list[str]]:
    """Return a program as a file, a module and a text on the command line."""
    lines = {"file": ["scr.py"], "module": ["-m", "scr"], "text": ["-c", code]}
    return {name: [PYTHON, *words, *how.get("args", ())] for name, words in lines.items() if name == "file" or not how.get("fileonly")}


# ---- the same as cold ------------------------------------------------------------------------------------------------------


def test_every_program_ends_as_it_does_cold() -> None:
    differ = {}
    with Sandbox("python") as cold, Sandbox("python", python={"command": COMMAND, "size": 2}) as warm:
        for name, (code, how) in PROGRAMS.items():
            for way, argv in command_lines(code, how).items():
                options: dict[str, Any] = {"stdin": how.get("stdin"), "files": {"scr.py": code}, "collect": ["*.txt"]}
                wanted, got = cold.run(argv, **options), warm.run(argv, **options)
                assert got.launched == "interpreter", (name, way)
                if outcome(wanted) != outcome(got):
                    differ[name, way] = (outcome(wanted), outcome(got))
    assert not differ
    assert len(PROGRAMS) > 80


@pytest.mark.parametrize(
    "options",
    [("-u",), ("-O",), ("-OO",), ("-I",), ("-E",), ("-s",), ("-B",), ("-P",), ("-W", "error"), ("-Werror",), ("-X", "dev"), ("-X", "utf8"), ("-uB",)],
    ids=" ".join,
)
def test_options_are_those_of_a_cold_run(options: tuple[str, ...]) -> None:
    code = """
import sys, warnings, os
print(sys.flags, sys.path, sys.warnoptions, sys._xoptions, __debug__, sys.orig_argv[1:-1], sys.argv)
print(sys.stdout.write_through, sys.stdout.line_buffering, __doc__, sys.implementation.cache_tag)
assert 1 == 1, "never"
warnings.warn("w")
1 / 0
"""
    with Sandbox("python") as cold, Sandbox("python", python={"command": (*COMMAND, *options), "size": 1}) as warm:
        for argv in ([PYTHON, *options, "-c", code], [PYTHON, *options, "scr.py", "x"]):
            wanted, got = (box.run(argv, files={"scr.py": code}) for box in (cold, warm))
            assert got.launched == "interpreter"
            assert outcome(wanted) == outcome(got)


def test_what_may_differ_is_this_and_no_more(box: Sandbox) -> None:
    code = """
import gc, sys, time
below = sys._getframe(1)
print(below.f_code.co_name, below.f_code.co_filename, below.f_back, sorted(below.f_globals))
print(sys.getrecursionlimit(), gc.get_freeze_count() > 0, len(open("/proc/self/cmdline").read()) > 1000)
"""
    assert box.run([PYTHON, "-c", code]).stdout == b"<module> <string> None []\n1001 True True\n"


def test_a_member_of_its_own_for_each_run(box: Sandbox) -> None:
    """Fresh hash seed, random state, layout, pid namespace, files and variables."""
    code = """
import os, random, sys, glob
print(hash("a"), random.random(), id(object()), os.getpid(), glob.glob("/tmp/*"), glob.glob("*"), hasattr(sys, "left"), "LEFT" in os.environ)
open("/tmp/left", "w"); open("left", "w"); sys.left = os.environ["LEFT"] = "1"
"""
    runs = [box.run([PYTHON, "-c", code]) for _ in range(6)]
    assert all(run.launched == "interpreter" for run in runs)
    words = [(run.stdout or b"").split() for run in runs]
    for column in range(3):
        assert len({line[column] for line in words}) == len(runs)
    assert {tuple(line[3:]) for line in words} == {(b"2", b"[]", b"[]", b"False", b"False")}


def test_hash_seed_that_was_asked_for() -> None:
    with Sandbox("python", env={"PYTHONHASHSEED": "7"}, python={"command": COMMAND}) as box:
        seen = {box.run([PYTHON, "-c", "print(hash('a'))"]).stdout for _ in range(3)}
    with Sandbox("python", env={"PYTHONHASHSEED": "7"}) as cold:
        assert seen == {cold.run([PYTHON, "-c", "print(hash('a'))"]).stdout}


# ---- modules ---------------------------------------------------------------------------------------------------------------


def test_modules_are_there_and_found_beside_the_program_first() -> None:
    code = "import sys; print('json' in sys.modules); import json; print(json.__file__); print(getattr(json, 'mine', 0))"
    with Sandbox("python", python={"command": COMMAND, "modules": ["json", "xml.dom"]}) as box, Sandbox("python") as cold:
        assert (box.run([PYTHON, "-c", code]).stdout or b"").startswith(b"True\n/usr/lib/")
        for files in ({"main.py": code, "json.py": "mine = 1"}, {"main.py": code, "json/__init__.py": "mine = 2"}):
            wanted, got = cold.run([PYTHON, "main.py"], files=files), box.run([PYTHON, "main.py"], files=files)
            assert outcome(wanted) == outcome(got)
            assert b"/home/user/json" in (got.stdout or b"")


def test_a_module_that_cannot_be_imported_is_an_error() -> None:
    with Sandbox("python", python={"command": COMMAND, "modules": ["nowhere_to_be_found"]}) as box:
        with pytest.raises(sandbox.SandboxError, match="import `nowhere_to_be_found: ModuleNotFoundError"):
            box.run([PYTHON, "-c", "pass"])
        stats = box.stats().python
        assert stats is not None
        assert "nowhere_to_be_found" in stats.failure
        assert stats.built == 0


def test_what_a_module_prints_or_does_on_import_is_not_the_runs(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "noisy.py").write_text(
        "import os, sys, time, warnings\nprint('x' * 200_000); print('err', file=sys.stderr); warnings.warn('now')\n"
        "try: os.chroot('/')\nexcept OSError: pass\n"
        "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
        "time.sleep(4)\n"
        "[os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0) for _ in range(20)]\n"
    )
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/lib-of-mine"], "env": {"PYTHONPATH": "/lib-of-mine"}}
    with Sandbox("python", **settings, python={"command": COMMAND, "modules": ["noisy"], "size": 1}) as box:
        assert box.warm(60)
        result = box.run([PYTHON, "-c", "import noisy; print('out')"], limits={})
    assert (result.stdout, result.stderr, result.verdict, result.launched) == (b"out\n", b"", "ok", "interpreter")
    assert result.denials == {}
    assert result.usage.cpu_ns < 300_000_000
    assert result.usage.wall_ns < 4_000_000_000
    assert (result.usage.minor_faults or 0) < 1000
    assert result.usage.output_bytes == 4


@pytest.mark.parametrize("mode", ["started", "forked"])
def test_what_a_module_keeps_open_is_written_at_the_end(tmp_path: Path, mode: str) -> None:
    """Members leave out most of the end of Python; not where an import left something that needs it."""
    tmp_path.chmod(0o755)
    (tmp_path / "later.py").write_text("class Last:\n    def __del__(self): print('last')\nkept = Last()\n")
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/lib-of-mine"], "env": {"PYTHONPATH": "/lib-of-mine"}}
    with Sandbox("python", **settings, python={"command": COMMAND, "modules": ["later"], "size": 1, "mode": mode}) as box:
        result = box.run([PYTHON, "-c", "import later; print('first')"])
    assert (result.stdout, result.launched) == (b"first\nlast\n", "interpreter")


def test_without_the_baseline_the_warm_up_is_billed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: the same run, taking off nothing."""
    from sandbox.supervise.monitor import Monitor
    from sandbox.supervise.used import Used

    tmp_path.chmod(0o755)
    (tmp_path / "busy.py").write_text("import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n")
    begin = Monitor.begin

    def begin_from_zero(self: Monitor, words: bytes = b"", **options: Any) -> None:
        begin(self, words, **{**options, "before": Used()})
        self.collected.setup_payload_ns = self.collected.setup_cgroup_ns = 0

    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/lib-of-mine"], "env": {"PYTHONPATH": "/lib-of-mine"}}
    used = []
    for billed in (False, True):
        if billed:
            monkeypatch.setattr(Monitor, "begin", begin_from_zero)
        with Sandbox("python", **settings, python={"command": COMMAND, "modules": ["busy"], "size": 1}) as box:
            assert box.warm(60)
            used.append(box.run([PYTHON, "-c", "pass"]).usage.cpu_ns)
    assert used[0] < 300_000_000 < 500_000_000 < used[1]


# ---- limits begin at the command -------------------------------------------------------------------------------------------

_SPIN = "while True: pass"


def test_limits_of_time_count_from_the_command(box: Sandbox) -> None:
    late = box.run([PYTHON, "-c", "import time; time.sleep(600)"], timeout=0.3)
    assert (late.verdict, late.launched) == ("wall-limit", "interpreter")
    assert 300_000_000 <= late.usage.wall_ns < 300_000_000 + INIT_GRACE_NS
    flood = box.run([PYTHON, "-c", "while True: print('x' * 1000)"])
    assert (flood.verdict, flood.launched) == ("output-limit", "interpreter")


def test_cpu_limit_counts_from_the_command(tmp_path: Path) -> None:
    """The warm-up uses more than the limit; supervisor and RLIMIT_CPU both count from the command."""
    tmp_path.chmod(0o755)
    (tmp_path / "busy.py").write_text("import time\nend = time.process_time() + 2.2\nwhile time.process_time() < end: pass\n")
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CPU))"
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/lib-of-mine"], "env": {"PYTHONPATH": "/lib-of-mine"}, "limits": {"cpu": "1s", "wall": "300s"}}
    with Sandbox("python", **settings, python={"command": COMMAND, "modules": ["busy"], "size": 1}) as box:
        assert box.warm(60)
        asked = box.run([PYTHON, "-c", code])
        soft, hard = map(int, (asked.stdout or b"").strip(b"()\n").split(b","))
        assert (asked.verdict, asked.launched) == ("ok", "interpreter")
        assert 2 + 2 <= soft <= 2 + 5
        assert hard == soft + 1
        assert box.warm(60)
        spun = box.run([PYTHON, "-c", _SPIN])
    assert (spun.verdict, spun.launched) == ("cpu-limit", "interpreter")
    assert 1_000_000_000 <= spun.usage.cpu_ns < 1_900_000_000


def test_a_warm_up_that_is_denied_thousands_of_calls_goes_on(tmp_path: Path) -> None:
    """More than are answered at once: the rest is held up for moments, not until the set-up has taken too long."""
    tmp_path.chmod(0o755)
    (tmp_path / "many.py").write_text("import ctypes\nmount = ctypes.CDLL(None).mount\nfor _ in range(8000): mount(0, 0, 0, 0, 0)\n")
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/lib-of-mine"], "env": {"PYTHONPATH": "/lib-of-mine"}}
    with Sandbox("python", **settings, python={"command": COMMAND, "modules": ["many"], "size": 1}) as box:
        assert box.warm(60)
        assert box.run([PYTHON, "-c", "pass"]).launched == "interpreter"


def test_memory_is_a_limit_on_all_that_the_sandbox_has(box: Sandbox) -> None:
    result = box.run([PYTHON, "-c", "x = bytearray(3 << 30); x[:: 4096] = b'1' * len(x[:: 4096]); print(len(x))"])
    assert result.launched == "interpreter"
    assert result.verdict == "memory-limit" or b"MemoryError" in (result.stderr or b"")


# ---- what a run has of its own ---------------------------------------------------------------------------------------------


def test_input_streams_files_and_variables_of_one_run(box: Sandbox) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from a descriptor")
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert box.run([PYTHON, "-c", "print(input())"], stdin=file.fileno()).stdout == b"from a descriptor\n"
    big = os.urandom(3 << 20)
    code = "import sys, hashlib; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d[::-1])"
    assert box.run([PYTHON, "-c", code], stdin=big).stdout == big[::-1]
    files = {"a/b/data.bin": big[:100], "main.py": "import os; print(open('a/b/data.bin','rb').read().hex(), os.environ['MINE'], os.environ['HOME'])"}
    result = box.run([PYTHON, "./main.py"], files=files, env={"MINE": "1"}, collect=["**/*"], name="named")
    assert result.stdout == f"{big[:100].hex()} 1 /home/user\n".encode()
    assert sorted(result.files) == ["a/b/data.bin", "main.py"]
    assert result.launched == "interpreter"
    modes = box.run([PYTHON, "-c", "import os; print([oct(os.stat(n).st_mode) for n in ('x', 'y')], os.stat('x').st_uid)"], files={"x": "#!/bin/sh", "y": "z"})
    assert modes.stdout == b"['0o100755', '0o100644'] 1000\n"


def test_processes_map_and_coroutines(box: Sandbox) -> None:
    with box.popen([PYTHON, "-c", "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"], stdin=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            assert process.stdout.readline() == word.upper()
        process.stdin.close()
        assert process.wait(60).launched == "interpreter"
    with box.popen([PYTHON, "-c", "import time; time.sleep(60)"]) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60).signal == signal.SIGTERM
    found = [result.stdout for result in box.map([PYTHON, "-c", "print(input())"], (str(number) for number in range(12)), workers=3)]
    assert found == [f"{number}\n".encode() for number in range(12)]

    async def several() -> list[bytes | None]:
        done = await asyncio.gather(*(box.run_async([PYTHON, "-c", f"print({number})"]) for number in range(6)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(box.run_async([PYTHON, "-c", "import time; time.sleep(60)"]), 0.2)
        return [result.stdout for result in done]

    assert asyncio.run(several()) == [f"{number}\n".encode() for number in range(6)]


def test_a_run_that_no_member_can_take_is_started_as_ever(box: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    code = [PYTHON, "-c", "print(1)"]
    unfit: list[tuple[list[str], dict[str, Any]]] = [
        (["echo", "1"], {}),
        ([PYTHON, "-I", "-c", "print(1)"], {}),
        ([PYTHON, "-"], {"stdin": b"print(1)"}),
        ([PYTHON], {"stdin": b"print(1)"}),
        (code, {"limits": {"memory": "512M"}}),
        (code, {"limits": {"processes": 8}}),
        (code, {"volumes": [f"{tmp_path}:/data"]}),
        (code, {"env": {"PYTHONUTF8": "1"}}),
        (code, {"env": {"LC_ALL": "C"}}),
        (code, {"timeout": 3600}),
    ]
    for argv, options in unfit:
        result = box.run(argv, **options)
        assert (result.stdout, result.launched == "interpreter") == (b"1\n", False), (argv, options)
    stats = box.stats().python
    assert stats is not None
    assert stats.unfit == len(unfit)
    assert stats.hits == stats.misses == 0
    with pytest.raises(sandbox.PolicyError, match="not a relative path"):
        box.run(code, files={"../x": "y"})
    assert box.run(code, timeout=5, limits={"output": "1K", "idle": "5s"}).launched == "interpreter"


# ---- the pool --------------------------------------------------------------------------------------------------------------


def test_figures_and_refilling(box: Sandbox) -> None:
    for _ in range(5):
        assert box.run([PYTHON, "-c", "pass"]).launched == "interpreter"
        assert box.warm(60)
    stats = box.stats().python
    assert stats is not None
    assert (stats.size, stats.waiting, stats.hits, stats.misses, stats.failed) == (2, 2, 5, 0, 0)
    assert stats.built == 7
    assert 0 < stats.build_ns <= stats.build_total_ns
    assert stats.memory_bytes > 2 << 20


def test_a_member_that_dies_while_it_waits_is_replaced(box: Sandbox) -> None:
    victims = _members(box)
    for member in victims:
        assert member._monitor is not None
        os.kill(member._monitor.payload_pid, signal.SIGKILL)
    for member in victims:
        member.join()
    assert box.warm(60)
    assert box.run([PYTHON, "-c", "print(1)"]).stdout == b"1\n"
    stats = box.stats().python
    assert stats is not None
    assert stats.failed == 2
    assert stats.hits == 1


def test_a_member_whose_run_came_to_nothing_is_ended(tmp_path: Path) -> None:
    """As when denials cannot be written: a pool that only forgets it has another, and another, wait for ten minutes."""
    with Sandbox("python", python={"command": COMMAND, "size": 1}, audit=tmp_path / "nowhere" / "log") as box:
        assert box._interpreters is not None
        taken = []
        for _ in range(3):
            assert box.warm(30)
            taken += list(box._interpreters._pool._members)
            with pytest.raises(sandbox.SandboxError, match="open audit log"):
                box.run([PYTHON, "-c", "pass"])
        for member in taken:
            member.join()
        assert len({member.run_id for member in taken}) == 3
        stats = box.stats().python
        assert stats is not None and (stats.discarded, stats.late, stats.hits) == (3, 0, 0)


def test_a_member_of_another_profile_is_not_given_to_a_run(tmp_path: Path) -> None:
    """Another thread, which had read the profile before it was edited, comes in between: its members are not for who has read it since."""
    profile = tmp_path / "edited.toml"
    profile.write_text('extends = "python"\n[limits]\nopen-files = 100\n')
    with Sandbox(str(profile), python={"command": COMMAND, "size": 1}) as box:
        interpreters: Any = box._interpreters
        assert box.warm(60)
        pool, before = interpreters._pool, interpreters._base
        profile.write_text('extends = "python"\n[limits]\nopen-files = 50\n')
        take = pool.take

        def interrupted_take() -> object:
            interpreters._renew(before)
            pool.fill()
            return take()

        pool.take = interrupted_take
        run = box.run([PYTHON, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"])
    assert run.stdout == b"50\n"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_processors_are_the_callers_when_the_run_begins(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a thread that is used again, and in a member that was made before."""
    monkeypatch.setattr(recipe, "AGE_NS", 3600 * 10**9)  # who looks at the host again makes other members: the machine view has other processors
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    before = os.sched_getaffinity(0)
    assert box.run([PYTHON, "-c", code]).stdout == f"{sorted(before)}\n".encode()
    with Sandbox("python") as cold:
        run = next(cold.map([PYTHON, "-c", code], [b""]))
        assert run.stdout == f"{sorted(before)}\n".encode()
        try:
            os.sched_setaffinity(0, {min(before)})
            for _ in range(2):
                assert box.warm(60)
                run = box.run([PYTHON, "-c", code])
                assert (run.launched, run.stdout) == ("interpreter", f"[{min(before)}]\n".encode())
                (run,) = cold.map([PYTHON, "-c", code], [b""])
                assert run.stdout == f"[{min(before)}]\n".encode()
        finally:
            os.sched_setaffinity(0, before)


def test_a_member_that_is_too_old_is_replaced() -> None:
    with Sandbox("python", python={"command": COMMAND, "size": 1, "max_age": 0.2}) as box:
        assert box.warm(60)
        (first,) = _members(box)
        first.join()  # nobody does anything to it
        assert box.warm(60)
        assert _members(box) != [first]
        stats = box.stats().python
        assert stats is not None
        assert stats.discarded >= 1
        assert stats.failed == 0


def test_members_made_of_something_else_are_not_used(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('extends = "python"\npolicy = "python"\n[environment]\nset = { WHICH = "one" }\n')
    code = [PYTHON, "-c", "import os; print(os.environ['WHICH'], os.listdir('/data'))"]
    tmp_path.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    with Sandbox(str(profile), volumes=[f"{data}:/data"], python={"command": COMMAND}) as box:
        assert box.warm(60)
        assert box.run(code).stdout == b"one []\n"
        assert box.warm(60)
        profile.write_text('extends = "python"\npolicy = "python"\n[environment]\nset = { WHICH = "two" }\n')
        changed = box.run(code)
        assert changed.stdout == b"two []\n"
        assert box.warm(60)
        data.rename(tmp_path / "gone")
        data.mkdir()
        (data / "new").touch()
        assert box.run(code).stdout == b"two ['new']\n"
        stats = box.stats().python
        assert stats is not None
        assert stats.discarded >= 2


def test_bound_on_memory() -> None:
    with Sandbox("python", python={"command": COMMAND, "size": 4, "memory": "10M"}) as box:
        assert box.warm(60)
        box.run([PYTHON, "-c", "pass"])
        assert box.warm(60)
        stats = box.stats().python
        assert stats is not None
        assert 1 <= stats.waiting < 4
        assert stats.memory_bytes <= 10 << 20


def test_more_runs_at_once_than_members(box: Sandbox) -> None:
    results: list[sandbox.Result] = []
    threads = [threading.Thread(target=lambda: results.append(box.run([PYTHON, "-c", "import time; time.sleep(0.3); print(1)"]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.stdout for result in results] == [b"1\n"] * 6
    assert sum(result.launched == "interpreter" for result in results) >= 2


def test_close_ends_members_that_are_made_and_that_run() -> None:
    for delay in (0.0, 0.02, 0.05, 0.2):
        box = Sandbox("python", python={"command": COMMAND, "size": 3})
        time.sleep(delay)
        runs = [box.popen([PYTHON, "-c", "import time; time.sleep(60)"], stdout=DEVNULL, stderr=DEVNULL)] if delay else []
        box.close()
        assert all(run.poll() is not None for run in runs)
        with pytest.raises(ValueError, match="closed"):
            box.run([PYTHON, "-c", "pass"])


def test_a_sandbox_that_is_forgotten_leaves_nothing() -> None:
    box = Sandbox("python", python={"command": COMMAND, "size": 2})
    members = _members(box)
    del box
    gc.collect()
    assert members
    assert all(member.ended for member in members)


def test_a_fork_has_members_of_its_own(box: Sandbox) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)
            result = box.run([PYTHON, "-c", "print('child')"])
            os.write(writer, (result.stdout or b"") + result.launched.encode())
            box.close()
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read().startswith(b"child\n")
    assert os.waitpid(pid, 0)[1] == 0
    assert box.run([PYTHON, "-c", "print(1)"]).launched == "interpreter"


@pytest.mark.orphans
def test_a_client_that_is_killed_leaves_no_member() -> None:
    code = (
        "import os, sys; from sandbox import Sandbox\n"
        "box = Sandbox('python', python={'command': ('/usr/bin/python3',), 'size': 2}); box.warm()\n"
        "print(*[m._monitor.payload_pid for m in box._interpreters._pool._members], flush=True); sys.stdin.read()"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdin is not None
    pids = [int(word) for word in client.stdout.readline().split()]
    assert len(pids) == 2
    watched = [os.pidfd_open(pid) for pid in pids]
    client.kill()
    client.wait()
    import select

    poll = select.poll()
    for fd in watched:
        poll.register(fd, select.POLLIN)
    gone: set[int] = set()
    while len(gone) < len(watched):
        ready = poll.poll(90_000)
        assert ready, "a member outlives its client"
        for fd, _ in ready:
            gone.add(fd)
            poll.unregister(fd)
    for fd in watched:
        os.close(fd)
    client.stdin.close()
    client.stdout.close()


def test_interrupted_run_ends(box: Sandbox) -> None:
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        box.run([PYTHON, "-c", "import time; time.sleep(60)"])
    timer.join()
    assert box.run([PYTHON, "-c", "print(1)"]).stdout == b"1\n"


@pytest.mark.parametrize("executor", ["native", "python"])
def test_both_executors(executor: str) -> None:
    with Sandbox("python", executor=executor, python={"command": COMMAND}) as box:
        result = box.run([PYTHON, "-c", "print(1)"])
        assert (result.stdout, result.launched) == (b"1\n", "interpreter")


def _members(box: Sandbox) -> list[Any]:
    assert box._interpreters is not None
    return list(box._interpreters._pool._members)


def test_no_interpreter_waits_with_something_hidden(tmp_path: Path) -> None:
    """The kernel drops what covers a socket when the socket is replaced; a fresh run has it covered again."""
    import socket

    tmp_path.chmod(0o755)
    code = [PYTHON, "-c", "import os, stat; print(stat.S_ISSOCK(os.stat('/data/bus').st_mode))"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        with Sandbox("python", volumes=[f"{tmp_path}:/data"], python={"command": COMMAND}) as box:
            result = box.run(code)
    assert result.stdout == b"False\n"
    assert result.launched != "interpreter"
