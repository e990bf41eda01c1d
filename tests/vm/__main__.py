"""`./dev vm`: run what only a booted machine can show, in small emulated Debian guests.

initramfs
    The root directory is the initial ramfs, where pivot_root(2) is refused: the launch path's other way.
v2
    Debian's kernel and systemd with cgroup v2: limits held by the kernel, for an ordinary user in a delegated scope and for root.
layers
    Roots of layers on that older kernel: without overlayfs, then with it, as an ordinary user and as root.
leftovers
    A thousand runs, and five hundred killed clients, in a scope that systemd makes: nothing is left. Only when it is asked for by name.
limits
    Every way past every limit (tests/limits) where cgroup v2 holds them, as an ordinary user in such a scope; `limits-root` the same as root. On request.
refused
    User namespaces and what they need refused to an ordinary user in each known way: `sandbox doctor` and `sandbox exec` name the right fix.
volumes
    Named volumes on that older kernel, and their size held by a project quota, as root.
suite
    The tests of the kernel's behaviour and of escapes, on that older kernel, as an ordinary user in such a scope.

Nothing is installed or mounted on this machine, and no privilege is needed but for the making of the Debian tree: a user namespace with
subordinate ids does. Exit status: 0 passed, 1 a test failed, 125 the stage could not run.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent))

import image
import machine

ON_REQUEST = {"leftovers", "limits", "limits-root"}
STAGES = {
    "limits": 900.0,
    "limits-root": 900.0,
    "volumes": 600.0,
    "v2": 540.0,
    "initramfs": 400.0,
    "layers": 400.0,
    "suite": 400.0,
    "refused": 400.0,
    "leftovers": 1500.0,
}
"""The stages, the longest first, and the seconds after which each is given up."""


def main() -> int:
    """Run the stages that were asked for."""
    parser = argparse.ArgumentParser(prog="./dev vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)} (default: all)")
    parser.add_argument("-k", metavar="PATTERN", default="", help="only tests with this in their names")
    parser.add_argument("--refresh", action="store_true", help="make the Debian tree anew (it is kept for the week)")
    parser.add_argument("--jobs", type=int, default=2, help="guests at a time, of two processors each (default: 2)")
    parser.add_argument("--patience", type=float, default=1.0, help="multiply the time after which a stage is given up, for a busy machine")
    options = parser.parse_args()
    unknown = sorted(set(options.stage) - STAGES.keys())
    if unknown:
        parser.error(f"unknown stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    try:
        return run(options.stage or [stage for stage in STAGES if stage not in ON_REQUEST], options)
    except image.StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 125


def run(stages: list[str], options: argparse.Namespace) -> int:
    """Prepare, boot the guests, say how each ended."""
    began = time.monotonic()
    provide_tools()
    cache = cache_directory()
    with (cache / "lock").open("w") as lock:
        if not _try_lock(lock):
            say("waiting for another ./dev vm")
            fcntl.flock(lock, fcntl.LOCK_EX)
        return run_locked(stages, options, cache, began)


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_locked(stages: list[str], options: argparse.Namespace, cache: Path, began: float) -> int:
    """Do what `run` says, alone in the cache."""
    say(f"the guests' Debian tree ({image.SUITE}; kept in {cache})")
    kernel, tree = image.debian_tree(cache, refresh=options.refresh)
    brought = image.libraries(cache)
    initrd = cache / "initrd.cpio"

    def go(stage: str) -> bool:
        log = cache / f"{stage}.log"
        arguments = f"vm.only={options.k}" if options.k else ""
        report = machine.boot(stage, kernel, initrd, log=log, seconds=STAGES[stage] * options.patience, arguments=arguments)
        outcome = "passed" if report.passed else f"FAILED: {report.reason or 'see above'}; everything it said is in {log}"
        say(f"{stage}: {outcome} ({report.seconds:.0f} s)")
        return report.passed

    try:
        image.write_payload(initrd, tree, brought)
        say(f"ready after {time.monotonic() - began:.0f} s")
        with ThreadPoolExecutor(options.jobs) as pool:
            passed = dict(zip(stages, pool.map(go, stages), strict=True))
        failed = [stage for stage in stages if not passed[stage]]
    finally:
        initrd.unlink(missing_ok=True)
    say(f"{'FAILED: ' + ', '.join(failed) if failed else 'passed'} ({time.monotonic() - began:.0f} s)")
    return 1 if failed else 0


def provide_tools() -> None:
    """Install what is missing when we are root, else say the one command.

    Raises:
        StageError: something is missing still.
    """
    missing = image.missing_tools()
    if not missing:
        return
    command = ["apt-get", "-q", "-y", "install", "--no-install-recommends", *missing]
    if os.geteuid() == 0 and "apt" not in missing:
        say(f"installing {', '.join(missing)}")
        done = subprocess.run(
            command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode == 0 and not image.missing_tools():
            return
        print(done.stderr.decode(errors="replace")[-2000:], file=sys.stderr)
    raise image.StageError(f"missing here, by their names in Debian: {', '.join(missing)}\n\nhint: run as root: {' '.join(command)}")


def cache_directory() -> Path:
    """Return the directory that keeps the tree, readable by nobody else while it is being made."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/root"), ".cache")
    path = Path(base) / "sandbox" / "vm"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"vm: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
