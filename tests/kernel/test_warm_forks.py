"""Warm interpreters that are forks: the same programs, the same ends, as cold; what is shared is said; whoever dies, the next run is served."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from kernel.test_resident import wait_gone
from kernel.test_warm_python import COMMAND, PYTHON, command_lines, outcome
from kernel.warm_programs import PROGRAMS

import sandbox
from sandbox import PIPE, Sandbox
from sandbox.errors import PolicyError
from sandbox.launch.spawn import executor_command

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
pytestmark.append(pytest.mark.skipif(len(executor_command()) > 1, reason="the native executor is not built"))
FORKED: dict[str, Any] = {"mode": "forked", "command": COMMAND}


def zygote_pids(box: Sandbox) -> list[int]:
    """Return the processes that are forked for a Sandbox's members."""
    forks: Any = box._interpreters._launcher  # type: ignore[union-attr]
    return [warm.zygote.pid for warm in forks._zygotes.values()]


def test_every_program_ends_as_it_does_cold() -> None:
    """The table of `kernel.warm_programs`, as a file, a module and a text."""
    differ = {}
    with Sandbox("python") as cold, Sandbox("python", python={**FORKED, "size": 2}) as warm:
        for name, (code, how) in PROGRAMS.items():
            for way, argv in command_lines(code, how).items():
                options: dict[str, Any] = {"stdin": how.get("stdin"), "files": {"scr.py": code}, "collect": ["*.txt"]}
                wanted, got = cold.run(argv, **options), warm.run(argv, **options)
                assert got.launched == "interpreter", (name, way)
                if outcome(wanted) != outcome(got):
                    differ[name, way] = (outcome(wanted), outcome(got))
    assert not differ


def test_variables_of_the_caller_that_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same server's root will do, but not the interpreter that was started with the old ones: it goes once its last run is over."""
    command = [PYTHON, "-c", "import os; print(os.environ['LANG'])"]
    monkeypatch.setenv("LANG", "C.UTF-8")
    with Sandbox("python", python={**FORKED, "size": 1}) as box:
        assert box.warm() and (first := box.run(command)).launched == "interpreter" and first.stdout == b"C.UTF-8\n"
        (before,) = zygote_pids(box)
        slow = box.popen([PYTHON, "-c", "import os; print('up', flush=True); input(); print(os.environ['LANG'])"], stdin=PIPE)
        assert slow.stdout is not None and slow.stdout.readline() == b"up\n"
        monkeypatch.setenv("LANG", "C")
        for _ in range(3):
            result = box.run(command)
            assert result.stdout == b"C\n", result.launched
            assert box.warm()
        assert result.launched == "interpreter" and before not in zygote_pids(box) and len(zygote_pids(box)) == 1
        assert slow.communicate(b"\n")[0] == b"C.UTF-8\n" and slow.wait().ok
        wait_gone(before)


def test_what_is_shared_is_this_and_no_more() -> None:
    """The hash seed is; random state, pid namespace, files and variables are not, nor is what a program changed."""
    code = (
        "import glob, os, random, sys\n"
        "print(hash('a'), random.random(), os.getpid(), glob.glob('/tmp/*') + glob.glob('*'), hasattr(sys, 'left'), 'OMP_NUM_THREADS' in os.environ)\n"
        "open('/tmp/left', 'w'); open('left', 'w'); sys.left = 1"
    )
    with Sandbox("python", python={**FORKED, "modules": ["random"]}) as box:
        runs = [box.run([PYTHON, "-c", code]) for _ in range(4)]
    assert all(run.launched == "interpreter" and not run.stderr for run in runs), runs
    words = [(run.stdout or b"").split(b" ", 2) for run in runs]
    assert len({line[0] for line in words}) == 1 and len({line[1] for line in words}) == len(runs)
    assert {line[2] for line in words} == {b"2 [] False False\n"}


def test_denials_limits_and_usage_are_the_runs_own() -> None:
    with Sandbox("strict", python=FORKED) as box:
        run = box.run([PYTHON, "-c", "import socket\ntry: socket.socket()\nexcept OSError as error: print(error.errno)"])
        assert run.launched == "interpreter" and run.stdout == b"1\n" and run.denials == {"socket": 1}
        run = box.run([PYTHON, "-c", "print(sum(range(10)))"])
        assert run.launched == "interpreter" and run.usage.cpu_user_ns + run.usage.cpu_sys_ns < 500_000_000
    with Sandbox("strict", limits={"cpu": 1}, python=FORKED) as box:
        run = box.run([PYTHON, "-c", "while True: pass"])
        assert run.launched == "interpreter" and run.verdict is sandbox.Verdict.CPU_LIMIT


def test_modules_that_cannot_be_imported_or_forked(tmp_path: Path) -> None:
    with Sandbox("python", python={**FORKED, "modules": ["nowhere_to_be_found"]}) as box:
        with pytest.raises(sandbox.SandboxError, match="import `nowhere_to_be_found: ModuleNotFoundError"):
            box.run([PYTHON, "-c", "pass"])
    (tmp_path / "threaded.py").write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n")
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/modules"], "env": {"PYTHONPATH": "/modules"}}
    with Sandbox("python", **settings, python={**FORKED, "modules": ["threaded"]}) as box:
        with pytest.raises(sandbox.SandboxError, match="has started threads"):
            box.run([PYTHON, "-c", "pass"])


def give_modules(directory: Path, **texts: str) -> dict[str, Any]:
    """Make modules and return the settings of a Sandbox that can import them."""
    for name, text in texts.items():
        (directory / f"{name}.py").write_text(text)
    for path in (directory, *list(directory.parents)[:2]):
        path.chmod(0o755)
    return {"volumes": [f"{directory}:/modules"], "env": {"PYTHONPATH": "/modules"}}


def test_memory_that_forks_would_share_is_refused(tmp_path: Path) -> None:
    """Without the look at the mappings the second run reads what the first one wrote."""
    settings = give_modules(tmp_path, sharing="import mmap\nmemory = mmap.mmap(-1, 4096)\n")
    with Sandbox("python", **settings, python={**FORKED, "modules": ["sharing"]}) as box:
        with pytest.raises(sandbox.SandboxError, match="has mapped memory that all forks would write to"):
            for _ in range(2):
                box.run([PYTHON, "-c", "import sharing; print(sharing.memory[:4]); sharing.memory[:4] = b'left'"])


def test_generators_that_tell_a_fork_by_its_pid_are_seeded_anew(tmp_path: Path) -> None:
    """OpenSSL's, the names of temporary files and the key of multiprocessing, all made on import.

    With a zygote that is process 2, as its members are, all runs have the first two in common.
    """
    text = "import multiprocessing, ssl, tempfile\nssl.RAND_bytes(8)\nnames = tempfile._get_candidate_names()\nnext(names)\n"
    code = "import drawing, multiprocessing as mp, ssl; print(ssl.RAND_bytes(8).hex(), next(drawing.names), mp.current_process().authkey.hex())"
    settings = give_modules(tmp_path, drawing=text)
    with Sandbox("python", **settings, python={**FORKED, "modules": ["drawing"]}) as box:
        runs = [box.run([PYTHON, "-c", code]) for _ in range(3)]
    assert all(run.launched == "interpreter" and not run.stderr for run in runs), runs
    assert len({word for run in runs for word in (run.stdout or b"").split()}) == 3 * len(runs)


def test_a_program_cannot_plant_modules_for_the_next_zygote(tmp_path: Path) -> None:
    """A zygote imports under fewer walls, so there is none where a run can write to the host: forked all the same, what was planted makes namespaces."""
    tmp_path.chmod(0o777)
    for path in list(tmp_path.parents)[:2]:
        path.chmod(0o755)
    planted = (
        "import ctypes, os\npid = os.fork()\nif not pid:\n"
        "    done = ctypes.CDLL(None).unshare(0x10000000)\n    open('/shared/proof', 'a').write(f'{done};')\n    os._exit(0)\nos.waitpid(pid, 0)\n"
    )
    settings: dict[str, Any] = {"volumes": [f"{tmp_path}:/shared:rw"], "env": {"PYTHONPATH": "/shared"}}
    with Sandbox("python", **settings) as box:
        assert box.run([PYTHON, "-c", f"open('/shared/usercustomize.py', 'w').write({planted!r})"]).ok
    with Sandbox("python", **settings, python={**FORKED, "size": 1}) as box:
        run = box.run([PYTHON, "-c", "pass"])
    assert run.launched == "interpreter" and [note for note in run.notes if "could leave modules in `/shared`" in note]
    assert set((tmp_path / "proof").read_text().split(";")) == {"-1", ""}


def test_a_zygote_that_dies_is_replaced() -> None:
    with Sandbox("python", python={**FORKED, "size": 1}) as box:
        assert box.run([PYTHON, "-c", "pass"]).launched == "interpreter" and box.warm(30)
        (pid,) = zygote_pids(box)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        with contextlib.suppress(sandbox.SandboxError):
            box.run([PYTHON, "-c", "pass"])  # it may have been given the member that has just died
        for _ in range(3):
            assert box.run([PYTHON, "-c", "print(7)"]).stdout == b"7\n"
        assert box.warm(30) and zygote_pids(box) not in ([], [pid])
        assert box.run([PYTHON, "-c", "pass"]).launched == "interpreter"


def test_what_cannot_be_forked_is_started_and_says_so() -> None:
    with Sandbox("python", python={**FORKED, "size": 1}, volumes=["/usr/share:/home/user/share"]) as box:
        run = box.run([PYTHON, "-c", "pass"])
        assert run.launched == "interpreter"
        assert [note for note in run.notes if note.startswith("interpreter started, not forked: a shared tree below a tmpfs")]
    with pytest.raises(PolicyError, match="needs a server"):
        Sandbox("python", python=FORKED, resident=False)
    with pytest.raises(PolicyError, match="unknown mode"):
        Sandbox("python", python={"mode": "spooned"})


def test_a_sandbox_that_is_closed_or_forgotten_leaves_no_zygote() -> None:
    for forget in (False, True):
        box = Sandbox("python", python={**FORKED, "size": 1})
        assert box.warm(30)
        pids = zygote_pids(box)
        assert pids
        if not forget:
            box.close()
        del box
        gc.collect()
        wait_gone(*pids)
