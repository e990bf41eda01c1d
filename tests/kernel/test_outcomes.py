"""How runs end: every exit code and signal as a plain shell reports it, every limit with its verdict, streams whole to the last byte."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.errors import ExecuteError, SetupError
from sandbox.plan.build import INIT_GRACE_NS
from sandbox.result import Verdict

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

Launcher = Callable[..., sandbox.Result]
PYTHON = "/usr/bin/python3"
DEADLY = (*range(1, 17), *range(24, 28), *range(29, 65))
"""Signals whose default action ends the process (signal(7)), the real-time ones and glibc's own two included."""
SUICIDE = """
import os, signal, sys
number = int(sys.argv[1])
if number in (2, 13, 25):                # the interpreter handles these itself
    signal.signal(number, signal.SIG_DFL)
os.kill(os.getpid(), number)
signal.pause()
"""
OF_A_LIMIT = {25: Verdict.OUTPUT_LIMIT, 31: Verdict.DENIED_SYSCALL}


# ---- the way a payload ends ------------------------------------------------------------------------------------------


def test_exit_codes(launcher: Launcher) -> None:
    for code in range(256):
        result = launcher(f"exit {code}")
        assert (result.exit_code, result.signal) == (code, None)
        assert result.verdict is (Verdict.NONZERO_EXIT if code else Verdict.OK)
        assert result.cause == f"exit {code}"


def test_deadly_signals_as_a_shell_reports_them(launcher: Launcher) -> None:
    loop = f'ulimit -c 0; for n in {" ".join(map(str, DEADLY))}; do {PYTHON} -I -S -c "$0" $n; echo $n $?; done'
    shell = subprocess.run(
        ["sh", "-c", loop, SUICIDE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=300, check=True
    )
    expected = {int(line.split()[0]): int(line.split()[1]) for line in shell.stdout.splitlines()}
    assert expected == {number: 128 + number for number in DEADLY}
    for number in DEADLY:
        result = launcher(SUICIDE, str(number), shell=PYTHON)
        assert (result.exit_code, result.signal) == (expected[number], number)
        assert result.verdict is OF_A_LIMIT.get(number, Verdict.SIGNALED)


@pytest.mark.parametrize(("words", "code"), [
    (["sh", "-c", "exit 0"], 0), (["sh", "-c", "exit 1"], 1), (["sh", "-c", "exit 125"], 125), (["sh", "-c", "exit 255"], 255),
    (["sh", "-c", "kill -TERM $$"], 143), (["sh", "-c", "kill -KILL $$"], 137), (["bash", "-c", "kill -64 $$"], 192),
])  # fmt: skip
def test_cli_ends_as_the_payload(sandbox_cli: Any, words: list[str], code: int) -> None:
    assert sandbox_cli("exec", "--profile", "strict", "--", *words).returncode == code


def test_abort(launcher: Launcher) -> None:
    result = launcher("import os; os.abort()", shell=PYTHON)
    assert (result.exit_code, result.signal, result.verdict) == (134, 6, Verdict.SIGNALED)
    assert result.cause == "signal 6 (SIGABRT)"


def test_fault_of_the_processor(launcher: Launcher) -> None:
    result = launcher("import ctypes; ctypes.string_at(8)", shell=PYTHON)
    assert (result.exit_code, result.signal) == (139, 11)


ORPHANS = """
import os, sys, time
count = int(sys.argv[1]); zombies = int(sys.argv[2])
hold_r, hold_w = os.pipe()
ready_r, ready_w = os.pipe()
middle = os.fork()
if not middle:
    os.close(hold_w)
    made = 0
    for _ in range(count):
        if not os.fork():
            for _ in range(zombies):
                if not os.fork():
                    os._exit(7)          # nobody ever waits for this one
            os.write(ready_w, b"x")
            os.read(hold_r, 1)           # until the payload lets go
            os._exit(0)
        made += 1
    os._exit(made != count)              # leaves `count` orphans to pid 1
_, status = os.waitpid(middle, 0)
for _ in range(count): os.read(ready_r, 1)
own = os.getpid()
def others():
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != own]
seen = len(others())
os.close(hold_w)
deadline = time.monotonic() + 120
while others() and time.monotonic() < deadline:
    time.sleep(0.01)
print(status, seen, len(others()))
"""


def test_pid_1_reaps_a_thousand_orphans(make_launcher: Callable[..., Launcher]) -> None:
    launch = make_launcher(limits={"processes": 1100, "memory": "2G", "wall": 200, "cpu": 100})
    result = launch(ORPHANS, "1000", "0", shell=PYTHON)
    assert result.verdict is Verdict.OK, (result.cause, result.stderr)
    assert result.stdout == b"0 1000 0\n"


def test_orphans_that_leave_zombies_of_their_own(make_launcher: Callable[..., Launcher]) -> None:
    launch = make_launcher(limits={"processes": 400, "memory": "1G", "wall": 200, "cpu": 100})
    result = launch(ORPHANS, "60", "4", shell=PYTHON)
    assert result.verdict is Verdict.OK, (result.cause, result.stderr)
    assert result.stdout == b"0 300 0\n"


def test_a_daemon_is_dead_at_the_end(make_launcher: Callable[..., Launcher], find_processes: Callable[[str], dict[int, str]]) -> None:
    marker = f"daemon-{uuid.uuid4().hex}"
    program = "import os, sys, time\nif os.fork(): os._exit(3)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(3600)\n"
    result = make_launcher(limits={"wall": 60})(program, marker, shell=PYTHON)
    assert result.exit_code == 3
    assert result.verdict is Verdict.NONZERO_EXIT, "the run waited for the daemon, which holds the pipes"
    assert find_processes(marker) == {}


def test_ends_while_a_background_process_floods(launcher: Launcher) -> None:
    result = launcher("yes >/dev/null & echo started; exit 4")
    assert (result.exit_code, result.stdout) == (4, b"started\n")


# ---- limits ------------------------------------------------------------------------------------------------------------


def test_wall_limit(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"wall": 2})("echo before; sleep 600; echo after")
    assert (result.verdict, result.exit_code, result.stdout) == (Verdict.WALL_LIMIT, 137, b"before\n")
    assert 2_000_000_000 <= result.usage.wall_ns < 2_000_000_000 + INIT_GRACE_NS, "it was the supervisor, not init's own deadline"
    assert result.cause == f"wall {result.usage.wall_ns} ns, limit 2000000000 ns"
    assert result.limits_hit == ("wall",) and result.near_limits == ()
    assert facts(result, "wall")["CLOCK_MONOTONIC"].bound == 2_000_000_000


def test_usage_of_what_is_known(launcher: Launcher) -> None:
    """Faults, switches and blocks come from the processes' own counters; our own part is taken off the CPU time."""
    result = launcher("for i in 1 2 3 4 5; do /bin/true; sleep 0.01; done")
    usage = result.usage
    assert (usage.voluntary_switches or 0) >= 5
    assert (usage.minor_faults or 0) > 100
    assert usage.io_source is not None and usage.maxrss_bytes
    assert 0 < usage.cpu_ns < 2_000_000_000
    assert usage.memory_sample_gap_ns is None or usage.memory_samples > 0


def test_stopped_payload_meets_its_wall_limit(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"wall": 0.3})("kill -STOP $$; echo after")
    assert (result.verdict, result.stdout) == (Verdict.WALL_LIMIT, b"")


def test_payload_that_ignores_signals_meets_its_wall_limit(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"wall": 0.3})("trap '' TERM INT HUP QUIT; while :; do sleep 10; done")
    assert result.verdict is Verdict.WALL_LIMIT


@pytest.mark.parametrize("processes", [1, 4])
def test_cpu_limit_over_all_processes(make_launcher: Callable[..., Launcher], processes: int) -> None:
    program = f"for i in $(seq {processes - 1}); do (while :; do :; done) & done; while :; do :; done"
    result = make_launcher(limits={"cpu": 0.6, "wall": 120})(program)
    assert result.verdict is Verdict.CPU_LIMIT, result.cause
    assert result.usage.cpu_ns < 3_000_000_000


def test_cpu_limit_over_a_relay_of_short_processes(make_launcher: Callable[..., Launcher]) -> None:
    program = "import os\nwhile True:\n if not os.fork():\n  sum(range(300000)); os._exit(0)\n os.wait()"
    result = make_launcher(limits={"cpu": 0.6, "wall": 120})(program, shell=PYTHON)
    assert result.verdict is Verdict.CPU_LIMIT, result.cause


def test_idle_limit(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"idle": 2, "wall": 120})("echo before; sleep 600")
    assert (result.verdict, result.exit_code, result.stdout) == (Verdict.IDLE_LIMIT, 137, b"before\n"), result.cause
    assert result.limits_hit == ("idle",)
    assert 2_000_000_000 < result.usage.wall_ns - result.usage.cpu_ns < 20_000_000_000


def test_whoever_works_is_not_idle(make_launcher: Callable[..., Launcher]) -> None:
    """Two processes that spin for a second of CPU time each: on processors that are shared they wait, too, so the limit is wide."""
    program = "import os, time\nos.fork()\nwhile time.process_time() < 0.5: pass\n"
    result = make_launcher(limits={"idle": 15, "wall": 120, "cpu": 30})(program, shell=PYTHON)
    assert result.verdict is Verdict.OK, result.cause


def facts(result: sandbox.Result, limit: str) -> dict[str, sandbox.result.Evidence]:
    """Return what is known of one limit, by counter."""
    return {fact.counter: fact for fact in result.evidence if fact.limit == limit}


# Slowly, so that it is looked at many times on the way, and no more than is needed: what no cgroup stops stays until it was seen.
EATER = "import time\nkept = []\nwhile len(kept) < 96: kept.append(bytearray(b'x') * (1 << 20)); time.sleep(0.02)\ntime.sleep(600)"


def test_memory_limit_says_what_proves_it(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"memory": "64M", "wall": 120})(EATER, shell=PYTHON)
    assert result.verdict is Verdict.MEMORY_LIMIT, (result.cause, result.stderr)
    assert (result.exit_code, result.limits_hit) == (137, ("memory",))
    found = facts(result, "memory")
    if result.usage.oom_source is not None:  # a memory cgroup
        proof = found[result.usage.oom_source]
        # On v1 the supervisor ends the run at the event, which may come before the kernel counts its kill: then the peak at the limit proves it.
        peak = found[result.usage.memory_source or ""]
        assert proof.hit or (peak.hit and peak.value == peak.bound), result.evidence
        assert result.usage.oom_source in result.cause
        assert result.usage.memory_peak_bytes is not None and result.usage.memory_peak_bytes <= 64 << 20
        assert result.usage.memory_samples == 0 or (result.usage.memory_anon_peak_bytes or 0) > 16 << 20
    else:
        assert found["sampled RSS of all processes"].hit
        assert found["sampled RSS of all processes"].value > 64 << 20


def test_memory_that_comes_at_once(make_launcher: Callable[..., Launcher]) -> None:
    """Twice the limit before anybody can look: without a cgroup the allocation is refused, and the peak of the process proves what it had."""
    program = "kept = []\nwhile True: kept.append(bytearray(b'x') * (4 << 20))"
    result = make_launcher(limits={"memory": "64M", "wall": 120})(program, shell=PYTHON)
    assert result.verdict is Verdict.MEMORY_LIMIT, (result.cause, result.stderr, result.usage)
    assert "memory" in result.limits_hit


def test_page_cache_is_not_the_programs_memory(make_launcher: Callable[..., Launcher], tmp_path: Path) -> None:
    """A file of 1 GiB read under 64 MiB: nobody is killed, and nothing says near."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    tmp_path.chmod(0o755)
    result = sandbox.run(["dd", f"if={big}", "of=/dev/null", "bs=1M"], volumes=[f"{tmp_path}:ro"], limits={"memory": "64M", "wall": 300, "cpu": 100})
    assert result.verdict is Verdict.OK, (result.cause, result.stderr)
    assert "memory" not in result.limits_hit
    assert [entry.limit for entry in result.near_limits if entry.limit == "memory"] == []


def test_loss_of_a_child_is_the_limit_too(make_launcher: Callable[..., Launcher]) -> None:
    """The first process ends with 0 although the kernel has killed its child, or the supervisor them all."""
    program = f"import os\nif not os.fork():\n exec({EATER!r})\nos.wait()\n"
    result = make_launcher(limits={"memory": "64M", "wall": 120})(program, shell=PYTHON)
    assert result.verdict is Verdict.MEMORY_LIMIT, result.cause
    assert result.exit_code == 137


def test_memory_limit_over_all_processes(make_launcher: Callable[..., Launcher]) -> None:
    program = (
        "import os, time\nfor _ in range(5):\n if not os.fork():\n  kept = bytearray(b'x') * (16 << 20); time.sleep(600)\ntime.sleep(600)\n"
    )
    result = make_launcher(limits={"memory": "48M", "wall": 120})(program, shell=PYTHON)
    assert result.verdict is Verdict.MEMORY_LIMIT, result.cause
    assert result.exit_code == 137


def test_output_limit(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"output": 100_000})("yes & yes >&2")
    assert result.verdict is Verdict.OUTPUT_LIMIT, result.cause
    assert len(result.stdout or b"") + len(result.stderr or b"") == 100_000


def test_output_up_to_the_limit_is_no_offence(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"output": 100_000})("head -c 100000 /dev/zero")
    assert (result.verdict, len(result.stdout or b"")) == (Verdict.OK, 100_000)


def test_process_limit(make_launcher: Callable[..., Launcher]) -> None:
    program = (
        "import os, signal, sys\n"
        "made = 0\n"
        "try:\n"
        " while made < 200:\n"
        "  if not os.fork(): signal.pause()\n"
        "  made += 1\n"
        "except BlockingIOError: print(made); sys.exit(9)\n"
    )
    result = make_launcher(limits={"processes": 16})(program, shell=PYTHON)
    assert result.exit_code == 9, result.stderr
    assert 12 <= int(result.stdout or b"0") <= 16
    if result.usage.process_limit_hits is None:
        assert result.verdict is Verdict.NONZERO_EXIT  # nothing counts refused forks: near is all that can be said
    else:
        assert (result.verdict, result.usage.process_limit_hits) == (Verdict.PROCESS_LIMIT, 1)


def test_file_size_limit(make_launcher: Callable[..., Launcher]) -> None:
    result = make_launcher(limits={"file-size": "1M"})("exec head -c 2M /dev/zero >/tmp/big")
    assert (result.verdict, result.signal, result.cause) == (Verdict.OUTPUT_LIMIT, 25, "SIGXFSZ: RLIMIT_FSIZE of one file")


# ---- streams -----------------------------------------------------------------------------------------------------------


def test_streams_that_close_early(launcher: Launcher) -> None:
    result = launcher("echo said; exec >&- 2>&- <&-; sleep 0.2; exit 5")
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"said\n", b"")


def test_nothing_is_lost_of_fifty_megabytes(make_launcher: Callable[..., Launcher]) -> None:
    program = (
        "import os\n"
        "block = bytes(range(256)) * 256\n"
        "for number in range(800):\n"
        " os.write(1, number.to_bytes(8, 'big')); left = memoryview(block)\n"
        " while left: left = left[os.write(1, left):]\n"
    )
    expected = hashlib.sha256()
    block = bytes(range(256)) * 256
    for number in range(800):
        expected.update(number.to_bytes(8, "big") + block)
    result = make_launcher(limits={"output": "100M"})(program, shell=PYTHON)
    assert result.verdict is Verdict.OK, result.cause
    assert len(result.stdout or b"") == 800 * (65536 + 8)
    assert hashlib.sha256(result.stdout or b"").digest() == expected.digest()
    assert result.usage.output_bytes == 800 * (65536 + 8)


def test_cli_passes_fifty_megabytes_through_a_slow_reader(sandbox_cli: Any) -> None:
    with sandbox_cli.popen("exec", "-q", "-p", "strict", "-l", "output=100M", "--", "head", "-c", "50000000", "/dev/zero") as process:
        process.stdin.close()
        got = 0
        while data := os.read(process.stdout.fileno(), 7777 if got < 1_000_000 else 1 << 20):
            assert not data.strip(b"\0")
            got += len(data)
        assert process.wait(90) == 0, process.stderr.read()
    assert got == 50_000_000


@pytest.mark.parametrize("source", ["bytes", "file", "pipe"])
def test_stdin_of_ten_megabytes(launcher: Launcher, tmp_path: Path, source: str) -> None:
    data = random.Random(1).randbytes(10_000_000)
    path = tmp_path / "input"
    path.write_bytes(data)
    if source == "bytes":
        result = launcher("exec sha256sum", stdin=data)
    elif source == "file":
        with path.open("rb") as file:
            result = launcher("exec sha256sum", stdin=file.fileno())
    else:
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as feeder:
            assert feeder.stdout is not None
            result = launcher("exec sha256sum", stdin=feeder.stdout.fileno())
    assert (result.stdout or b"").split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_binary_data_goes_both_ways(launcher: Launcher) -> None:
    data = bytes(range(256)) * 40 + random.Random(2).randbytes(1_000_000)
    result = launcher("tee /dev/stderr", stdin=data)
    assert result.stdout == data
    assert result.stderr == data


def test_stdin_that_nobody_reads(launcher: Launcher) -> None:
    assert launcher("exit 6", stdin=bytes(5_000_000)).exit_code == 6


def test_empty_stdin_is_at_its_end(launcher: Launcher) -> None:
    for nothing in (None, b""):
        assert launcher("cat; echo end", stdin=nothing).stdout == b"end\n"


def test_caller_keeps_its_input_offset_and_flags(launcher: Launcher, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"text")
    with path.open("rb") as file:
        launcher("cat", stdin=file.fileno())
        assert os.get_blocking(file.fileno())
        assert path.read_bytes() == b"text"


def test_broken_pipe_reaches_the_payload(sandbox_cli: Any) -> None:
    command = " ".join(sandbox_cli.command)
    script = f"{command} exec -q -p strict -- yes | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=300, check=True)
    assert done.stdout == b"y\n141\n", done.stderr


def test_output_written_before_a_crash_is_kept(launcher: Launcher) -> None:
    result = launcher("echo out; echo err >&2; kill -SEGV $$")
    assert (result.stdout, result.stderr, result.signal) == (b"out\n", b"err\n", 11)


# ---- the command -------------------------------------------------------------------------------------------------------


def test_many_and_long_arguments_and_variables() -> None:
    words = ["x" * 131_000, *(f"argument {number} é\n\"'$(id)" for number in range(10_000))]
    environment = {f"VARIABLE_{number}": "v" * 1000 for number in range(300)}
    result = sandbox.run(["/usr/bin/printf", "%s\\0", *words], env=environment)
    assert (result.stdout or b"").split(b"\0")[:-1] == [word.encode() for word in words]
    shown = sandbox.run(["/usr/bin/env", "-0"], env=environment)
    inside = dict(entry.split("=", 1) for entry in (shown.stdout or b"").decode().split("\0") if entry)
    assert {name: inside[name] for name in environment} == environment


def test_arguments_beyond_the_kernels_limit_are_not_executable() -> None:
    with pytest.raises(ExecuteError) as caught:
        sandbox.run(["/bin/true", "x" * 131_072])
    assert caught.value.exit_code == 126
    assert "Argument list too long (E2BIG)" in str(caught.value)


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Return a directory, readable for everybody, with commands that cannot be executed."""
    tmp_path.chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "plain").chmod(0o644)
    for name, content in (("lost", "#!/no/such/interpreter -x\n"), ("garbage", "\x7fELFnot really")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "directory").mkdir()
    return tmp_path


@pytest.mark.parametrize(("command", "code", "words"), [
    ("no-such-command", 127, ["no-such-command"]),
    ("./missing", 127, ["missing"]),
    ("/no/such/path", 127, ["run `/no/such/path`: no such file"]),
    ("./plain/beyond", 127, ["no such file"]),
    ("./plain", 126, ["plain", "hint: "]),
    ("./directory", 126, ["directory"]),
    ("./garbage", 126, ["ENOEXEC"]),
    ("./lost", 127, ["/no/such/interpreter"]),
])  # fmt: skip
def test_commands_that_cannot_run(sandbox_cli: Any, commands: Path, command: str, code: int, words: list[str]) -> None:
    done = sandbox_cli("exec", "-q", "-p", "strict", "--", command, cwd=commands)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert text.startswith("error: ")
    assert [word for word in words if word not in text] == [], text
    assert done.stdout == b""


def test_missing_interpreter_is_named(sandbox_cli: Any, commands: Path) -> None:
    done = sandbox_cli("exec", "-q", "-p", "strict", "--", "./lost", cwd=commands)
    assert done.stderr == b"error: run `/no/such/interpreter`: no such file\n  needed by `./lost`\n"


def test_same_codes_as_the_shell(commands: Path, sandbox_cli: Any) -> None:
    """What `sh -c COMMAND` answers for a command that is missing or may not be executed is what we answer."""
    for command in ("./missing", "./plain", "./directory", "no-such-command"):
        shell = subprocess.run(["sh", "-c", command], cwd=commands, stderr=subprocess.DEVNULL, check=False, timeout=60)
        ours = sandbox_cli("exec", "-q", "-p", "strict", "--", command, cwd=commands)
        assert ours.returncode == shell.returncode, command


def test_a_cgroup_that_cannot_be_removed_leaves_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a long-lived caller would be listed for ever, and its descriptors stay."""
    from sandbox.cgroup.find import find_backend
    from sandbox.cgroup.run import RunBase

    if find_backend() is None:
        pytest.skip("no place for cgroups here")

    def run() -> sandbox.Result:
        return sandbox.run(["true"], profile="strict", limits={"memory": "64M", "wall": 10})

    run()
    close = RunBase.close

    def refuse(self: RunBase) -> None:
        close(self)
        raise SetupError("rmdir", 16, step="cgroup")

    monkeypatch.setattr(RunBase, "close", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SetupError, match="rmdir"):
        run()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not [one for one in sandbox.running() if one.pid == os.getpid()]
