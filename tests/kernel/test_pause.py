"""Pausing: nothing runs meanwhile, no limit of time goes on, and a paused run can be killed; by the freezer and, where there is none, by SIGSTOP."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel.running import children_of, stands_still

from sandbox.api import prepare as prepare_module
from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import Command, prepare
from sandbox.api.streams import Streams
from sandbox.kernel.calls import timerfd_create, timerfd_settime
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.result import Result, Verdict
from sandbox.rootfs.volumes import parse_volume
from sandbox.supervise import deadlines
from sandbox.supervise.monitor import Monitor

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

MS = 1_000_000
SPIN = "echo started; while :; do :; done"


When = int | Callable[[Monitor], bool]


class Script:
    """Things to do with a running monitor; its timer is in the monitor's own loop.

    Args:
        steps: when each is done, and what: so many milliseconds after the step before it, the first after GO, or as soon as something is so.
    """

    def __init__(self, *steps: tuple[When, Callable[[Monitor], object]]) -> None:
        self.steps = list(steps)
        self.fd = timerfd_create()

    def start(self, monitor: Monitor) -> None:
        self._arm()

    def ring(self, monitor: Monitor) -> None:
        os.read(self.fd, 8)
        when, action = self.steps[0]
        if isinstance(when, int) or when(monitor):
            self.steps.pop(0)
            action(monitor)
        self._arm()

    def _arm(self) -> None:
        when = self.steps[0][0] if self.steps else None
        timerfd_settime(self.fd, None if when is None else time.monotonic_ns() + (when if isinstance(when, int) else 10) * MS)


def printed(count: int) -> When:
    """Once the run has printed so many bytes."""
    return lambda monitor: monitor.snapshot().output_bytes >= count


def still() -> When:
    """Once nothing of the run runs or waits for a processor, and in twenty looks nothing has changed.

    The monitor goes on meanwhile: where there is no freezer, it is the monitor that sees when the last of them stopped, and what was before that is no pause.
    """
    seen: list[tuple[int | None, ...]] = []

    def look(monitor: Monitor) -> bool:
        at = monitor.snapshot()
        (payload,) = children_of(at.init_pid)
        figures = (at.cpu_ns, at.output_bytes, at.wall_ns)
        if not stands_still([payload, *children_of(payload)]) or figures not in seen[-1:]:
            seen.clear()
        seen.append(figures)
        return len(seen) > 20

    return look


Run = Callable[..., Result]


@pytest.fixture(params=["backend", "fallback"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return a function that runs a shell script under a `Script`; with the cgroup of this host, and with none."""
    if request.param == "fallback":
        monkeypatch.setattr(prepare_module, "find_backend", lambda: None)

    def run_one(
        shell: str, script: Script, *, executor: str = "auto", stdin: int | None = None, limits: dict[str, object] | None = None, volume: str = ""
    ) -> Result:
        volumes = [parse_volume(volume, "/")] if volume else []
        profile = override_profile(load_profile("strict"), limits={"cpu": 30, "wall": 30, **(limits or {})}, volumes=volumes, origin="test")
        prepared = prepare(
            Command(argv=("/bin/sh", "-c", shell), profile=profile, environ={"PATH": "/usr/bin:/bin"}, executor=executor)
        )
        assert (prepared.backend is None) >= (request.param == "fallback")
        try:
            hooks = Hooks(watches=((script.fd, script.ring),), on_start=script.start)
            return execute(prepared, Streams(stdin=stdin), hooks).result
        finally:
            os.close(script.fd)

    yield run_one


@pytest.mark.parametrize("executor", ["native", "python"])
def test_time_stands_still(run: Run, executor: str) -> None:
    """A wall limit of 2 s does not end a run in a pause of more, and it uses no CPU time meanwhile."""
    used = []
    script = Script(
        (printed(1), lambda monitor: monitor.pause()),
        (still(), lambda monitor: used.append(monitor.snapshot())),
        (2300, lambda monitor: used.append(monitor.snapshot())),
        (0, lambda monitor: monitor.resume()),
    )
    result = run(SPIN, script, executor=executor, limits={"wall": 2})
    assert (result.verdict, result.stdout) == (Verdict.WALL_LIMIT, b"started\n"), result.cause
    first, last = used
    assert first.state == last.state == "paused"
    assert first.cpu_ns == last.cpu_ns and first.wall_ns == last.wall_ns < 2000 * MS
    assert last.paused_ns - first.paused_ns >= 2300 * MS
    assert result.usage.wall_ns >= 2000 * MS and result.usage.paused_ns >= last.paused_ns


def test_nothing_runs_while_it_is_paused(run: Run) -> None:
    """Eight writers fall silent, and go on afterwards."""
    sizes: list[int] = []
    script = Script(
        (printed(1), lambda monitor: monitor.pause()),
        (still(), lambda monitor: sizes.append(monitor.snapshot().output_bytes)),
        (300, lambda monitor: sizes.append(monitor.snapshot().output_bytes)),
        (0, lambda monitor: monitor.resume()),
        (lambda monitor: monitor.snapshot().output_bytes > sizes[1], lambda monitor: sizes.append(monitor.snapshot().output_bytes)),
        (0, lambda monitor: monitor.kill(Verdict.WALL_LIMIT)),
    )
    writer = "(while :; do echo x; read -t 0.001 y; done <&3) &"
    run(f"exec 3</dev/zero; {writer * 8} wait", script, limits={"output": "1G", "processes": 20})
    assert 0 < sizes[0] == sizes[1] < sizes[2]


@pytest.mark.parametrize("executor", ["native", "python"])
def test_paused_run_is_killed_at_once(run: Run, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on cgroup v1, where SIGKILL alone does nothing to what is frozen; and init lives to report what was used."""
    monkeypatch.setattr(deadlines, "PATIENCE_NS", 60_000 * MS)  # init does it, or nobody in time
    began: list[int] = []
    facts = []

    def kill(monitor: Monitor) -> None:
        facts.append(monitor.collected)
        began.append(time.monotonic_ns())
        monitor.kill(Verdict.WALL_LIMIT)

    script = Script((printed(2 * len("started\n")), lambda monitor: monitor.pause()), (still(), kill))
    result = run(f"(trap '' TERM; {SPIN}) & {SPIN}", script, executor=executor, limits={"processes": 20})
    assert time.monotonic_ns() - began[0] < 20_000 * MS  # its wall limit is 30 s, and stands still
    assert (result.verdict, result.exit_code) == (Verdict.WALL_LIMIT, 137)
    assert facts[0].tree is not None, "init could not report"


def test_pause_is_told_from_what_is_not_running(run: Run) -> None:
    states: list[object] = []
    script = Script(
        (100, lambda monitor: states.extend((monitor.state, monitor.resume(), monitor.pause(), monitor.pause(), monitor.state))),
        (50, lambda monitor: states.extend((monitor.resume(), monitor.resume(), monitor.state))),
        (50, lambda monitor: (monitor.kill(Verdict.WALL_LIMIT), states.extend((monitor.state, monitor.pause(), monitor.resume())))),
    )
    run("sleep 60", script)
    assert states == ["running", True, True, True, "paused", True, True, "running", "ending", False, False]


@pytest.mark.orphans
def test_killed_supervisor_of_a_paused_run_leaves_nothing(run: Run) -> None:
    """The janitor ends what is frozen or stopped; our fork is the supervisor here."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)

            def tell(monitor: Monitor) -> None:
                os.write(theirs, f"{monitor.snapshot().init_pid}\n".encode())

            script = Script((printed(1), lambda monitor: monitor.pause()), (100, tell))
            run("sleep 600 & echo started; sleep 600", script)
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        init = int(answer.readline())
        pidfd = os.pidfd_open(init)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        try:
            assert select.select([pidfd], [], [], 90)[0], "init lives"
        finally:
            os.close(pidfd)


def test_signals_wait_for_the_end_of_the_pause(run: Run) -> None:
    script = Script(
        (printed(1), lambda monitor: monitor.pause()),
        (still(), lambda monitor: (monitor.signal(15), monitor.signal(18))),
        (150, lambda monitor: monitor.resume()),
    )
    result = run("trap 'echo got it; exit 3' TERM; echo ready; while :; do :; done", script)
    assert (result.exit_code, result.stdout) == (3, b"ready\ngot it\n")
    assert result.usage.paused_ns > 0


def test_sigkill_does_not_wait_for_the_end_of_the_pause(run: Run) -> None:
    script = Script((printed(1), Monitor.pause), (50, lambda monitor: monitor.signal(9)), (60_000, Monitor.resume))
    result = run(SPIN, script)
    assert (result.verdict, result.exit_code, result.signal) == (Verdict.SIGNALED, 137, 9)
    assert len(script.steps) == 1, "it ended after the pause"


CONTINUES = """
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static void nothing(int number) { (void)number; }
int main(void) {
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGCONT;
    signal(SIGCONT, nothing);
    for (long k = 1; k <= 900; k++) {
        timer_t timer;
        struct itimerspec at = {{0, 0}, {k / 100, k % 100 * 10000000}};
        if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &at, 0)) return 3;
    }
    write(1, "armed", 5);
    for (;;) {}
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("limits", [{"cpu": 0.5, "wall": 60}, {"wall": 1}], ids=["cpu", "wall"])
def test_who_continues_itself_is_not_out_of_its_limits(run: Run, tmp_path: Path, limits: dict[str, object]) -> None:
    """SIGSTOP is undone by any SIGCONT, and a timer that was armed before sends one: time in which it runs is no pause."""
    tmp_path.chmod(0o755)
    (tmp_path / "main.c").write_text(CONTINUES)
    subprocess.run(["gcc", "-static", "-o", tmp_path / "continues", tmp_path / "main.c"], check=True)
    seen: list[object] = []
    # The timers last for nine seconds; what is frozen does not run and is ended at last by the test.
    script = Script((printed(5), lambda monitor: monitor.pause()), (8300, lambda monitor: (seen.append(monitor.snapshot()), monitor.kill(Verdict.IDLE_LIMIT))))
    result = run("exec /x/continues", script, limits={"cpu": 60, **limits}, volume=f"{tmp_path}:/x")
    assert result.stdout == b"armed"
    assert result.usage.cpu_ns < result.usage.wall_ns + 50 * MS, "it ran in a time that does not count"
    if result.verdict is Verdict.IDLE_LIMIT:  # it was frozen, or a busy machine gave it too little to reach its limit
        assert seen
    else:
        assert result.verdict is (Verdict.CPU_LIMIT if "cpu" in limits else Verdict.WALL_LIMIT), result.cause


def test_a_freezer_of_somebody_elses_is_no_way_out(run: Run) -> None:
    """Frozen from outside, not by us: the wall limit still ends it."""
    states = []

    def freeze(monitor: Monitor) -> None:
        cgroup = monitor._watched.cgroup
        states.append(cgroup is not None and cgroup.freeze())

    result = run(SPIN, Script((100, freeze)), limits={"wall": 0.4})
    assert result.verdict is Verdict.WALL_LIMIT
    assert result.usage.wall_ns < 5_000 * MS + 400 * MS, "it was init's own deadline, not the supervisor"


