"""What a `Sandbox` keeps between runs: every tier does all that a run can do, nothing of one run meets the next, and nothing is left whoever dies when."""

from __future__ import annotations

import glob
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kernel.running import DEADLINE_S, eventually, stands_still
from kernel.test_running_crashes import removed
from kernel.tiers import TIERS, is_of, only_tier

import sandbox
from sandbox import PIPE, Sandbox
from sandbox.api import prepare as preparing
from sandbox.api import recipe, resident
from sandbox.api.house import SLOTS, House
from sandbox.audit.sinks import MemorySink
from sandbox.cgroup.find import find_backend
from sandbox.cgroup.run import RunBase
from sandbox.launch.resident import Server, ServerGoneError

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

ROOT = Path(__file__).resolve().parents[2]
SPIN = ["sh", "-c", "echo started; while :; do :; done"]


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    only_tier(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def box(tier: str) -> Iterator[Sandbox]:
    with Sandbox(limits={"wall": "300s"}) as made:
        yield made


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Return a Sandbox whose runs are from a template."""
    only_tier("template", monkeypatch)
    with Sandbox(limits={"wall": "300s"}) as made:
        yield made


def house(box: Sandbox) -> House:
    """Return the server of a Sandbox that has one."""
    assert box._launcher is not None
    (only,) = box._launcher._houses
    return only


def server_pid(box: Sandbox) -> int:
    server = house(box).server
    assert server is not None
    return server.pid


# ---- every tier does everything ------------------------------------------------------------------------------------------------


def test_a_result_names_its_tier(box: Sandbox, tier: str) -> None:
    assert [box.run(["true"]).launched for _ in range(3)] == [tier] * 3
    assert sandbox.run(["true"]).launched == "spawned"


def test_descriptors_do_not_add_up(box: Sandbox) -> None:
    """What is closed later is closed by the next run, in every tier."""

    def count() -> int:
        for _ in range(12):
            assert box.run(["true"]).ok
        box.warm()
        return len(os.listdir("/proc/self/fd"))

    first = count()
    # A run's own may be closed a moment later, and two that wait have four more once their reports are read.
    assert max(count() for _ in range(3)) <= first + 6 + 8


def test_a_command_line_of_its_own_each_time(box: Sandbox) -> None:
    """What is kept for a command is kept for its first word; each run gets its own words, files and variables."""
    script = 'printf "%s|" "$@"; cat given; printf "$V"'
    for number in range(6):
        words = [f"word {number}", "", "\u00e9" * number]
        result = box.run(["sh", "-c", script, "sh", *words], files={"given": f"file {number}"}, env={"V": "v"})
        assert (result.stdout or b"").decode() == "".join(f"{word}|" for word in words) + f"file {number}v"
        assert box.run(["sh", "-c", f"exit {number}"]).exit_code == number
    with pytest.raises(sandbox.SandboxError, match="Argument list too long"):
        box.run(["sh", "-c", "true", *["x" * 100_000] * 40])
    with pytest.raises(sandbox.SandboxError, match="/dev/null"):
        box.run(["/dev/null"])


def test_without_a_server_on_request() -> None:
    with Sandbox(resident=False) as box:
        assert box.run(["true"]).launched == "spawned"


@pytest.mark.parametrize("backend", ["backend", "fallback"])
def test_verdicts(tier: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "fallback":
        monkeypatch.setattr(preparing, "find_backend", lambda: None)
    with Sandbox(limits={"wall": 120, "cpu": 60, "memory": "48M", "processes": 8, "output": "1M"}) as box:
        assert box.run(["sh", "-c", "exit 3"]).exit_code == 3
        assert box.run(["sh", "-c", "kill -SEGV $$"]).signal == signal.SIGSEGV
        assert box.run(SPIN, timeout=0.2).verdict == "wall-limit"
        spent = box.run(SPIN, limits={"cpu": 0.2})
        assert spent.verdict == "cpu-limit" and 0.2e9 < spent.usage.cpu_ns < 2e9
        assert box.run(["sleep", "600"], limits={"idle": 0.2}).verdict == "idle-limit"
        assert box.run(["sh", "-c", "yes"]).verdict == "output-limit"
        # It waits: without a cgroup memory is sampled, and what has ended before a look was seen by nobody.
        hungry = f"x = bytearray(90 << 20); print(len(x), {os.getpid()}, flush=True); import time; time.sleep(600)"
        assert box.run([sys.executable, "-I", "-S", "-c", hungry]).verdict == "memory-limit"
        forks = box.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done; wait"])
        assert forks.verdict in ("process-limit", "nonzero-exit") and b"fork" in (forks.stderr or b"")
        after = box.run(["sh", "-c", "echo fine"])
        assert after.ok and after.stdout == b"fine\n" and is_of(tier, after.launched)
        assert after.usage.cpu_ns < 1e9 and not after.limits_hit, "nothing of the runs before it"


def test_denials_are_recorded_with_their_run(tier: str) -> None:
    sink = MemorySink()
    with Sandbox(audit=sink) as box:
        results = [box.run([sys.executable, "-I", "-S", "-c", "import socket; socket.socket()"]) for _ in range(2)]
    assert all(result.denials.get("socket") for result in results)
    assert {getattr(event, "run", None) for event in sink.events} == {result.run_id for result in results}


def test_the_callers_resource_limits_count_from_the_next_run_on(tier: str) -> None:
    """As with any child: a server has those of when it was started. Those that no profile sets are inherited, and a hard limit binds what it sets."""
    program = (
        "import resource, sys\n"
        "from sandbox import Sandbox\n"
        "from kernel.tiers import only_tier\n"
        "import pytest\n"
        "only_tier(sys.argv[1], pytest.MonkeyPatch())\n"
        "with Sandbox() as box:\n"
        "    look = lambda: (box.run(['sh', '-c', 'ulimit -v; ulimit -n']).stdout.split(), box.run(['true']).launched)\n"
        "    print(*look())\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (250, 250))\n"
        "    print(*look())\n"
    )
    found = subprocess.run([sys.executable, "-c", program, tier], cwd=ROOT / "tests", env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                           capture_output=True, text=True, check=False)  # fmt: skip
    before, after = found.stdout.splitlines()
    assert before.startswith("[b'unlimited', ") and is_of(tier, before.rpartition(" ")[2]), found.stderr
    assert after.startswith(f"[b'{5 << 20}', b'250'] ") and is_of(tier, after.rpartition(" ")[2]), found.stderr


def test_what_hides_a_socket_outlives_its_replacement(tier: str, tmp_path: Path) -> None:
    """A daemon of the host starts again: its socket is another file under the same name, and the kernel drops what was mounted on the one before."""
    tmp_path.chmod(0o755)

    def look() -> tuple[str, bytes | None]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "bus"))
            result = box.run(["stat", "-c", "%F", "/data/bus"])
        (tmp_path / "bus").unlink()
        box._recipes.forget()
        return result.launched, result.stdout

    with Sandbox(volumes=[f"{tmp_path}:/data"]) as box:
        # What waits would be without that mount, so no sandbox with one waits.
        assert [look() for _ in range(3)] == [("template" if tier == "pool" else tier, b"character special file\n")] * 3


def test_what_cannot_be_executed(box: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "bad").write_text("#!/nonexistent/interpreter\n")
    (tmp_path / "bad").chmod(0o755)
    for _ in range(2):
        with pytest.raises(sandbox.SandboxError) as caught:
            box.run(["/data/bad"], volumes=[f"{tmp_path}:/data"])
        assert caught.value.exit_code == 127
    assert box.run(["true"]).ok


def test_found_paused_looked_at_and_killed(box: Sandbox, tier: str, find_processes: Any) -> None:
    marker = f"spinner-{os.getpid()}"
    with box.popen([*SPIN, marker], name="mine") as process:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        (run,) = [run for run in sandbox.running() if run.name == "mine"]
        assert run.run_id == process.run_id and run.argv == (*SPIN, marker) and run.pid == os.getpid()
        assert run.stats().state == "running" and run.stats().processes == 1
        spinners = find_processes(marker)
        assert len(spinners) == 1
        run.pause()
        eventually(lambda: stands_still(spinners), "it is stopped, or frozen a moment later")
        first = run.stats()
        select.select([], [], [], 0.05)
        assert first.state == "paused" and run.stats().cpu_ns == first.cpu_ns
        run.resume()
        assert run.stats().state == "running"
        run.signal(signal.SIGUSR1)
        result = process.wait(30)
        assert result.signal == signal.SIGUSR1 and result.usage.paused_ns > 0
    with pytest.raises(sandbox.RunGone):
        run.stats()
    with box.popen(SPIN, name="mine") as process:
        (again,) = [run for run in sandbox.running() if run.name == "mine"]
        assert again.kill() is True
        result = process.wait(30)
        assert result.verdict == "signaled" and result.cause.startswith("killed by `sandbox kill`") and is_of(tier, result.launched)
    assert not [run for run in sandbox.running() if run.name == "mine"]


def test_figures_are_of_this_run_alone(box: Sandbox) -> None:
    burn = box.run([sys.executable, "-I", "-S", "-c", "import time\nwhile time.process_time() < 0.3: pass"])
    idle = box.run(["true"])
    assert 0.29e9 < burn.usage.cpu_ns < 1e9 and idle.usage.cpu_ns < 0.1e9
    assert (idle.usage.memory_peak_bytes or 0) < 32 << 20
    assert idle.usage.wall_ns < burn.usage.wall_ns


def test_fifty_threads(box: Sandbox, tier: str) -> None:
    """More runs at once than one server has slots; each has its own output, and every server is used."""

    def one(number: int) -> tuple[int, sandbox.Result]:
        return number, box.run(["cat"], stdin=f"{number}")

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(one, range(150)))
    assert all(result.stdout == str(number).encode() and is_of(tier, result.launched) for number, result in results)
    assert len({result.run_id for _, result in results}) == 150


def test_more_at_once_than_a_server_has_slots(served: Sandbox) -> None:
    processes = [served.popen(["cat"], stdin=PIPE) for _ in range(SLOTS + 3)]
    assert served._launcher is not None
    assert sorted(each.running for each in served._launcher._houses) == [3, SLOTS]
    assert len([run for run in sandbox.running() if run.pid == os.getpid()]) == SLOTS + 3
    for number, process in enumerate(processes):
        assert process.communicate(f"{number}")[0] == str(number).encode()
        assert process.wait().launched == "template"


def test_a_template_is_built_for_what_is_asked_for_again(tmp_path: Path) -> None:
    """Who shares another directory with each run has none built for each; the first of all is built at once."""
    tmp_path.chmod(0o755)
    anew = "spawned" if os.geteuid() == 0 else "anew"
    with Sandbox() as box:
        assert box.run(["true"]).launched == "template" and box._launcher is not None
        for number in range(3):
            (tmp_path / f"{number}").mkdir()
            assert box.run(["true"], volumes=[f"{tmp_path}/{number}:/data"]).launched == anew
        assert len(box._launcher._houses) == 1 + (anew == "anew")
        assert box.run(["true"], volumes=[f"{tmp_path}/1:/data"]).launched == "template"
        assert box.run(["true"], volumes=[f"{tmp_path}/1:/data"]).launched == "template"


def test_a_run_that_no_server_can_do_is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "template_refusal", lambda request: "no")
    monkeypatch.setattr(resident, "anew_refusal", lambda request: "no")
    with Sandbox() as box:
        assert box.run(["true"]).launched == "spawned" and not box._launcher._houses  # type: ignore[union-attr]


def test_a_server_that_cannot_be_started_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    monkeypatch.setattr(resident, "_AGAIN_NS", 3600 * 10**9)

    def refuse(*args: object, **options: object) -> None:
        tries.append(args)
        raise sandbox.SandboxError("start the server: no")

    monkeypatch.setattr(Server, "start", refuse)
    with Sandbox() as box:
        for _ in range(3):
            result = box.run(["true"])
            assert result.ok and result.launched == "spawned" and "started without a server: start the server: no" in result.notes
    assert len(tries) == 1, "not for every run"


# ---- nothing of one run meets the next -----------------------------------------------------------------------------------------


def test_a_directory_in_the_place_of_a_shared_one_is_seen(tmp_path: Path) -> None:
    """A server's root has what was there when it was built; another directory under that name needs another server."""
    tmp_path.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    with Sandbox(volumes=[f"{data}:/data"]) as box:
        assert box.run(["ls", "/data"]).stdout == b""
        data.rename(tmp_path / "before")
        data.mkdir()
        (data / "new").touch()
        assert box.run(["ls", "/data"]).stdout == b"new\n"


def test_a_cgroup_is_used_once(served: Sandbox) -> None:
    """Its directory is another one for each run, with counters that begin at zero; and the one that waits has had no process."""
    if find_backend() is None:
        pytest.skip("no cgroups here")
    served.run(["sh", "-c", "head -c 8000000 /dev/zero > /tmp/x; :"])
    (slot,) = [slot for slot in house(served).slots if slot._ahead is not None]
    assert slot._ahead is not None
    waiting = slot._ahead[2]
    inodes = [os.fstat(fd).st_ino for fd in waiting.directories]
    assert waiting.cpu_ns() == 0 and (waiting.usage().memory_peak_bytes or 0) == 0
    seen: list[tuple[int, int]] = []
    with served.popen(["cat"], stdin=PIPE) as process:
        assert slot._current is not None and slot._current[0] is waiting
        (run,) = [run for run in sandbox.running() if run.run_id == process.run_id]
        seen.append((run.stats().cpu_ns or 0, run.stats().processes or 0))
        process.communicate(b"")
    assert seen[0][1] == 1
    assert slot._ahead is not None and [os.fstat(fd).st_ino for fd in slot._ahead[2].directories] != inodes


def test_a_cgroup_that_was_used_would_tell_of_the_last_run(served: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the removal taken out, so that a directory is found and used again: the next run's figures are the last one's."""
    backend = find_backend()
    if backend is None or backend.name != "cgroup1":
        pytest.skip("no cgroup1 here")
    assert (served.run(["true"]).usage.memory_peak_bytes or 0) < 16 << 20
    real = RunBase._make_one
    with monkeypatch.context() as patch:
        patch.setattr(RunBase, "remove", lambda self: None)
        patch.setattr(RunBase, "_make_one", staticmethod(lambda node, *, exist_ok: real(node, exist_ok=True)))
        (name,) = [slot.name for slot in house(served).slots if slot.entry is not None]
        for slot in house(served).slots:
            slot._free = slot._free[:1]  # one of three names, and the one that is made ahead
        served.run(["sh", "-c", "head -c 40000000 /dev/zero > /tmp/x"])
        peaks = [served.run(["true"]).usage.memory_peak_bytes or 0 for _ in range(4)]
        assert max(peaks) > 40_000_000
    served.close()
    for path in glob.glob(f"/sys/fs/cgroup/*/sandbox-{name}.*"):
        eventually(lambda path=path: removed(path), "its last process is gone")  # type: ignore[misc]


def test_a_run_with_other_limits_has_a_cgroup_of_its_own_limits(served: Sandbox) -> None:
    if find_backend() is None:
        pytest.skip("no cgroups here")
    for _ in range(2):
        served.run(["true"], limits={"memory": "200M"})
    hungry = "x = bytearray(90 << 20); print(len(x))"
    result = served.run([sys.executable, "-I", "-S", "-c", hungry], limits={"memory": "40M"})
    assert result.verdict == "memory-limit" and result.launched == "template"
    assert served.run([sys.executable, "-I", "-S", "-c", hungry], limits={"memory": "200M"}).ok


def test_cgroups_are_not_made_ahead_where_the_profile_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if find_backend() is None:
        pytest.skip("no cgroups here")
    profile = tmp_path / "p.toml"
    profile.write_text('description = "p"\nextends = "strict"\n[launch]\ncgroups-ahead = false\n')
    with Sandbox(str(profile)) as box:
        assert [box.run(["true"]).ok for _ in range(3)] == [True] * 3
        assert all(slot._ahead is None for slot in house(box).slots)


def test_a_request_for_one_run_never_reaches_the_next(served: Sandbox) -> None:
    """The handle of a run that is over, used while the next one is in its slot; and a call that was on its way when the first ended."""
    with served.popen(["cat"], stdin=PIPE) as first:
        (old,) = [run for run in sandbox.running() if run.run_id == first.run_id]
        line = old._call()
        connected = line.__enter__()
        first.communicate(b"")
    with served.popen(["cat"], stdin=PIPE) as second:
        (new,) = [run for run in sandbox.running() if run.run_id == second.run_id]
        assert new._facts.slot == old._facts.slot and new._facts.turn > old._facts.turn
        with pytest.raises(sandbox.RunGone):
            old.signal(signal.SIGKILL)
        assert old.kill() is True, "it has ended"
        connected.send("kill")
        assert connected.receive() == ""
        line.__exit__(None, None, None)
        assert second.communicate(b"alive")[0] == b"alive" and second.wait().ok


def test_a_directory_that_takes_anothers_place_is_in_the_next_root(served: Sandbox, tmp_path: Path) -> None:
    """A template is as old as its first run: what is another directory or file now makes another one, and the old one goes."""
    tmp_path.chmod(0o755)
    shared, file = tmp_path / "a b", tmp_path / "file"
    for number in range(3):
        shared.mkdir()
        (shared / "number").write_text(f"{number}")
        file.write_text(f"file {number}")
        for _ in range(2):
            result = served.run(["cat", "/data/number", "/file"], volumes=[f"{shared}:/data", f"{file}:/file"])
            assert result.stdout == f"{number}file {number}".encode() and result.launched == "template"
        assert served._launcher is not None and len(served._launcher._houses) == 1
        shared.rename(tmp_path / f"old {number}")
        file.rename(tmp_path / f"old file {number}")


def test_a_mount_that_was_not_there_is_in_the_next_root(served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    tmp_path.chmod(0o755)
    point = tmp_path / "a b"
    point.mkdir()
    monkeypatch.setattr(recipe, "AGE_NS", 0)
    command, volumes = ["ls", "/data/a b"], [f"{tmp_path}:/data"]
    assert served.run(command, volumes=volumes).stdout == b""
    subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], check=True)
    try:
        (point / "new").touch()
        assert served.run(command, volumes=volumes).stdout == b"new\n"
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)
    assert served.run(command, volumes=volumes).stdout == b""


# ---- whoever dies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["anew", "template"], indirect=True)
def test_a_killed_server_ends_its_runs_with_an_error_and_another_is_started(box: Sandbox, tier: str, find_processes: Any) -> None:
    marker = f"server-{os.getpid()}-{tier}"
    with box.popen(["sh", "-c", "echo started; sleep 600 & exec sleep 600", marker]) as process:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        os.kill(server_pid(box), signal.SIGKILL)
        with pytest.raises(sandbox.SetupError, match="the server died"):
            process.wait(30)
    eventually(lambda: find_processes(marker) == {}, "every process is gone")
    assert is_of(tier, box.run(["true"]).launched)


def test_a_server_that_dies_between_the_look_and_the_request(served: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.run(["true"]).ok
    real, calls = Server.launch, []

    def launch(server: Any, *args: Any, **options: Any) -> None:
        calls.append(server)
        if len(calls) == 1:
            os.kill(server.pid, signal.SIGKILL)
            select.select([server.pidfd], [], [], 30)
        real(server, *args, **options)

    monkeypatch.setattr(Server, "launch", launch)
    assert served.run(["cat"], stdin=b"x").stdout == b"x"
    assert len(calls) == 2 and calls[0] is not calls[1]
    assert issubclass(ServerGoneError, sandbox.SandboxError)


def test_servers_killed_at_random_moments(served: Sandbox, find_processes: Any) -> None:
    """While four threads run as fast as they can: each run has its result or an error, none hangs, and nothing is left."""
    chance, over = random.Random(5), threading.Event()
    marker = f"random-{os.getpid()}"
    outcomes: list[str] = []

    def work(number: int) -> None:
        while not over.is_set():
            try:
                result = served.run(["sh", "-c", f"echo {number}", marker])
                outcomes.append("ok" if result.stdout == f"{number}\n".encode() else f"{result!r}")
            except sandbox.SandboxError as error:
                outcomes.append(str(error))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(12):
        done = outcomes.count("ok")
        eventually(lambda done=done: outcomes.count("ok") > done, "they go on")  # type: ignore[misc]
        select.select([], [], [], chance.uniform(0, 0.12))
        assert served._launcher is not None
        for each in list(served._launcher._houses):
            server = each.server
            if server is not None:
                try:
                    os.kill(server.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
    over.set()
    for worker in workers:
        worker.join(DEADLINE_S)
        assert not worker.is_alive()
    strange = [text for text in outcomes if text != "ok" and "server" not in text]
    assert not strange, strange[:3]
    eventually(lambda: find_processes(marker) == {}, "every process is gone")
    assert served.run(["true"]).ok


def start_client(program: str, **environ: str) -> subprocess.Popen[bytes]:
    """Start a Python program that uses this checkout and prints a line when it is at work."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environ}
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"at work\n"
    return process


WORK = (
    "import os, sys, threading\nfrom sandbox import Sandbox\nbox = Sandbox(limits={'wall': 300})\nbox.run(['true'])\n"
    "kept = box.popen(['sleep', '600', MARKER])\n"
    "def work():\n while True: box.run(['sh', '-c', 'sleep 0.01', MARKER])\n"
    "for _ in range(3): threading.Thread(target=work, daemon=True).start()\n"
    "print('at work', flush=True)\nsys.stdin.read()\n"
)


@pytest.mark.orphans
@pytest.mark.parametrize("part", range(3))
def test_clients_killed_at_random_moments(part: int, find_processes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The keeper ends the server and its runs, and removes cgroups and entries that any of its slots may have had."""
    directory = tmp_path / "entries"
    monkeypatch.setenv("SANDBOX_RUNTIME_DIR", str(directory))
    chance = random.Random(part)
    marker = f"client-{os.getpid()}-{part}"
    for _ in range(4):
        client = start_client(WORK.replace("MARKER", repr(marker)))
        select.select([], [], [], chance.uniform(0, 0.15))
        client.kill()
        client.communicate(timeout=DEADLINE_S)
        eventually(lambda: find_processes(marker) == {}, "every process is gone")
        eventually(lambda: os.listdir(directory) == [], "every entry is gone")


@pytest.mark.orphans
@pytest.mark.parametrize("how", ["leave", "exit", "raise", "garbage"])
def test_a_client_that_does_not_close(how: str, find_processes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The interpreter ends, or the object is lost, with a run going on: nothing is left, and nothing holds the end up."""
    directory = tmp_path / "entries"
    monkeypatch.setenv("SANDBOX_RUNTIME_DIR", str(directory))
    marker = f"unclosed-{os.getpid()}-{how}"
    ends = {
        "leave": "",
        "exit": "os._exit(0)",
        "raise": "raise SystemExit(3)",
        "garbage": "del box, kept, work; import gc; gc.collect(); sys.stdin.readline()",
    }
    program = WORK.replace("MARKER", repr(marker)).replace("for _ in range(3)", "for _ in range(0)")
    client = start_client(program.replace("sys.stdin.read()", "sys.stdin.readline()\n" + ends[how]))
    assert client.stdin is not None
    client.stdin.write(b"go\n")
    client.stdin.flush()
    if how == "garbage":
        eventually(lambda: set(find_processes(marker)) == {client.pid}, "every process is gone while the client lives")
        eventually(lambda: os.listdir(directory) == [], "every entry is gone")
        assert client.poll() is None
    client.communicate(timeout=DEADLINE_S)
    eventually(lambda: find_processes(marker) == {}, "every process is gone")
    eventually(lambda: os.listdir(directory) == [], "every entry is gone")


FORK = """
import multiprocessing, os, sys
from sandbox import Sandbox
box = Sandbox(limits={'wall': 300})
first = box.run(['true'])
def child(connection):
    results = [box.run(['echo', str(os.getpid())]) for _ in range(3)]
    connection.send([(result.stdout, result.launched, box._launcher._houses[0].server.pid) for result in results])
box_pid = box._launcher._houses[0].server.pid
context = multiprocessing.get_context('fork')
ours, theirs = context.Pipe()
process = context.Process(target=child, args=(theirs,))
process.start()
found = ours.recv()
process.join()
assert process.exitcode == 0
assert all(out == f'{process.pid}\\n'.encode() and launched == first.launched for out, launched, _ in found), found
assert {pid for _, _, pid in found} != {box_pid}
assert box.run(['true']).launched == first.launched and box._launcher._houses[0].server.pid == box_pid
box.close()
print('at work', flush=True)
sys.stdin.read()
"""


@pytest.mark.orphans
def test_a_forked_child_has_a_server_of_its_own(find_processes: Any) -> None:
    client = start_client(FORK)
    client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0


FORK_WITH_A_RUN = """
import os, signal
from sandbox import PIPE, Sandbox, SandboxError
box = Sandbox(limits={'wall': 300})
run = box.popen(['sh', '-c', 'read word; echo $word'], stdin=PIPE)
pid = os.fork()
if not pid:
    signal.alarm(90)
    run.kill()
    try:
        run.wait()
    except SandboxError as error:
        assert str(os.getppid()) in str(error)
        box.close()
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert run.communicate(b'alive\\n')[0] == b'alive\\n' and run.wait().ok
box.close()
print('at work', flush=True)
"""


@pytest.mark.orphans
def test_a_forked_child_neither_ends_nor_waits_for_a_run_of_its_parents() -> None:
    """The thread that would tell of the end is not there: `Sandbox.close` in a child would wait for ever."""
    client = start_client(FORK_WITH_A_RUN)
    client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0


FORK_IN_BETWEEN = """
import os, signal
from sandbox import Sandbox
box = Sandbox(limits={'wall': 300})
box.run(['true'])
kept = next(iter(box._recipes._kept.values())).call.prepared.kept
with box._lock, box._recipes._lock, kept._lock:
    pid = os.fork()
    if not pid:
        signal.alarm(90)
        assert box.run(['echo', 'child']).stdout == b'child\\n'
        box.close()
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
box.close()
print('at work', flush=True)
"""


@pytest.mark.orphans
def test_a_fork_in_the_middle_of_what_another_thread_does() -> None:
    """The locks that a thread holds at that moment are held in the child by nobody who would let go."""
    client = start_client(FORK_IN_BETWEEN)
    client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0


INTERRUPTS = """
import random, signal, sys, time
from sandbox import Sandbox
box = Sandbox(limits={'wall': 300})
box.run(['true'])
signal.signal(signal.SIGALRM, signal.default_int_handler)
chance, hits = random.Random(3), 0
for _ in range(60):
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.01))
    try:
        box.run(['sh', '-c', 'sleep 600', MARKER], timeout=5)
    except KeyboardInterrupt:
        hits += 1
signal.setitimer(signal.ITIMER_REAL, 0)
result = box.run(['true'])
(house,) = box._launcher._houses
print('at work', flush=True)
sys.stdin.readline()
print(hits, result.launched, house.running, len(house.free), flush=True)
"""


def test_interrupts_leave_nothing(find_processes: Any) -> None:
    """KeyboardInterrupt at any moment of a run: it is gone when the exception arrives, no slot is lost, and the next run is none the worse.

    In a process of its own: such an exception can come between the making of any descriptor and its place, which then lives until the process ends.
    """
    marker = f"interrupt-{os.getpid()}"
    client = start_client(INTERRUPTS.replace("MARKER", repr(marker)))
    assert set(find_processes(marker)) == {client.pid}
    out, _ = client.communicate(b"go\n", timeout=DEADLINE_S)
    assert out == f"60 template 0 {SLOTS}\n".encode()
    # CPython ends by SIGINT where such an exception has passed through exec() of a text, though it was caught (Python/pythonrun.c, run_eval_code_obj).
    assert client.returncode in (0, -signal.SIGINT)
