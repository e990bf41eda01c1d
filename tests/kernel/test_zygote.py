"""Zygotes: a fork of a warm interpreter is confined like any other run, has nothing of the zygote's but what it was to have, and ends with it."""

from __future__ import annotations

import os
import signal

import pytest
from escape.support import drop, no_filter, one_user_namespace
from kernel.served import Forks, prepare_for
from kernel.test_executors import LOOK, VOLATILE, make_plan, run_table
from kernel.test_resident import wait_gone

from sandbox.errors import SandboxError
from sandbox.launch.resident import ServerGoneError
from sandbox.launch.spawn import executor_command
from sandbox.plan.codec import Kind
from sandbox.plan.lower import lower_plan
from sandbox.plan.steps import CloseFrom, DropCapabilities, ForbidNamespaces, MaskProc, Plan, SetLimit
from sandbox.plan.zygote import build_forked_plan, zygote_refusal
from sandbox.policy.profile import LandlockMode, ProcMode
from sandbox.record import replace

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
pytestmark.append(pytest.mark.skipif(len(executor_command()) > 1, reason="the native executor is not built"))

# Another filter below the policy's; which signals Python handles at the moment; how far the table of descriptors once reached.
_DIFFERENT = ("Seccomp_filters", "FDSize", "Groups")


def seen_by(text: str) -> dict[str, list[str]]:
    """Return the sections of what `LOOK` prints, without what may differ."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("== "):
            section = found.setdefault(line[3:], [])
        elif not VOLATILE.match(line) and not line.startswith(_DIFFERENT):
            section.append(line)
    return found


@pytest.mark.parametrize("profile", ["python", "default"])
def test_a_fork_is_confined_like_any_other_run(profile: str) -> None:
    """Ids, limits, capabilities, securebits, session, descriptors, files and their owners, sizes of the scratch: as of a run that was started alone."""
    prepared = prepare_for(("/usr/bin/python3", "-I", "-S", "-c", LOOK), profile)
    with Forks(LOOK, profile=profile) as forks:
        outside = forks.request.outside_uid
        run = forks.run_fork()
        collected, out, failure = run_table(prepared, lower_plan(make_plan(prepared, outside)), "native", outside)
    assert (collected.wait_status, failure) == (0, None) and run.status == 0, run.out.decode()
    forked, alone = seen_by(run.out.decode()), seen_by(out.decode())
    assert forked.keys() == alone.keys() and "status" in forked
    for name in forked.keys() - {"mountinfo", "names"}:  # mounts lie over the server's; the environment is the bootstrap's affair
        assert forked[name] == alone[name], name


def test_what_is_shared_and_what_is_not() -> None:
    """The hash seed is, which is said; random numbers, the scratch and whatever a program changed are not."""
    code = (
        "import os, random\n"
        "print(hash('x'), random.random(), sorted(os.listdir('/tmp')), getattr(random, 'left', None))\n"
        "random.left = 1; open('/tmp/left', 'w').close()"
    )
    with Forks(code, modules=("random",)) as forks:
        one, two = (forks.run_fork().out.decode().split(" ", 2) for _ in range(2))
    assert one[0] == two[0] and one[1] != two[1] and one[2] == two[2] == "[] None\n"


def test_modules_are_there_and_ours_are_not() -> None:
    code = "import sys\nprint('decimal' in sys.modules, sorted({'ctypes', 'fcntl', 'select', '_socket'} & set(sys.modules)), sorted(globals()))"
    with Forks(code, modules=("decimal",)) as forks:
        words = forks.run_fork().out.decode()
    assert words.startswith("True [] ") and "zygote" not in words, words


def test_threads_processes_and_ctypes_work_in_a_fork() -> None:
    code = (
        "import ctypes, os, signal, threading\n"
        "done = []\n"
        "thread = threading.Thread(target=done.append, args=(threading.current_thread() is threading.main_thread(),))\n"
        "thread.start(); thread.join()\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(7)\n"
        "status = os.waitpid(pid, 0)[1]\n"
        "seen = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: seen.append(1)); os.kill(os.getpid(), signal.SIGUSR1)\n"
        "print(done, os.waitstatus_to_exitcode(status), seen, ctypes.CDLL(None).getpid() == os.getpid(), threading.get_native_id() == os.getpid())"
    )
    with Forks(code, modules=("threading",)) as forks:
        assert forks.run_fork().out == b"[True] 7 [1] True True\n"


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads"),
        ("import os\nkept = os.open('/dev/null', 0)", "descriptors"),
    ],
)
def test_what_a_fork_would_not_have_is_refused(first: str, words: str) -> None:
    with pytest.raises(SandboxError, match=words):
        Forks("pass", first=first)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(SandboxError, match=r"nosuch: ModuleNotFoundError: No module named 'nosuch'"):
        Forks("pass", modules=("nosuch",))


def test_a_failing_row_is_told() -> None:
    def too_high(plan: Plan) -> Plan:
        def change(step: object) -> object:
            return replace(step, soft=1 << 40, hard=1 << 40) if isinstance(step, SetLimit) and step.resource == 7 else step

        return replace(plan, payload=tuple(map(change, plan.payload)))

    with Forks("print('x')") as forks:
        run = forks.run_fork(too_high)
        assert run.failure is not None and run.failure[1] == 1
        assert forks.run_fork().out == b"x\n"


def test_ends_and_usage() -> None:
    burn = "import os, time\nwhile time.process_time() < 0.05: pass\nos.kill(os.getpid(), 9)"
    with Forks(burn) as forks:
        run = forks.run_fork()
        assert run.status == 9 and run.records[Kind.EXITED].rusage.cpu_ns >= 50_000_000
        assert run.records[Kind.REAPED].pid == forks.zygote.pid


def test_the_zygote_dies_and_its_forks_with_it() -> None:
    with Forks("import sys; sys.stdin.read()") as forks:
        read_end, write_end = os.pipe()
        try:
            runs = [forks.fork(stdin=read_end) for _ in range(2)]
            for run in runs:
                run.go()
            os.kill(forks.zygote.pid, signal.SIGKILL)
            wait_gone(*(pid for run in runs for pid in run.pids.values()))
            for run in runs:
                assert Kind.REAPED not in run.finish().records
            wait_gone(forks.zygote.pid)
            assert not forks.zygote.alive
            with pytest.raises(ServerGoneError):
                forks.fork()
            assert forks.run(("/bin/true",)).status == 0, "its server goes on"
        finally:
            os.close(read_end)
            os.close(write_end)


# ---- ways out ------------------------------------------------------------------------------------------------------------

DESCRIPTORS = "import os\nfor n in range(3, 256):\n    try: os.fstat(n)\n    except OSError: continue\n    print(n, os.readlink(f'/proc/self/fd/{n}'))"


def test_no_descriptor_of_ours() -> None:
    """There is no execve that closes them. Removed: the step; then the program has the zygote's /proc, through which it sees its neighbours."""
    with Forks(DESCRIPTORS, audit=True) as forks:
        assert forks.run_fork().out == b""
        leaky = forks.run_fork(drop(("payload", CloseFrom))).out.decode()
        assert "/proc" in leaky or "/" in leaky.split(), leaky


LOOK_UNDER = """
import ctypes, os
print("umount", ctypes.CDLL(None).umount2(b"/proc", 2))
print("processes", sum(name.isdigit() for name in os.listdir("/proc")), "sysctls", os.path.exists("/proc/sys"))
"""


def test_what_lies_under_a_forks_proc() -> None:
    """Rule: the zygote's /proc, writable and unmasked, lies under the run's own, in a mount namespace over which the payload has no right.

    Removed: both filters, capabilities and the inner user namespace, one after the other; only then it shows.
    """
    how = {"uid": 0, "gid": 0, "landlock": LandlockMode.OFF}
    with Forks(LOOK_UNDER, **how) as forks:
        for walls in ((), (no_filter,), (no_filter, drop(("payload", DropCapabilities)))):
            run = forks.run_fork(_all(*walls))
            assert run.out == b"umount -1\nprocesses 1 sysctls False\n", run.out
    with Forks(LOOK_UNDER, alter_zygote=no_filter, **how) as forks:
        run = forks.run_fork(_all(no_filter, drop(("payload", DropCapabilities)), one_user_namespace, drop(ForbidNamespaces)))
        assert run.out.startswith(b"umount 0\n") and run.out.endswith(b" sysctls True\n"), run.out


def _all(*alterations: object) -> object:
    def alter(plan: Plan) -> Plan:
        for alteration in alterations:
            plan = alteration(plan)  # type: ignore[operator]
        return plan

    return alter


def test_what_no_zygote_can_do_is_said() -> None:
    with Forks("pass") as forks:
        request = forks.request
        assert zygote_refusal(request) == ""
        assert "/proc" in zygote_refusal(replace(request, profile=replace(request.profile, proc=ProcMode.NONE)))
        assert "terminal" in zygote_refusal(replace(request, interactive=True))
        assert "id range" in zygote_refusal(replace(request, map_range=True))
        assert MaskProc not in {type(step) for step in build_forked_plan(request).steps()}
