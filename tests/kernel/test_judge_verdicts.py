"""Every verdict of the judge, provoked for real: with a cgroup and without, the word, its cause and the figures that prove it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel.judged import LIMITS, MB, MS, Bench, S

from sandbox.cgroup.find import explain_backend
from sandbox.errors import ExecuteError
from sandbox.judge.case import judge_case
from sandbox.judge.check.default import DefaultChecker
from sandbox.judge.model import CaseResult, Code, Program
from sandbox.judge.problem import Format, Grading, Group, Problem, ProblemLimits
from sandbox.judge.running import Runner, run_limits

pytestmark = [pytest.mark.userns, pytest.mark.seccomp]
COUNTED = bool(explain_backend().backend)
"""Whether memory is counted by a cgroup here."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a place for programs and cases."""
    return Bench(tmp_path)


def judge(bench: Bench, program: Program | str, **limits: Any) -> CaseResult:
    """Judge a program on a case whose input is two numbers and whose answer is their sum."""
    case = bench.case()
    built = bench.program(program) if isinstance(program, str) else program
    with Runner(built) as runner, DefaultChecker() as checker:
        return judge_case(runner, checker, bench.problem([case]), case, replace(LIMITS, **limits))


SPIN = "import time\nwhile time.process_time() < {}: pass\n"


@pytest.mark.parametrize(("source", "limits", "flags", "cause"), [
    ("print(sum(map(int, input().split())))", {}, (), ""),
    ("print(4)", {}, (Code.WA,), "line 1, token 1, byte 0: expected `3`, got `4`"),
    ("", {}, (Code.WA,), "the output is empty"),
    ("import sys; print(3); sys.exit(1)", {}, (Code.NZE,), "exit 1"),
    ("raise ValueError", {}, (Code.NZE,), "exit 1"),
    ("import os; print(3, flush=True); os._exit(137)", {}, (Code.NZE,), "exit 137"),
    ("import os; print(3, flush=True); os.abort()", {}, (Code.RTE,), "signal 6 (SIGABRT)"),
    ("import os; os.kill(os.getpid(), 11)", {}, (Code.RTE,), "signal 11 (SIGSEGV)"),
    ("import os; os.kill(os.getpid(), 9)", {}, (Code.RTE,), "signal 9 (SIGKILL)"),
    # It sends to itself what the kernel sends at a limit.
    ("import os; os.kill(os.getpid(), 24)", {}, (Code.RTE,), "signal 24 (SIGXCPU)"),
    # Ended at the cut, and by itself beyond the limit: the figure decides, not who was faster.
    ("while True: pass", {"cpu_ns": 200 * MS, "cpu_cut_ns": 300 * MS}, (Code.TLE,), "limit 0.2 s, ended there"),
    (SPIN.format(0.4) + "print(3)", {"cpu_ns": 300 * MS}, (Code.TLE,), "limit 0.3 s"),
    (SPIN.format(0.4) + "raise SystemExit(1)", {"cpu_ns": 300 * MS}, (Code.TLE, Code.NZE), "limit 0.3 s"),
    # Children count.
    ("import os\nif not os.fork():\n while True: pass\nos.wait()", {"cpu_ns": 200 * MS, "cpu_cut_ns": 300 * MS}, (Code.TLE,), "limit 0.2 s"),
    ("import time; time.sleep(60)", {"wall_ns": 400 * MS}, (Code.WTL,), "(wall limit 0.4 s)"),
    ("import time; time.sleep(60)", {"idle_ns": 400 * MS}, (Code.WTL,), "(idle limit 0.4 s)"),
    ("import signal; signal.pause()", {"wall_ns": 400 * MS}, (Code.WTL,), "(wall limit 0.4 s)"),
    # Waits for more input than there is: it has ended, so that nothing hangs.
    ("import sys; sys.stdin.read(); print(3)", {}, (), ""),
    ("while True: print('x' * 1000)", {}, (Code.OLE,), f"limit {MB} bytes"),
    ("import sys\nwhile True: sys.stderr.write('x' * 1000)", {}, (Code.OLE,), f"limit {MB} bytes"),
    ("print(3); print('x' * 100000)", {"output_bytes": 100_001}, (Code.OLE,), "limit 100001 bytes"),
    ("print('3'.rjust(100000))", {"output_bytes": 100_001}, (), ""),
    ("x = []\nwhile True: x.append(bytearray(b'1') * 1000000)", {"memory_bytes": 64 * MB}, (Code.MLE,), "bytes"),
])  # fmt: skip
def test_verdicts(bench: Bench, source: str, limits: dict[str, Any], flags: tuple[Code, ...], cause: str) -> None:
    """The verdict, all that held with it, and why."""
    found = judge(bench, source, **limits)
    assert (found.code, found.flags) == (flags[0] if flags else Code.AC, flags), found
    assert cause in found.cause and (cause or not found.cause), found


def test_figures(bench: Bench) -> None:
    """CPU time is that of all processes and of them alone; wall time has the sleep in it; memory names what counted."""
    found = judge(bench, "import time\n" + SPIN.format(0.3) + "time.sleep(2)\nprint(3)\nimport sys; sys.stderr.write('said\\x1b')")
    assert found.code is Code.AC and 300 * MS <= found.cpu_ns < 2000 * MS < 2300 * MS <= found.wall_ns + 1, found
    assert found.memory_bytes is not None and found.memory_source and found.exit_code == 0 and found.signal is None
    assert (found.stdout_bytes, found.stderr, found.validator_exit, found.passes) == (2, "said\\x1b", 42, 1)
    assert {fact.limit for fact in found.evidence} == {"wall", "cpu", "memory", "output", "processes"}


def test_near_the_time_limit(bench: Bench) -> None:
    """A time that chance could have moved over the limit is said to be near, on either side."""
    assert judge(bench, SPIN.format(0.4) + "print(3)", cpu_ns=2 * S).near == ()
    for spent in (1.95, 2.01):  # and what its end takes
        found = judge(bench, SPIN.format(spent) + "print(3)", cpu_ns=2 * S)
        assert "cpu" in found.near, found


def test_denials_are_evidence_and_no_verdict(bench: Bench) -> None:
    """A refused call that the program copes with changes nothing; one that it dies of is what it made of it."""
    source = "import socket\ntry: socket.socket()\nexcept OSError: pass\nprint(3)"
    found = judge(bench, source)
    assert found.code is Code.AC and found.denials.get("socket", 0) >= 1, found
    found = judge(bench, "import socket; socket.socket()")
    assert found.code is Code.NZE and found.denials.get("socket", 0) >= 1, found


def compile_c(bench: Bench, source: str) -> Program:
    """Return a program of C source."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    program = bench.program("", name="main")
    subprocess.run(["cc", "-O0", "-w", "-x", "c", "-", "-o", f"{program.directory}/main"], input=source.encode(), check=True)
    return program


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the call is of 32-bit x86")
def test_ended_by_the_filter(bench: Bench) -> None:
    """A call of another architecture is the one that ends a program: the verdict is SYS."""
    source = "#include <stdio.h>\nint main(void) { int r; puts(\"3\"); fflush(stdout); __asm__ volatile(\"int $0x80\" : \"=a\"(r) : \"a\"(20)); return 0; }"
    found = judge(bench, compile_c(bench, source))
    assert (found.code, found.flags, found.signal) == (Code.SYS, (Code.SYS,), 31), found


def test_deep_recursion_is_no_crime(bench: Bench) -> None:
    """100 MB of stack are memory like any other: within the limit they are accepted, beyond it the memory limit is what ends the program."""
    source = """
    #include <stdio.h>
    #include <string.h>
    int dive(int depth) { char room[1000]; memset(room, depth, sizeof room); return depth ? dive(depth - 1) + room[depth % 1000] - room[0] : 3; }
    int main(void) { printf("%d\\n", dive(100000)); return 0; }
    """
    program = compile_c(bench, source)
    assert judge(bench, program, memory_bytes=256 * MB).code is Code.AC
    found = judge(bench, program, memory_bytes=40 * MB)
    assert found.code in (Code.MLE, Code.RTE) and (found.code is Code.MLE or not COUNTED), found


BURST = "#include <stdlib.h>\n#include <string.h>\nint main(void) {{ char *p = malloc({0}L << 20); if (!p) abort(); {1}; return 0; }}"


def test_memory_in_one_burst(bench: Bench) -> None:
    """What is touched all at once is MLE with a cgroup; without, it is found by a sample, or by what `ru_maxrss` is left at the end."""
    program = compile_c(bench, BURST.format(120, "memset(p, 1, 120L << 20); abort()"))
    found = judge(bench, program, memory_bytes=64 * MB)
    assert found.code is Code.MLE, found


def test_a_refused_allocation(bench: Bench) -> None:
    """One huge allocation: with a cgroup it is no memory until it is touched; without, it is refused, nothing counts that, and the result says so."""
    program = compile_c(bench, BURST.format(4000, "puts(\"3\")"))
    found = judge(bench, program, memory_bytes=64 * MB)
    assert found.code is (Code.AC if COUNTED else Code.RTE), found
    found = judge(bench, "x = bytearray(4 << 30)\nx[::4096] = b'1' * len(x[::4096])", memory_bytes=64 * MB)
    if COUNTED:
        assert found.code is Code.MLE, found
    else:
        assert found.code is Code.NZE and "MemoryError" in found.stderr, found
        assert any("standard error says `MemoryError`" in note and "nothing counts" in note for note in found.notes), found


def test_forks_are_bounded(bench: Bench) -> None:
    """A program that forks too much ends as it likes, and its result tells that it met the limit, where that is counted."""
    source = "import os, time\nfor _ in range(40):\n if not os.fork(): time.sleep(20)"
    program = bench.program(source, processes=8)
    found = judge(bench, program, processes=8)
    assert found.code is Code.NZE and "BlockingIOError" in found.stderr, found
    assert ("forks were refused" in found.cause) == COUNTED, found
    assert COUNTED or any("a process or thread may have been refused" in note for note in found.notes), found


def test_it_cannot_be_run(bench: Bench) -> None:
    """A program that cannot be executed is the judge's error, with the reason."""
    found = judge(bench, Program(name="lost", language="c", directory=str(bench.directory), command=("/judge/program/none",)))
    assert (found.code, found.flags) == (Code.JE, (Code.JE,)) and found.cause.startswith("run `lost`: run `/judge/program/none`: no such file"), found
    with Runner(Program(name="lost", language="c", directory="", command=("/none",))) as runner, pytest.raises(ExecuteError):
        runner.run(b"", LIMITS)
    found = judge_lost_input(bench)
    assert found.code is Code.JE and "secret/1.in" in found.cause and "No such file" in found.cause, found


def judge_lost_input(bench: Bench) -> CaseResult:
    """Judge a case whose input has gone."""
    case = bench.case()
    os.unlink(case.input)
    with Runner(bench.program("print(3)")) as runner, DefaultChecker() as checker:
        return judge_case(runner, checker, bench.problem([case]), case, LIMITS)


def test_what_a_submission_sees(bench: Bench) -> None:
    """Its program, read-only; an empty working directory; its input on standard input; and nothing of the package, which lies beside it on the host."""
    source = f"""
    import os, sys
    print(sorted(os.listdir("/judge/program")), os.listdir("."), os.listdir("/judge"))
    for path in ({str(bench.directory)!r}, "/judge/package", "/judge/feedback"):
        print(os.path.exists(path))
    try: open("/judge/program/main.py", "a")
    except OSError: print("not writable")
    open("scratch", "w").write("x")
    print(repr(sys.stdin.read()), os.path.getsize("/proc/self/fd/0"), len(sys.argv))
    """
    case = bench.case()
    with Runner(bench.program(source)) as runner:
        for _ in range(2):  # nothing is left by the first
            ran = runner.run(case.input, LIMITS)
            assert ran.stdout.decode() == "['main.py'] [] ['program']\nFalse\nFalse\nFalse\nnot writable\n'1 2\\n' 4 1\n", (ran.stdout, ran.stderr)


def test_arguments_and_files_of_a_case(bench: Bench) -> None:
    """The case's words are its arguments, and the contents of its ``.files`` lie in the working directory; a link among them is not followed."""
    files = bench.directory / "1.files"
    (files / "deep").mkdir(parents=True)
    (files / "a").write_text("3\n")
    (files / "deep" / "b").write_text("4\n")
    (files / "link").symlink_to("/etc/passwd")
    case = bench.case(files=str(files), args=("deep/b", "x y"), answer=b"4 3 x y False")
    source = "import os, sys; print(open(sys.argv[1]).read(), open('a').read(), sys.argv[2], os.path.lexists('link'))"
    with Runner(bench.program(source)) as runner, DefaultChecker() as checker:
        found = judge_case(runner, checker, bench.problem([case]), case, LIMITS)
    assert found.code is Code.AC, found


@pytest.mark.parametrize(("source", "flags"), [
    ("open('out', 'w').write('x' * 60000); print(3)", ()),
    ("open('out', 'w').write('x' * 100001); print(3)", (Code.OLE,)),
    ("print(3); print(' ' * 60000); open('out', 'w').write('x' * 60000)", (Code.OLE,)),
    ("import os\nfor n in range(3): os.makedirs(f'd{n}'); open(f'd{n}/out', 'w').write('x' * 60000)\nprint(3)", (Code.OLE,)),
    ("open('out', 'w').write('x' * 60000); open('given', 'a').write('y'); print(4)", (Code.OLE,)),
    ("open('given').read(); print(3)", ()),
    ("open('out', 'w').write('x' * 1000000); import os; os.unlink('out'); print(3)", ()),
])  # fmt: skip
def test_files_count_as_output(bench: Bench, source: str, flags: tuple[Code, ...]) -> None:
    """2025-09: what is left in the working directory counts, what the case brought does not, unless it was changed."""
    files = bench.directory / "1.files"
    files.mkdir()
    (files / "given").write_text("z" * 90000)
    case = bench.case(files=str(files))
    problem = bench.problem([case], format=Format.V2025_09, allow_file_writing=True)
    with Runner(bench.program(source)) as runner, DefaultChecker() as checker:
        found = judge_case(runner, checker, problem, case, replace(LIMITS, output_bytes=100_000))
    assert found.flags == flags, found
    assert not flags or "standard output, standard error and files" in found.cause


def test_limits_of_a_language() -> None:
    """A factor stretches the limit and the cut; the cut is never below the limit."""
    program = Program(name="", language="java", directory="", command=("x",), time_factor=2.0, processes=80)
    limits = ProblemLimits(memory_bytes=5, output_bytes=6)
    described = Problem(name="", format=Format.LEGACY, root="", limits=limits, data=Group(name="", grading=Grading(), children=()))
    found = run_limits(described, program, S, 3 * S)
    assert (found.cpu_ns, found.cpu_cut_ns, found.memory_bytes, found.output_bytes, found.processes) == (2 * S, 6 * S + 100 * MS, 5, 6, 80)
    assert run_limits(described, program, S, S // 2).cpu_cut_ns > 2 * S
    assert found.wall_ns > 2 * found.cpu_cut_ns
