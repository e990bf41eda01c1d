"""`Sandbox`: processes with their streams open, many inputs, coroutines; nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kernel.running import DEADLINE_S, eventually
from kernel.tiers import TIERS, is_of, only_tier

import sandbox
from sandbox import DEVNULL, PIPE, Sandbox
from sandbox.api.background import BackgroundRun

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]


@pytest.fixture(autouse=True, params=TIERS)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let all that is true of a `Sandbox` be true in every tier."""
    only_tier(request.param, monkeypatch)
    return str(request.param)


def threads() -> list[threading.Thread]:
    """Return the threads of runs that go on; one whose run is over may need a moment to become idle."""

    def found() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("sandbox ")]

    deadline = time.monotonic() + DEADLINE_S
    while (ours := found()) and time.monotonic() < deadline:
        ours[0].join(0.01)
    return found()


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """Return a Sandbox, and see that its end leaves no thread and no descriptor."""
    sandbox.run(["true"])
    before = descriptors()
    with Sandbox(limits={"wall": "300s"}) as made:
        yield made
    assert not threads()
    eventually(lambda: descriptors() <= before, "everything is let go of")  # a thread that is still on its way out holds on to its run


def descriptors() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))


# ---- run -------------------------------------------------------------------------------------------------------------------


def test_a_file_that_names_its_interpreter(box: Sandbox) -> None:
    for word in ("one", "two"):
        assert box.run(["./run.sh"], files={"run.sh": f"#!/bin/sh\necho {word}"}).stdout == f"{word}\n".encode()
    assert box.run(["./run.sh"], files={"run.sh": "#!/bin/cat\nthree"}).stdout == b"#!/bin/cat\nthree"


def test_settings_of_all_runs_and_of_one(tmp_path: Path, tier: str) -> None:
    tmp_path.chmod(0o755)  # as root the payload is somebody else
    (tmp_path / "shared").write_text("shared")
    script = tmp_path / "main.sh"
    script.write_text("cat /data/shared; echo $A $B")
    with Sandbox(volumes=[f"{tmp_path}:/data"], env={"A": "1", "B": "2"}, limits={"processes": 8}) as box:
        result = box.run(["sh", "main.sh"], files={"main.sh": script}, env={"B": "3"})
        assert result.stdout == b"shared1 3\n" and is_of(tier, result.launched)
        assert box.run(["sh", "-c", "echo $B"]).stdout == b"2\n"
        assert box.run(["sleep", "9"], timeout=0.1).verdict == "wall-limit"
        with pytest.raises(sandbox.RunFailed):
            box.run(["false"], check=True)
    with pytest.raises(ValueError, match="closed"):
        box.run(["true"])


# ---- processes -------------------------------------------------------------------------------------------------------------


def test_a_dialogue(box: Sandbox) -> None:
    with box.popen(["cat"], stdin=PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            assert process.stdout.readline() == word
        assert process.poll() is None and process.returncode is None
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(30).ok and process.returncode == 0


def test_communicate_both_ways_with_more_than_pipes_hold(box: Sandbox) -> None:
    data = os.urandom(3 << 20)
    with box.popen(["sh", "-c", "tee /dev/stderr"], stdin=PIPE, limits={"output": "16M"}) as process:
        out, err = process.communicate(data, timeout=60)
        assert out == data and err == data and process.returncode == 0


def test_output_that_nobody_reads_holds_the_program_up(box: Sandbox) -> None:
    with box.popen(["sh", "-c", "yes"], stderr=DEVNULL, limits={"output": "1G"}) as process:
        assert process.stdout is not None
        with pytest.raises(TimeoutError):
            process.wait(0.5)
        assert process.stdout.read(4) == b"y\ny\n"
        process.kill()
        result = process.wait(30)
        assert result.signal == signal.SIGKILL
        # Back-pressure: what moved is what two pipes and one buffer hold, not what `yes` can print in half a second.
        assert result.usage.output_bytes < 1 << 20


def test_streams_of_the_caller(box: Sandbox, tmp_path: Path) -> None:
    given, taken = tmp_path / "given", tmp_path / "taken"
    given.write_bytes(b"6 7\n")
    with open(given, "rb") as source, open(taken, "wb") as sink, box.popen(["cat"], stdin=source, stdout=sink, stderr=None) as process:
        result = process.wait(30)
    assert taken.read_bytes() == b"6 7\n" and result.stdout is None and result.stderr == b""
    with box.popen(["sh", "-c", "cat; echo err >&2"], stdin="text", stdout=None, stderr=DEVNULL) as process:
        assert process.wait(30).stdout == b"text"
    with pytest.raises(ValueError, match="no descriptor"):
        box.popen(["true"], stdout=-7)
    with box.popen(["true"]) as process, pytest.raises(ValueError, match="stdin is no pipe"):
        process.communicate(b"x")


def test_a_descriptor_may_be_closed_once_the_run_has_begun(box: sandbox.Sandbox, tmp_path: Path) -> None:
    """As after `subprocess.Popen`. By its number alone the output would go into whatever is opened next (by a server's thread, now and then)."""
    reused = 0
    for _ in range(100):
        wanted = os.open(tmp_path / "wanted", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        process = box.popen(["sh", "-c", "read line; echo printed; echo seen >&2"], stdin=PIPE, stdout=wanted, stderr=wanted)
        os.close(wanted)
        with open(tmp_path / "other", "wb", buffering=0) as other, process:
            reused += other.fileno() == wanted
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            assert process.wait().ok
        assert (tmp_path / "wanted").read_bytes() == b"printed\nseen\n" and (tmp_path / "other").read_bytes() == b""
        if reused == 5:
            break
    assert reused == 5


def test_signals_and_verdicts(box: Sandbox) -> None:
    ready = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with box.popen(["sh", "-c", ready]) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.readline() == b"got\n"
        assert process.wait(30).exit_code == 5
        process.kill()  # nothing to kill any more
    with box.popen(["sleep", "60"], timeout=0.2) as process:
        assert process.wait(30).verdict == "wall-limit"


def test_errors_come_at_once_or_in_wait(box: Sandbox) -> None:
    with pytest.raises(sandbox.SandboxError) as caught:
        box.popen(["no-such-program"])
    assert caught.value.exit_code == 127
    with pytest.raises(sandbox.SandboxError) as caught, box.popen(["./broken"], files={"broken": b"\x7fELF, not really"}) as process:
        process.wait(30)
    assert caught.value.exit_code == 126


def test_a_process_that_nobody_keeps_is_killed(box: Sandbox) -> None:
    process = box.popen(["sleep", "60"])
    ended = threading.Event()
    process.call_at_end(ended.set)
    with pytest.warns(ResourceWarning, match="nobody waits for it"):
        del process
        gc.collect()
    assert ended.wait(30)


@pytest.mark.orphans
def test_the_caller_may_die_with_processes_open() -> None:
    program = "import os, sandbox; p = sandbox.Sandbox().popen(['sh', '-c', 'echo up; sleep 60']); print(p.stdout.readline(), flush=True); os._exit(0)"
    shown = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=60, check=True)
    assert shown.stdout == b"b'up\\n'\n"  # and the fixture that looks for processes finds none


def test_many_processes_from_many_threads(box: Sandbox) -> None:
    def work(number: int) -> bytes | None:
        with box.popen(["cat"], stdin=PIPE) as process:
            return process.communicate(str(number), timeout=60)[0]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(48))) == [str(number).encode() for number in range(48)]


# ---- map -------------------------------------------------------------------------------------------------------------------


def test_map_keeps_the_order_and_takes_inputs_as_needed(box: Sandbox) -> None:
    taken = []

    def inputs() -> Iterator[object]:
        number = 0
        while True:  # endless
            taken.append(number)
            yield {"stdin": str(number), "env": {"WAIT": "0.3" if number == 0 else "0"}}
            number += 1

    results = box.map(["sh", "-c", "sleep $WAIT; cat"], inputs(), workers=3)  # type: ignore[arg-type]
    assert [next(results).stdout for _ in range(8)] == [str(number).encode() for number in range(8)]
    assert len(taken) <= 8 + 2 * 3 + 1
    results.close()  # type: ignore[attr-defined]


def test_map_with_a_failure_and_with_a_wrong_input(box: Sandbox) -> None:
    results = list(box.map(["sh"], ["exit 0", "exit 3", "kill -9 $$"], workers=2))
    assert [str(result.verdict) for result in results] == ["ok", "nonzero-exit", "signaled"]
    wrong = box.map(["cat"], ["a", {"stdin": "b", "argv": ["no-such-program"]}], workers=1)
    assert next(wrong).stdout == b"a"
    with pytest.raises(sandbox.SandboxError):
        next(wrong)
    with pytest.raises(ValueError, match="at least 1"):
        box.map(["true"], [], workers=0)
    with pytest.raises(TypeError):
        list(box.map(["true"], [{"unknown": 1}]))


def test_leaving_map_ends_what_runs(box: Sandbox) -> None:
    began = time.monotonic()
    for result in box.map(["sh", "-c", "read n; sleep $n"], ["0\n", "250\n", "250\n"], workers=3):
        assert result.ok
        break
    gc.collect()
    assert time.monotonic() - began < 100


# ---- coroutines ------------------------------------------------------------------------------------------------------------


def test_runs_as_coroutines(box: Sandbox) -> None:
    async def main() -> list[bytes | None]:
        results = await asyncio.gather(*(box.run_async(["cat"], stdin=str(number)) for number in range(12)))
        return [result.stdout for result in results]

    assert asyncio.run(main()) == [str(number).encode() for number in range(12)]


def test_a_cancelled_run_is_over_when_the_cancellation_arrives(box: Sandbox) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(box.run_async(["sleep", "60"]))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not threads()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(box.run_async(["sleep", "60"]), 0.3)

    asyncio.run(main())


def test_a_dialogue_of_coroutines(box: Sandbox) -> None:
    async def main() -> None:
        async with await box.popen_async(["cat"], stdin=PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"one\n")
            assert await process.stdout.readline() == b"one\n"
            out, err = await process.communicate(b"two")
            assert (out, err) == (b"two", b"")
            assert (await process.wait()).ok and process.returncode == 0
        async with await box.popen_async(["sleep", "60"]) as process:
            pass
        assert (await process.wait()).signal == signal.SIGKILL

    asyncio.run(main())


def test_the_loop_is_not_blocked(box: Sandbox) -> None:
    async def main() -> bytes | None:
        reader, writer = os.pipe()
        try:
            task = asyncio.ensure_future(box.run_async(["cat"], stdin=reader))
            for _ in range(100):
                await asyncio.sleep(0)
            os.write(writer, b"from the loop")  # a run that blocked it would wait for this for ever
        finally:
            os.close(writer)
        result = await task
        os.close(reader)
        return result.stdout

    assert asyncio.run(main()) == b"from the loop"


def test_map_as_a_coroutine(box: Sandbox) -> None:
    async def main() -> list[bytes | None]:
        found = []
        async for result in box.map_async(["cat"], (str(number) for number in range(100)), workers=2):
            found.append(result.stdout)
            if len(found) == 5:
                break
        return found

    assert asyncio.run(main()) == [str(number).encode() for number in range(5)]


def test_a_cancelled_map_does_not_wait_for_its_runs(box: Sandbox) -> None:
    async def consume() -> None:
        async for _ in box.map_async(["sleep", "250"], [b""] * 5, workers=2):
            pass

    async def main() -> float:
        task = asyncio.ensure_future(consume())
        await asyncio.sleep(0.3)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(main()) < 100  # the runs take 250 s


def test_a_kill_within_a_kill(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that ends a run may come while its own thread is sending that run a signal."""
    process = box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL)
    write, calls = os.eventfd_write, []

    def interrupted(fd: int, value: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            process.kill()
        write(fd, value)

    monkeypatch.setattr(os, "eventfd_write", interrupted)
    thread = threading.Thread(target=process.terminate, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "it waits for itself"
    assert process.wait(DEADLINE_S).verdict == "signaled"


def test_a_number_is_no_input(box: Sandbox) -> None:
    """`range(100)` as inputs would hand the caller's own descriptors to the program."""
    ours, theirs = os.pipe()
    try:
        os.write(theirs, b"a secret")
        os.close(theirs)
        with pytest.raises(TypeError, match="not int"):
            list(box.map(["cat"], [ours]))  # type: ignore[list-item]
        assert os.read(ours, 100) == b"a secret"
    finally:
        os.close(ours)


@pytest.mark.parametrize("start", ["run_async", "popen_async"])
def test_cancelled_while_it_starts(box: Sandbox, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    """The thread that starts it is not interrupted; what it has started is over, and closed, when the cancellation arrives."""
    started: list[BackgroundRun] = []
    remember = box._remember
    monkeypatch.setattr(box, "_remember", lambda run: (started.append(run), remember(run)))

    async def main() -> None:
        task = asyncio.ensure_future(getattr(box, start)(["sleep", "60"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert started.pop().ended  # kept here, its error would keep its descriptors

    asyncio.run(main())
    assert started == []


@pytest.mark.parametrize("more", [{}, {"pool": 1}, {"python": True}])
def test_a_standard_input_of_no_kind(more: dict[str, Any]) -> None:
    """It is refused before anything is taken or made for the run."""
    with Sandbox(**more) as box:
        assert box.run(["true"]).ok
        assert box.warm(30)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TypeError, match="not float"):
            box.run(["true"], stdin=1.5)  # type: ignore[arg-type]
        assert len(os.listdir("/proc/self/fd")) <= before
        assert box.run(["cat"], stdin=bytearray(b"as bytes")).stdout == b"as bytes"
