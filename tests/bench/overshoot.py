"""How long after a limit the last process is gone, beside isolate and nsjail in the same shuffled rounds.

The payload (hostile.c) has a file open that all its processes inherit: with us one that it has locked (we share no FIFO), with the others a FIFO (isolate
allows no lock); a thread waits for the lock, or the FIFO's end. So the end is seen without the sandbox's help: when the last process has closed its
files, which the kernel does after it has freed the memory. The wall clock begins
with the payload's first instruction, so a sandbox whose clock begins earlier, before execve, has a small advantage of as much: ours begins when the
payload is let go.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import select
import shutil
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import sandbox
from sandbox.result import Verdict

_HERE = Path(__file__).resolve().parent
_PEERS = "/work/peers/bin"
_INSIDE = "/tmp/shared"
_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is run: `limit` is of `kind` ``wall`` or ``cpu``, in seconds."""

    name: str
    kind: str
    limit: float
    mode: str
    count: int


SCENES = (
    Scene(name="wall, 1 process", kind="wall", limit=0.1, mode="spin", count=1),
    Scene(name="wall, both cores", kind="wall", limit=0.1, mode="spin", count=2),
    Scene(name="wall, 64 processes", kind="wall", limit=0.25, mode="spin", count=64),
    Scene(name="wall, 16 fork relays", kind="wall", limit=0.1, mode="relay", count=17),
    Scene(name="wall, 200 MB", kind="wall", limit=0.3, mode="resident", count=1),
    Scene(name="cpu, 1 process", kind="cpu", limit=0.1, mode="spin", count=1),
    Scene(name="cpu, both cores", kind="cpu", limit=0.1, mode="spin", count=2),
    Scene(name="cpu, 8 processes", kind="cpu", limit=0.15, mode="spin", count=8),
)


@dataclass(slots=True, kw_only=True)
class Contender:
    """A sandbox; `launch` runs the payload and says whether the limit ended it, `takes` whether it has such a limit."""

    name: str
    launch: Callable[[Scene, Path], bool]
    takes: Callable[[Scene], bool]
    by_fifo: bool = True
    late_ms: dict[str, list[float]] = field(default_factory=dict)
    told_ms: dict[str, list[float]] = field(default_factory=dict)
    excess_ms: dict[str, list[float]] = field(default_factory=dict)
    missed: int = 0
    early: int = 0


def main(rounds: int, seed: int, only: str) -> int:
    """Measure and print."""
    scenes = [scene for scene in SCENES if only in scene.name]
    with tempfile.TemporaryDirectory(prefix="overshoot-") as name:
        place = Path(name)
        place.chmod(0o777)
        _build(place)
        contenders = find_contenders(place)
        print("beside: " + (", ".join(contender.name for contender in contenders[1:]) or "nobody: neither isolate nor nsjail works here"))
        order = random.Random(seed)
        began = os.getloadavg()[0]
        for number in range(rounds):
            for scene in scenes:
                for contender in order.sample(contenders, len(contenders)):
                    # nsjail's limits are whole seconds, so it would take most of the time.
                    if contender.takes(scene) and (contender.name != "nsjail" or number % 10 == 0):
                        measure(contender, scene, place)
    load = (began + os.getloadavg()[0]) / 2 / (os.cpu_count() or 1)
    print(f"{rounds} rounds, uid {os.geteuid()}, nice {os.nice(0)}, load {load:.1f} a processor; milliseconds after the limit\n")
    print(f"{'':22} {'':9} {'runs':>5} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}   told p50   CPU beyond p50   p99")
    for scene in scenes:
        for contender in contenders:
            late = contender.late_ms.get(scene.name)
            if not late:
                continue
            shown = " ".join(f"{value:8.2f}" for value in (*(quantile(late, share) for share in (0.5, 0.9, 0.99)), max(late)))
            told = statistics.median(contender.told_ms[scene.name])
            excess = contender.excess_ms.get(scene.name)
            beyond = f"{quantile(excess, 0.5):14.2f} {quantile(excess, 0.99):8.2f}" if excess else ""
            print(f"{scene.name:22} {contender.name:9} {len(late):5} {shown}   {told:8.2f}   {beyond}")
    for contender in contenders:
        if contender.early:
            print(f"{contender.name}: {contender.early} runs ended before the processes' own clocks showed the limit; only CPU beyond counts them")
        if contender.missed:
            print(f"{contender.name}: {contender.missed} runs did not end by the limit and are left out")
    if load > 0.3:
        print("\nother work is running: p50 says what the sandbox does, p99 what the machine does")
    return 0


def quantile(values: list[float], share: float) -> float:
    """Return the value below which that share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure(contender: Contender, scene: Scene, place: Path) -> None:
    """Run once and note how late it was."""
    slots = place / "slots"
    slots.write_bytes(bytes(4096))
    slots.chmod(0o666)
    gone: list[int] = []
    with slots.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as memory, (place / "lock").open("r+b") as lock:
        waiting = threading.Event()

        def wait() -> None:
            # Asked for only once the payload has it; until then its start is polled for, which ends long before the limit.
            if contender.by_fifo:
                end.poll(30_000)
            else:
                while not memory[0:8].strip(b"\0") and not waiting.is_set():
                    time.sleep(0.002)
                fcntl.flock(lock, fcntl.LOCK_EX)
            gone.append(time.monotonic_ns())

        fifo = os.open(_make_fifo(place), os.O_RDONLY | os.O_NONBLOCK) if contender.by_fifo else -1
        end = select.poll()
        if fifo >= 0:
            end.register(fifo, select.POLLHUP)
        thread = threading.Thread(target=wait)
        thread.start()
        met = contender.launch(scene, place)
        told = time.monotonic_ns()
        waiting.set()
        thread.join()
        if fifo >= 0:
            os.close(fifo)
            (place / "fifo").unlink()
        began, reached, *_ = struct.unpack_from("<8Q", memory)
        used = sum(struct.unpack_from(f"<{scene.count}Q", memory, 64))
    limit = int(limit_of(contender.name, scene) * _S)
    due = began + limit if scene.kind == "wall" else reached
    if not met or not began:
        contender.missed += 1
        return
    if scene.kind == "cpu":
        contender.excess_ms.setdefault(scene.name, []).append((used - limit) / 1e6)
    if not due:  # what its start and its forks took is not on its own clocks
        contender.early += 1
        return
    contender.late_ms.setdefault(scene.name, []).append((gone[0] - due) / 1e6)
    contender.told_ms.setdefault(scene.name, []).append((told - due) / 1e6)


def limit_of(name: str, scene: Scene) -> float:
    """Return the limit in seconds; nsjail's are whole ones."""
    return 1.0 if name == "nsjail" else scene.limit


def find_contenders(place: Path) -> list[Contender]:
    """Return us and whoever of the others works here."""
    found = [Contender(name="sandbox", launch=_ours, takes=lambda scene: True, by_fifo=False)]
    path = os.environ.get("PATH", "") + ":" + _PEERS
    isolate, nsjail = shutil.which("isolate", path=path), shutil.which("nsjail", path=path)
    if isolate is not None:
        # Without --cg, which needs cgroup v2, its CPU time is that of the first process, so only one process can be compared.
        candidate = Contender(name="isolate", launch=_isolate(isolate), takes=lambda scene: scene.kind == "wall" or scene.count == 1)
        if _works(candidate, place):
            found.append(candidate)
    if nsjail is not None:
        candidate = Contender(name="nsjail", launch=_nsjail(nsjail), takes=lambda scene: scene.kind == "wall")
        if _works(candidate, place):
            found.append(candidate)
    return found


def _works(candidate: Contender, place: Path) -> bool:
    scene = SCENES[0]
    measure(candidate, scene, place)
    if candidate.missed:
        print(f"{candidate.name}: does not work here")
    candidate.late_ms.clear()
    candidate.told_ms.clear()
    return not candidate.missed


def _command(directory: str, scene: Scene, limit: float) -> list[str]:
    return [f"{directory}/hostile", directory, scene.mode, str(scene.count), str(int(limit * _S) if scene.kind == "cpu" else 0)]


def _ours(scene: Scene, place: Path) -> bool:
    limits = {"wall": 20, "cpu": 20, "memory": "512M", "processes": 80, scene.kind: scene.limit}
    result = sandbox.run(_command(_INSIDE, scene, scene.limit), volumes=[f"{place}:{_INSIDE}:rw"], limits=limits)
    return result.verdict is (Verdict.WALL_LIMIT if scene.kind == "wall" else Verdict.CPU_LIMIT)


def _isolate(path: str) -> Callable[[Scene, Path], bool]:
    box = str(os.getpid() % 900)

    def launch(scene: Scene, place: Path) -> bool:
        meta = place / "meta"
        subprocess.run([path, "-b", box, "--init"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        words = [path, "-b", box, "-s", f"--meta={meta}", "--processes=80", f"--dir=/shared={place}:rw", "--run"]
        words += [f"--wall-time={scene.limit if scene.kind == 'wall' else 20}", f"--time={scene.limit if scene.kind == 'cpu' else 20}"]
        _spawn([*words, "--", *_command("/shared", scene, scene.limit)])
        return meta.exists() and "status:TO" in meta.read_text()

    return launch


def _nsjail(path: str) -> Callable[[Scene, Path], bool]:
    def launch(scene: Scene, place: Path) -> bool:
        words = [path, "-Mo", "--really_quiet", "--time_limit", "1", "--rlimit_as", "inf", "--rlimit_nproc", "soft", "--bindmount", f"{place}:/shared"]
        began = time.monotonic()
        _spawn([*words, "--", *_command("/shared", scene, 1.0)])
        return time.monotonic() - began > 0.9

    return launch


def _spawn(words: list[str]) -> None:
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _make_fifo(place: Path) -> Path:
    path = place / "fifo"
    os.mkfifo(path)
    path.chmod(0o666)
    return path


def _build(place: Path) -> None:
    subprocess.run(["cc", "-O2", "-static", "-o", str(place / "hostile"), str(_HERE / "hostile.c")], check=True)
    (place / "hostile").chmod(0o755)
    (place / "lock").touch()
    (place / "lock").chmod(0o666)
