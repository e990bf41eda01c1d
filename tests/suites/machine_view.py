"""What programs find: the same ones on the host, in a sandbox with 256 MiB and one processor, and below lxcfs with the same limits.

    python tests/suites/machine_view.py                       a table
    python tests/suites/machine_view.py --cost                what a live view costs a busy run, paired
    python tests/suites/machine_view.py --json FILE           the rows as JSON

By hand: it compiles programs and needs what it measures (`apt-get install htop default-jdk-headless golang-go musl-tools lxcfs python3-psutil nodejs`); what
is not installed is left out and named. The exit code is 1 where a program in the sandbox does not find the limits.

The column lxcfs needs root: lxcfs in a mount namespace of its own, its files over the /proc of another one, in which the programs run, in cgroups of their own
that are removed again. Nothing of it outlives this program.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY_MIB = 256
PROCESSORS = 1
_SECONDS = 60

_C = """
#include <stdio.h>
#include <sys/sysinfo.h>
#include <unistd.h>
int main(void) {
    struct sysinfo info;
    sysinfo(&info);
    printf("onln %ld conf %ld phys %ld info %lu\\n", sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_NPROCESSORS_CONF),
           sysconf(_SC_PHYS_PAGES) / 256, info.totalram * info.mem_unit >> 20);
}
"""
_GO = 'package main\nimport ("fmt"; "runtime")\nfunc main() { fmt.Println(runtime.NumCPU(), runtime.GOMAXPROCS(0)) }\n'
_JAVA = """
public class Probe {
    public static void main(String[] words) {
        var system = (com.sun.management.OperatingSystemMXBean) java.lang.management.ManagementFactory.getOperatingSystemMXBean();
        var here = Runtime.getRuntime();
        System.out.println(here.availableProcessors() + " " + (system.getTotalMemorySize() >> 20) + " " + (here.maxMemory() >> 20));
    }
}
"""


@dataclass(frozen=True)
class Probe:
    """One question: `kind` is ``processors``, ``memory`` (MiB), or ``text`` where nothing is expected; `pattern` finds the answer in the output."""

    name: str
    argv: tuple[str, ...]
    kind: str
    pattern: str
    needs: str
    terminal: bool = False
    possible: bool = False
    share: int = 1


def probes(built: Path) -> list[Probe]:
    """Return the questions; programs that were compiled lie in `built`."""
    python = "/usr/bin/python3"
    psutil = "import psutil; print(psutil.cpu_count(), psutil.cpu_count(logical=False), psutil.virtual_memory().total >> 20)"
    node = "const os = require('os'); console.log(os.cpus().length, os.availableParallelism(), Math.floor(os.totalmem() / 1048576))"
    found = [
        Probe("nproc", ("nproc",), "processors", r"(\d+)", "nproc"),
        Probe("lscpu", ("lscpu",), "processors", r"(?m)^CPU\(s\): +(\d+)", "lscpu"),
        Probe("getconf _NPROCESSORS_ONLN", ("getconf", "_NPROCESSORS_ONLN"), "processors", r"(\d+)", "getconf"),
        Probe("Python os.cpu_count()", (python, "-c", "import os; print(os.cpu_count())"), "processors", r"(\d+)", python),
        Probe("Python os.sched_getaffinity(0)", (python, "-c", "import os; print(len(os.sched_getaffinity(0)))"), "processors", r"(\d+)", python),
        Probe("psutil.cpu_count()", (python, "-c", psutil), "processors", r"(\d+) ", "psutil"),
        Probe("psutil.cpu_count(logical=False)", (python, "-c", psutil), "processors", r"\d+ (\d+)", "psutil"),
        Probe("psutil.virtual_memory().total", (python, "-c", psutil), "memory", r"\d+ \d+ (\d+)", "psutil"),
        Probe("free", ("free", "-m"), "memory", r"Mem: +(\d+)", "free"),
        Probe("busybox free", ("busybox", "free", "-m"), "memory", r"Mem: +(\d+)", "busybox"),
        Probe("top", ("top", "-b", "-n", "1"), "memory", r"MiB Mem : +([0-9.]+) total", "top"),
        Probe("htop, Mem", ("htop",), "memory", r"Mem\[[^\]]*?/([0-9.]+)M|Mem\[[^\]]*?/([0-9.]+G)", "htop", terminal=True),
        Probe("Node os.cpus().length", ("node", "-e", node), "processors", r"(\d+) ", "node"),
        Probe("Node os.availableParallelism()", ("node", "-e", node), "processors", r"\d+ (\d+)", "node"),
        Probe("Node os.totalmem()", ("node", "-e", node), "memory", r"\d+ \d+ (\d+)", "node"),
        Probe("systemd-detect-virt", ("systemd-detect-virt",), "text", r"(\S+)", "systemd-detect-virt"),
    ]
    java = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(built), "Probe")
    for name, program in (("glibc", "glibc"), ("musl", "musl")):
        argv = (str(built / program),)
        found += [
            Probe(f"{name} sysconf(_SC_NPROCESSORS_ONLN)", argv, "processors", r"onln (\d+)", f"built:{program}"),
            Probe(f"{name} sysconf(_SC_NPROCESSORS_CONF)", argv, "processors", r"conf (\d+)", f"built:{program}", possible=program == "glibc"),
            Probe(f"{name} sysconf(_SC_PHYS_PAGES)", argv, "memory", r"phys (\d+)", f"built:{program}"),
            Probe(f"{name} sysinfo(2)", argv, "memory", r"info (\d+)", f"built:{program}"),
        ]
    found += [
        Probe("Go runtime.NumCPU()", (str(built / "go"),), "processors", r"(\d+) ", "built:go"),
        Probe("Go runtime.GOMAXPROCS(0)", (str(built / "go"),), "processors", r"\d+ (\d+)", "built:go"),
        Probe("Java availableProcessors()", java, "processors", r"(\d+) ", "built:Probe.class"),
        Probe("Java getTotalMemorySize()", java, "memory", r"\d+ (\d+)", "built:Probe.class"),
        Probe("Java maxMemory(), of which it takes a half or a quarter", java, "memory", r"\d+ \d+ (\d+)", "built:Probe.class", share=2),
    ]
    return found


def build(directory: Path) -> None:
    """Compile what there is a compiler for."""
    (directory / "probe.c").write_text(_C)
    (directory / "probe.go").write_text(_GO)
    (directory / "Probe.java").write_text(_JAVA)
    environ = {**os.environ, "GOFLAGS": "-mod=mod", "GO111MODULE": "off", "CGO_ENABLED": "0", "HOME": str(directory), "GOCACHE": str(directory / "cache")}
    for program, argv in (
        ("gcc", ["gcc", "-O1", "-o", "glibc", "probe.c"]),
        ("musl-gcc", ["musl-gcc", "-O1", "-static", "-o", "musl", "probe.c"]),
        ("go", ["go", "build", "-o", "go", "probe.go"]),
        ("javac", ["javac", "Probe.java"]),
    ):
        if shutil.which(program) is not None:
            done = subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                print(f"{program}: {done.stderr.strip()}", file=sys.stderr)
    directory.chmod(0o755)


def is_there(probe: Probe, built: Path) -> bool:
    """Tell whether a program is installed."""
    if probe.needs.startswith("built:"):
        return (built / probe.needs.removeprefix("built:")).exists()
    if probe.needs == "psutil":
        return subprocess.run(["/usr/bin/python3", "-c", "import psutil"], capture_output=True, check=False).returncode == 0
    return shutil.which(probe.needs) is not None


def run_in_terminal(argv: Sequence[str], pattern: str) -> str:
    """Run a program on a terminal of its own until it has shown what is looked for, and end it with `q`."""
    pid, master = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.environ["COLUMNS"], os.environ["LINES"] = "120", "40"
        os.execvp(argv[0], list(argv))
    text, deadline, asked = "", time.monotonic() + 20, False
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    part = os.read(master, 65536)
                except OSError:
                    break
                text += re.sub(r"\x1b[\[(][0-9;?]*[A-Za-z]", "", part.decode(errors="replace"))
            if not asked and re.search(pattern, text):
                os.write(master, b"q")
                asked = True
        return text
    finally:
        os.close(master)
        try:
            os.kill(pid, 15)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)


def ask(probe: Probe, wrap: Callable[[Sequence[str], bool], Sequence[str]]) -> str:
    """Return what a program answers, or ``failed``."""
    argv = wrap(probe.argv, probe.terminal)
    try:
        if probe.terminal:
            text = run_in_terminal(argv, probe.pattern)
        else:
            text = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "failed"
    match = re.search(probe.pattern, text)
    if match is None:
        return "failed"
    answer = next(group for group in match.groups() if group is not None)
    if answer.endswith("G"):
        return str(round(float(answer[:-1]) * 1024))
    return str(round(float(answer))) if probe.kind != "text" else answer


def is_right(probe: Probe, answer: str) -> bool:
    """Tell whether an answer agrees with the limits."""
    if probe.kind == "text":
        return True
    if not answer.isdigit():
        return False
    number = int(answer)
    if probe.kind == "processors":
        return number == (os.cpu_count() if probe.possible and os.geteuid() == 0 else PROCESSORS)
    if probe.share > 1:
        return MEMORY_MIB // 5 <= number <= MEMORY_MIB // 2 + 8
    return abs(number - MEMORY_MIB) <= 1


def sandboxed(built: Path) -> Callable[[Sequence[str], bool], Sequence[str]]:
    """Return what wraps a command into a sandbox: with a quota where there is a cgroup, with one certain processor elsewhere."""
    limits = ["-l", "cpus=1"]
    if os.geteuid():
        policy = built / "pinned.toml"
        policy.write_text(
            'name = "pinned"\ndescription = "default, with processors that cannot be left"\nextends = ["default"]\n'
            '[[rule]]\nsyscalls = ["sched_setaffinity"]\naction = "errno EPERM"\nreason = "a cpuset without a cgroup"\n'
        )
        limits = ["--policy", str(policy), "-l", f"cpuset={min(os.sched_getaffinity(0))}"]

    def wrap(argv: Sequence[str], terminal: bool) -> Sequence[str]:
        return [
            str(ROOT / "dev"), "exec", "-q", "-t" if terminal else "--no-tty", "-p", "default", "-l", f"memory={MEMORY_MIB}M", *limits, "--cwd", "no",
            "-v", str(built), "--", *argv,
        ]  # fmt: skip

    return wrap


class Lxcfs:
    """lxcfs over the /proc of a mount namespace, in cgroups with the limits."""

    def __init__(self, stack: ExitStack) -> None:
        self._hierarchies = [Path("/sys/fs/cgroup", name) for name in ("memory", "cpu", "cpuset")]
        if os.geteuid() or not all((path / "cgroup.procs").exists() for path in self._hierarchies) or shutil.which("lxcfs") is None:
            raise RuntimeError("needs root, lxcfs and cgroup v1 hierarchies")
        self._name = f"machine-view-{os.getpid()}"
        self._place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for path in self._hierarchies:
            (path / self._name).mkdir()
            stack.callback(self._remove, path / self._name)
        (self._hierarchies[0] / self._name / "memory.limit_in_bytes").write_text(str(MEMORY_MIB << 20))
        (self._hierarchies[1] / self._name / "cpu.cfs_quota_us").write_text("100000")
        for name in ("cpuset.cpus", "cpuset.mems"):
            (self._hierarchies[2] / self._name / name).write_text((self._hierarchies[2] / name).read_text())
        mounted = self._place / "lxcfs"
        mounted.mkdir()
        script = f"mount -t tmpfs none /run && mkdir -p /run/lxcfs && echo ready && exec lxcfs -f -l --enable-cfs {mounted}"
        self._server = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        stack.callback(self._end)
        deadline = time.monotonic() + 10
        self._inside = f"/proc/{self._server.pid}/root{mounted}"
        while not os.path.exists(f"{self._inside}/proc/meminfo"):
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise RuntimeError("lxcfs does not come up here")
            select.select([], [], [], 0.05)
        self._mounted = mounted

    def wrap(self, argv: Sequence[str], terminal: bool) -> Sequence[str]:
        """Return what runs a command in the cgroups, below the files of lxcfs."""
        join = "; ".join(f"echo $$ > {path / self._name / 'cgroup.procs'}" for path in self._hierarchies)
        covers = " && ".join(
            f"mount --bind {self._mounted}/{name} /{name}"
            for name in (*(f"proc/{file}" for file in ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats")), "sys/devices/system/cpu")
        )
        inner = f'mount -t proc proc /proc && {covers} && exec "$@"'
        return [
            "sh", "-c",
            f'{join}; exec nsenter --target={self._server.pid} --mount unshare -m -p -f --propagation private sh -c \'{inner}\' sh "$@"',
            "sh", *argv,
        ]  # fmt: skip

    def _end(self) -> None:
        self._server.terminate()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _remove(self, path: Path) -> None:
        deadline = time.monotonic() + 5
        while True:
            try:
                path.rmdir()
                return
            except OSError:
                if time.monotonic() > deadline:
                    print(f"{path} stays", file=sys.stderr)
                    return
                select.select([], [], [], 0.05)


def table(out: Path | None) -> int:
    """Ask everything everywhere."""
    rows: list[dict[str, str]] = []
    wrong = 0
    with ExitStack() as stack:
        built = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="machine-view-", dir="/var/tmp" if os.access("/var/tmp", os.W_OK) else None)))
        build(built)
        wrap = sandboxed(built)
        lxcfs: Lxcfs | None = None
        try:
            lxcfs = Lxcfs(stack)
        except (RuntimeError, OSError) as error:
            print(f"no column of lxcfs: {error}", file=sys.stderr)
        print("| program | sandbox | limits | host | lxcfs |\n|---|---:|---:|---:|---:|")
        for probe in probes(built):
            if not is_there(probe, built):
                print(f"left out, not installed: {probe.name} ({probe.needs})", file=sys.stderr)
                continue
            inside = ask(probe, wrap)
            limits = {"processors": str(PROCESSORS), "memory": f"{MEMORY_MIB} MiB", "text": ""}[probe.kind]
            row = {"program": probe.name, "sandbox": inside, "limits": limits, "host": ask(probe, lambda argv, terminal: argv)}
            row["lxcfs"] = ask(probe, lxcfs.wrap) if lxcfs is not None else ""
            rows.append(row)
            right = is_right(probe, inside)
            wrong += not right
            print(f"| {row['program']} | {row['sandbox']}{'' if right else ' (wrong)'} | {row['limits']} | {row['host']} | {row['lxcfs']} |", flush=True)
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n")
    return 1 if wrong else 0


_BUSY = "import time\nbegin = time.process_time()\nn = 0\nwhile n < 25_000_000: n += 1\nprint(time.process_time() - begin)\n"
_TREE = "import os\nfor _ in range(40):\n    if os.fork() == 0:\n        __import__('signal').pause()\n" + _BUSY


def cost(pairs: int) -> int:
    """Run the same busy program with and without a live view, in turn, and compare its wall time; the supervisor's own time besides."""
    sys.path.insert(0, str(ROOT))
    from sandbox import Sandbox
    from sandbox.supervise.machine_view import MachineState

    for name, program in (("one busy process", _BUSY), ("one busy process among 41", _TREE)):
        ratios, shares, looks = [], [], []
        spent: list[int] = []
        real = MachineState.look

        def look(self: MachineState, now: int, real: Callable[[MachineState, int], None] = real, spent: list[int] = spent) -> None:
            before = time.thread_time_ns()
            real(self, now)
            spent.append(time.thread_time_ns() - before)

        MachineState.look = look  # type: ignore[method-assign]
        boxes = {view: Sandbox(profile="default", machine_view=view, limits={"wall": "120s", "cpu": "none"}) for view in ("off", "live")}
        for number in range(pairs):
            took = {}
            for view in (("off", "live") if number % 2 else ("live", "off")):
                spent.clear()
                result = boxes[view].run(["/usr/bin/python3", "-S", "-c", program])
                assert result.ok, result.cause
                took[view] = result.usage.wall_ns
                if view == "live":
                    shares.append(sum(spent) / took["live"])
                    looks.append(len(spent) / (took["live"] / 1e9))
            ratios.append(took["live"] / took["off"])
        for box in boxes.values():
            box.close()
        MachineState.look = real  # type: ignore[method-assign]
        low, middle, high = statistics.quantiles(ratios)
        print(
            f"{name}: wall time × {middle:.4f} (median of {pairs} pairs, quartiles {low:.4f} to {high:.4f}); looking takes "
            f"{100 * statistics.median(shares):.3f} % of one processor, {statistics.median(looks):.1f} looks a second"
        )
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true", help="measure what a live view costs a busy run")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    return cost(options.pairs) if options.cost else table(options.json)


if __name__ == "__main__":
    sys.exit(main())
