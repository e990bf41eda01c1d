"""Sandboxes made ahead: a run takes one only when it is what the run would have got, and nobody notices that it waited."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kernel.running import children_of, eventually

import sandbox
from sandbox import PIPE, PoolStats, Sandbox
from sandbox.api.pool_ahead import Ahead, parse_ahead
from sandbox.api.waiting import Waiting

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
ORDINARY = os.geteuid() != 0


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """Return a Sandbox with two sandboxes ahead, and see that its end leaves no descriptor."""
    sandbox.run(["true"])
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    with Sandbox(pool=2) as made:
        yield made
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


def stats(box: Sandbox) -> PoolStats:
    box.warm()
    found = box.stats().pool
    assert found is not None
    return found


def waiting(box: Sandbox) -> list[Waiting]:
    box.warm()  # what the last run took is made by a thread
    assert box._launcher is not None
    assert box._launcher.pool is not None
    return list(box._launcher.pool.waiting)


def processes(one: Waiting) -> list[int]:
    """Return init and payload of one that waits, once its payload is confined. Root's waits for its cgroups, and has no payload yet: init twice."""
    server = one.house.server
    assert server is not None
    found: list[int] = []

    def waits() -> bool:
        for init in children_of(server.pid):
            if one.moved:
                found[:] = [init, init]
            for payload in children_of(init):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if "Seccomp:\t2" in Path(f"/proc/{payload}/status").read_text():
                        found[:] = [init, payload]
        return bool(found)

    eventually(waits, "somebody waits")
    return found


@pytest.mark.parametrize(("ahead", "argv"), [({"pool": 1}, ["stat", "-c", "%F"]), ({"python": True}, [
    "python3", "-c", "import os, stat, sys; print('character special file' if stat.S_ISCHR(os.stat(sys.argv[1]).st_mode) else 'socket')",
])])  # fmt: skip
def test_what_hides_a_socket_does_not_wait(ahead: dict[str, Any], argv: list[str], tmp_path: Path) -> None:
    """The kernel drops what is mounted on a file that the host replaces: of one that waits the next run would see a daemon's new socket."""
    tmp_path.chmod(0o755)
    seen = []
    with Sandbox("python", volumes=[f"{tmp_path}:/data"], **ahead) as box:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / "bus"))
                box._recipes.forget()
                result = box.run([*argv, "/data/bus"])
                box.warm()
            seen.append((result.launched not in ("pool", "interpreter"), result.stdout))
            (tmp_path / "bus").unlink()
    assert seen == [(True, b"character special file\n")] * 3


# ---- what is asked for -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"), [(None, None), (0, None), (3, Ahead(size=3)), ({"size": 2, "max_age": 5}, Ahead(size=2, max_age=5)), (Ahead(size=1), Ahead(size=1))]
)
def test_settings(given: Any, wanted: Ahead | None) -> None:
    assert parse_ahead(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (-1, "size must be a number from 1 to 256, not -1"),
        (257, "not 257"),
        (True, "size must be a number from 1 to 256, not True"),
        ({"size": 2, "colour": 1}, "unknown key `colour`"),
        ({}, "`size` is missing"),
        ({"size": "2"}, "not '2'"),
        ({"size": 2, "max_age": 0}, "max_age must be a positive number of seconds, not 0"),
    ],
)
def test_wrong_settings(given: Any, message: str) -> None:
    with pytest.raises(sandbox.PolicyError) as caught:
        parse_ahead(given)
    assert message in str(caught.value)


def test_a_pool_needs_a_server() -> None:
    with pytest.raises(sandbox.PolicyError, match="a pool needs a server"):
        Sandbox(pool=2, resident=False)


# ---- a run from the pool ---------------------------------------------------------------------------------------------------


def test_command_variables_input_and_result(box: Sandbox) -> None:
    for number in range(5):
        result = box.run(["sh", "-c", "cat; echo $MINE $# $1 >&2; exit 3", "x", str(number)], stdin=f"in {number}", env={"MINE": "yes"})
        assert (result.stdout, result.stderr, result.exit_code) == (f"in {number}".encode(), f"yes 1 {number}\n".encode(), 3)
        assert result.launched == "pool"
    assert (stats(box).hits, stats(box).misses, stats(box).waiting, stats(box).built) == (5, 0, 2, 7)


def test_a_result_like_any_other(box: Sandbox) -> None:
    """Everything that is said of a run but where it came from."""
    with Sandbox() as other:
        one, two = box.run(["id"]), other.run(["id"])
    assert (one.launched, two.launched) == ("pool", "template")
    for name in ("verdict", "exit_code", "stdout", "stderr", "profile_digest", "policy_digest", "notes", "denials"):
        assert getattr(one, name) == getattr(two, name), name
    assert [each.what for each in one.enforced] == [each.what for each in two.enforced]


def test_long_command_lines_and_variables(box: Sandbox) -> None:
    long = "x" * 100_000
    result = box.run(["sh", "-c", "echo ${#1} ${#BIG}", "-", long], env={"BIG": "y" * 50_000})
    assert (result.stdout, result.launched) == (b"100000 50000\n", "pool")
    result = box.run(["sh", "-c", "echo ${#1} ${#2} ${#3}", "-", long, long, long])
    assert (result.stdout, result.launched) == (b"100000 100000 100000\n", "template")


def test_a_command_that_cannot_be_executed(box: Sandbox) -> None:
    with pytest.raises(sandbox.ExecuteError) as caught:
        box.run(["./broken"], files={"broken": "#!/no/such/interpreter\n"})
    assert caught.value.exit_code == 127 or caught.value.exit_code == 126
    assert box.run(["true"]).launched == "pool"


@pytest.mark.skipif(not ORDINARY, reason="root has no id in the payload's tmpfs: runs with files are from a template")
def test_files_of_one_run(box: Sandbox) -> None:
    files = {"a/b/c.txt": b"deep", "run.sh": "#!/bin/sh\ncat a/b/c.txt; stat -c '%a %U %s' run.sh a a/b a/b/c.txt", "big": bytes(100_000)}
    umask = os.umask(0o077)
    try:
        result = box.run(["./run.sh"], files=files, collect=["**/*"])
    finally:
        os.umask(umask)
    assert result.launched == "pool"
    assert (result.stdout or b"").split() == b"deep755 user 66 755 user 60 755 user 60 644 user 4".split()
    assert result.files["big"] == files["big"]
    with Sandbox() as other:
        assert other.run(["./run.sh"], files=files).stdout == result.stdout
    assert box.run(["ls", "-A"]).stdout == b""


def test_limits_begin_at_the_command() -> None:
    with Sandbox(pool=2, limits={"wall": "3s", "cpu": "1s"}) as box:
        for one in waiting(box):
            processes(one)
        select_for(3.5)  # longer than the limits, and init's own deadline would be running
        result = box.run(["sh", "-c", "echo on"])
        assert (result.stdout, result.verdict, result.launched) == (b"on\n", "ok", "pool")
        assert result.usage.wall_ns < 3_000_000_000
        assert result.usage.cpu_ns < 200_000_000
        late = box.run(["sleep", "600"])
        assert (late.verdict, late.launched) == ("wall-limit", "pool")


def select_for(seconds: float) -> None:
    """Let time pass, which is what is tested."""
    import select

    select.select([], [], [], seconds)


def test_inits_own_deadline_begins_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still while the sandbox waits, and goes on to be the second line of defence."""
    from sandbox.plan import build

    monkeypatch.setattr(build, "INIT_GRACE_NS", 200_000_000)
    with Sandbox(pool=1, limits={"wall": "300ms"}) as box:
        select_for(1.0)
        assert box.run(["true"]).launched == "pool"


def test_streams_of_a_process(box: Sandbox) -> None:
    with box.popen(["cat"], stdin=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.wait(20).launched == "pool"
    big = os.urandom(1 << 20)
    assert box.run(["cat"], stdin=big).stdout == big


# ---- who gets one ----------------------------------------------------------------------------------------------------------


def test_a_run_that_would_have_got_another_sandbox_gets_it(box: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "here").touch()
    for options in ({"limits": {"memory": "64M"}}, {"limits": {"open-files": 32}}, {"volumes": [f"{tmp_path}:/data"]}):
        first = box.run(["sh", "-c", "ulimit -n; ls /data 2>/dev/null; :"], **options)  # type: ignore[arg-type]
        assert first.launched != "pool", options
        again = box.run(["sh", "-c", "ulimit -n; ls /data 2>/dev/null; :"], **options)  # type: ignore[arg-type]
        assert again.stdout == first.stdout
    assert stats(box).discarded >= 1


def test_a_changed_policy_or_profile_is_not_met_by_an_old_sandbox(tmp_path: Path) -> None:
    policy, profile = tmp_path / "rules.toml", tmp_path / "mine.toml"
    head = 'name = "rules"\ndescription = "of a test"\nextends = ["strict"]\n'
    policy.write_text(head)
    profile.write_text(f'extends = "strict"\npolicy = "{policy}"\n')
    probe = [sys.executable, "-I", "-S", "-c", "import os\ntry: print(os.getpriority(0, 0))\nexcept OSError as e: print(e.errno)"]
    with Sandbox(str(profile), pool=2) as box:
        assert [box.run(probe).stdout for _ in range(2)].count(b"52\n") == 0
        assert box.run(probe).launched == "pool"
        policy.write_text(head + '[[rule]]\nsyscalls = ["getpriority"]\naction = "errno EBADE"\nreason = "test"\n')
        assert box.run(probe).stdout == b"52\n"


def test_a_sandbox_that_is_too_old_is_not_used() -> None:
    with Sandbox(pool={"size": 1, "max_age": 100}) as box:
        (one,) = waiting(box)
        one.made_ns -= 101_000_000_000
        assert box.run(["true"]).launched == "template"
        assert stats(box).discarded == 1
        assert box.run(["true"]).launched == "pool"


def kill_waiting(box: Sandbox, victim: int = 0) -> None:
    """Kill the init (0) or, where there is one, the payload (1) of all that wait, those too that the server has only been asked for."""
    server = waiting(box)[0].house.server
    assert server is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")

    def all_dead() -> bool:
        for init in children.read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                payloads = Path(f"/proc/{init}/task/{init}/children").read_text().split()
                os.kill(int([init, *payloads][victim if payloads else 0]), signal.SIGKILL)
        return not any(one.alive for one in waiting(box))

    eventually(all_dead, "all are dead")


def test_one_that_died_while_it_waited_is_never_a_runs_error(box: Sandbox) -> None:
    for victim in (0, 1):
        processes(waiting(box)[0])
        kill_waiting(box, victim)
        assert box.run(["echo", "1"]).stdout == b"1\n"
        assert box.run(["echo", "1"]).launched == "pool"
    assert stats(box).failed == 4


def test_one_that_dies_after_it_was_looked_at_is_no_runs_error(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_waiting(box)
    monkeypatch.setattr(Waiting, "alive", True)
    assert box.run(["cat"], stdin="1").stdout == b"1"


def test_the_pool_outlives_its_server(box: Sandbox) -> None:
    (one, *_) = waiting(box)
    server = one.house.server
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: not any(each.alive for each in waiting(box)), "all are dead")
    assert box.run(["echo", "1"]).stdout == b"1\n"
    assert [box.run(["true"]).launched for _ in range(3)] == ["pool"] * 3


def test_each_is_used_once_and_nothing_of_it_is_seen_again(box: Sandbox) -> None:
    leave = "ls -A /tmp ~ /dev/shm; echo /proc/[0-9]*; touch /tmp/left ~/left /dev/shm/left; sleep 60 & :"
    seen = [box.run(["sh", "-c", leave]).stdout for _ in range(6)]
    assert set(seen) == {b"/dev/shm:\n\n/home/user:\n\n/tmp:\n/proc/2\n"}
    assert stats(box).hits == 6


def test_one_that_waits_is_in_no_list(box: Sandbox) -> None:
    listed = {run.run_id for run in sandbox.running()}
    with box.popen(["sleep", "60"], name="found") as process:
        mine = [run for run in sandbox.running() if run.run_id not in listed]
        assert [(run.name, run.run_id, run.argv) for run in mine] == [("found", process.run_id, ("sleep", "60"))]
        mine[0].kill()
        assert process.wait(20).verdict == "signaled"
    assert {run.run_id for run in sandbox.running()} == listed


# ---- many, and the end -----------------------------------------------------------------------------------------------------


def test_many_runs_at_once(box: Sandbox) -> None:
    seen: list[tuple[int, bytes | None]] = []

    def work(number: int) -> None:
        for turn in range(8):
            seen.append((number * 100 + turn, box.run(["echo", str(number * 100 + turn)]).stdout))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 48
    assert all(output == f"{number}\n".encode() for number, output in seen)
    assert stats(box).waiting <= 2
    assert stats(box).hits + stats(box).misses == 48


def test_a_fork_has_a_pool_of_its_own(box: Sandbox) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)
            os.write(writer, b"".join(box.run(["echo", str(number)]).stdout or b"" for number in range(3)))
            box.close()
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"0\n1\n2\n"
    assert os.waitpid(pid, 0)[1] == 0
    assert [box.run(["echo", "1"]).launched for _ in range(3)] == ["pool"] * 3


def test_a_sandbox_that_is_forgotten_leaves_nothing() -> None:
    box = Sandbox(pool=3)
    box.run(["true"])
    del box
    gc.collect()  # the rest is looked at after every test


@pytest.mark.orphans
def test_a_client_that_is_killed_leaves_nothing() -> None:
    code = (
        "import sys; from sandbox import Sandbox; box = Sandbox(pool=3); box.run(['true'])\n"
        "print(box._launcher._houses[0].server.pid, flush=True); sys.stdin.read()"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdin is not None
    pidfd = os.pidfd_open(int(client.stdout.readline()))
    client.kill()
    client.wait()
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(90_000), "the server outlives its client"
    os.close(pidfd)
    client.stdin.close()
    client.stdout.close()


def test_registry_is_empty_afterwards() -> None:
    with Sandbox(pool=2) as box:
        box.run(["true"])
    assert not [run for run in sandbox.running() if run.pid == os.getpid()]
