"""What an overlay root costs a program that writes: 20,000 small files, and a build, native, in our sandbox and in podman's, in the same shuffled rounds.

Times are taken inside, by the program itself, so no launch is in them. All of it as an ordinary user. `--root` is a Debian root as a tar archive with gcc and
make (``mmdebstrap --variant=minbase --include=gcc,make,libc6-dev bookworm root.tar``), `--source` a C project that ``make linux`` builds (Lua).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parents[1]))

from sandbox.api.execute import Hooks, execute  # noqa: E402
from sandbox.api.prepare import Command, prepare  # noqa: E402
from sandbox.api.streams import Streams  # noqa: E402
from sandbox.plan.root import Overlay  # noqa: E402
from sandbox.policy.profile_load import load_profile, override_profile  # noqa: E402
from tests.kernel.stored_images import layer_paths, put_image  # noqa: E402

_FILES = 20_000
_LIMITS = {
    "root": "2G", "root-inodes": 200_000, "tmp": "2G", "tmp-inodes": 200_000, "memory": "none", "processes": "none", "cpu": "none", "wall": "10m",
    "file-size": "none",
}  # fmt: skip
_PODMAN = "podman --log-level=error --storage-driver overlay --runtime runc --cgroup-manager=cgroupfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A place to work in; `run` takes a shell script, which begins in an empty directory, and returns what it printed."""

    name: str
    run: Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A script that prints, last, a line of numbers: for each figure one, in ns; `bench` stands for where its files are."""

    figures: tuple[str, ...]
    script: str


NAMES = (
    "native, disk", "native, tmpfs", "sandbox, its own /tmp", "sandbox, overlay, changes on a tmpfs", "sandbox, overlay, changes on disk", "podman",
)  # fmt: skip
TASKS = (
    Task(figures=("create and write", "unlink", "create and write, CPU", "unlink, CPU"), script=f"bench/files {_FILES}"),
    Task(
        figures=("build",),
        script="cp -r bench/source s && cd s && a=$(date +%s%N) && make -s linux >log 2>&1 && b=$(date +%s%N) && test -x src/lua && echo $((b - a))",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this measurement takes."""
    parser.add_argument("--root", type=Path, required=True, metavar="TAR", help="a Debian root with gcc and make")
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="a C project that `make linux` builds")
    parser.add_argument("--place", type=Path, default=Path.home(), metavar="DIR", help="where on the disk to work (default: the home)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="how many times (default 7)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within each round")
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks whose script has this text: `files` or `make`")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every time as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure, print a table, and write the JSON."""
    if os.geteuid() == 0:
        print("overlay: run it as an ordinary user: that is who it is about")
        return 1
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.place, prefix="bench-overlay-", ignore_cleanup_errors=True) as place:
        rows, notes, done = prepare_rows(Path(place), options.root, options.source)
        try:
            order = random.Random(options.seed)
            for number in range(options.rounds + 1):
                for row in order.sample(rows, len(rows)):
                    for task in (task for task in TASKS if options.only in task.script):
                        found = [int(word) / 1e6 for word in row.run(task.script).split()]
                        if number:  # the first round fills caches
                            for figure, ms in zip(task.figures, found, strict=True):
                                times.setdefault(figure, {}).setdefault(row.name, []).append(ms)
        finally:
            done()
    report(times, options.rounds, notes)
    if options.out is not None:
        facts = {"kernel": platform.release(), "processors": os.cpu_count(), "load": os.getloadavg(), "rounds": options.rounds, "notes": notes}
        options.out.write_text(json.dumps({"facts": facts, "ms": times}, indent=1) + "\n")
    return 0


def report(times: dict[str, dict[str, list[float]]], rounds: int, notes: list[str]) -> None:
    """Print medians, and the medians of the rounds' own ratios."""
    print(f"{_FILES} files of 200 bytes, and a build; {rounds} rounds, uid {os.geteuid()}, load {os.getloadavg()[0]:.1f}\n")
    print("| | " + " | ".join(f"{figure} ms | × native disk | × podman" for figure in times) + " |")
    print("| --- |" + " ---: |" * 3 * len(times))
    for name in (name for name in NAMES if name in next(iter(times.values()))):
        cells = []
        for rows in times.values():
            own = rows[name]
            cells.append(f"{statistics.median(own):.0f}")
            for other in ("native, disk", "podman"):
                cells.append(f"{statistics.median(a / b for a, b in zip(own, rows[other], strict=True)):.2f}" if other in rows else "")
        print(f"| {name} | " + " | ".join(cells) + " |")
    for note in notes:
        print(f"\n{note}")


def prepare_rows(place: Path, root: Path, source: Path) -> tuple[list[Row], list[str], Callable[[], None]]:
    """Return the rows, notes, and what takes away what was made."""
    bench = place / "bench"
    bench.mkdir()
    subprocess.run(["cc", "-O2", "-static", "-o", str(bench / "files"), str(_HERE / "files.c")], check=True)
    shutil.copytree(source, bench / "source")
    layer = place / "layer"
    layer.mkdir()
    subprocess.run(["tar", "-C", str(layer), "--no-same-owner", "--exclude=./dev/*", "-xf", str(root)], check=True)
    os.environ["SANDBOX_DATA_DIR"] = str(place / "data")
    digest = put_image(place / "data/images", "bench", [layer])
    (stored,) = layer_paths(place / "data/images", digest)
    rows = [
        Row(name="native, disk", run=lambda script: native(script, place, bench)),
        Row(name="native, tmpfs", run=lambda script: native(script, Path("/dev/shm"), bench)),
        Row(name="sandbox, its own /tmp", run=lambda script: ours(script, bench, stored, directory="/tmp/w")),
        Row(name="sandbox, overlay, changes on a tmpfs", run=lambda script: ours(script, bench, stored)),
        Row(name="sandbox, overlay, changes on disk", run=lambda script: ours(script, bench, stored, upper=place)),
    ]
    notes: list[str] = []
    runtime = Path(tempfile.mkdtemp(prefix="bench-podman-"))
    words = [*_PODMAN.split(), "--root", str(place / "podman"), "--runroot", str(runtime)]
    variables = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    said = podman(words, variables, "import", str(root), "bench") if shutil.which("podman") else "podman is not installed"
    if not said:
        said = podman(words, variables, "run", "--rm", "--network=none", "bench", "true")
    if said:
        notes.append(f"podman does not run here: {said}")
    else:
        rows.append(Row(name="podman", run=lambda script: in_podman(script, bench, words, variables)))

    def done() -> None:
        if shutil.which("podman"):
            podman(words, variables, "rmi", "--force", "--all")
            subprocess.run([*words, "unshare", "rm", "-rf", str(place / "podman")], env=variables, check=False, capture_output=True)
        shutil.rmtree(runtime, ignore_errors=True)

    return rows, notes, done


def native(script: str, directory: Path, bench: Path) -> str:
    """Run a script without a sandbox, in a new directory."""
    with tempfile.TemporaryDirectory(dir=directory) as work:
        done = subprocess.run(["sh", "-ec", script.replace("bench/", f"{bench}/")], cwd=work, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def ours(script: str, bench: Path, layer: Path, *, directory: str = "/srv/w", upper: Path | None = None) -> str:
    """Run a script on the image; with `upper`, what is written lies in a directory there."""
    from sandbox.rootfs.volumes import parse_volume

    profile = override_profile(
        load_profile("default"), limits=_LIMITS, image="bench", volumes=[parse_volume(f"{bench}:/bench", "/")], origin="bench"
    )  # fmt: skip
    words = ("sh", "-ec", f"mkdir {directory}; cd {directory}; " + script.replace("bench/", "/bench/"))
    prepared = prepare(Command(argv=words, profile=profile, environ=os.environ))
    with tempfile.TemporaryDirectory(dir=upper) as work:
        if upper is not None:
            for name in ("upper", "work"):
                (Path(work) / name).mkdir()
            entries = tuple(
                replace(entry, upper=work, size_bytes=0, inodes=0) if isinstance(entry, Overlay) else entry for entry in prepared.root.entries
            )  # fmt: skip
            prepared = replace(prepared, root=replace(prepared.root, entries=entries))
        result = execute(prepared, Streams(), Hooks()).result
        inner = Path(work) / "work/work"
        if inner.exists():
            inner.chmod(0o700)
    if not result.ok or not result.stdout:
        raise SystemExit(f"sandbox: {result.verdict}: {result.cause}\n{(result.stderr or b'').decode()}")
    return result.stdout.decode().splitlines()[-1]


def in_podman(script: str, bench: Path, words: list[str], variables: dict[str, str]) -> str:
    """Run a script in a container of the same image."""
    inside = "mkdir /srv/w; cd /srv/w; " + script.replace("bench/", "/bench/")
    line = [*words, "run", "--rm", "--network=none", "-v", f"{bench}:/bench:ro", "bench", "sh", "-ec", inside]
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"podman: {done.stderr}")
    return done.stdout.splitlines()[-1]


def podman(words: list[str], variables: dict[str, str], *more: str) -> str:
    """Run a command of podman's; return nothing, or its last words."""
    done = subprocess.run([*words, *more], env=variables, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1]
