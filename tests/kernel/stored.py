"""A place in which `sandbox exec` is run with a cache of its own, and what tells whether a run used what lay there.

A run that used an entry leaves the cache as it was; one that did not writes it anew.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

# What a run says of a host without cgroups, and of a caller that is nice.
NOTE = re.compile(rb"^sandbox: (?:no writable cgroup|the program runs with nice)[ :].*\n", re.MULTILINE)


class Place:
    """A directory to run in, with a cache, a home and a copy of nothing else of the user's."""

    def __init__(self, top: Path, package: Path | None = None, *, with_filters: bool = True) -> None:
        self.top = top
        self.package = package or copied_package()
        self.work, self.home, self.cache, self.tools = top / "work", top / "home", top / "cache", top / "tools"
        for path in (self.work, self.home, self.cache, self.tools):
            path.mkdir(parents=True)
        for path in (top, self.work, self.tools):
            path.chmod(0o755)
        (self.cache / "sandbox").mkdir(mode=0o700)
        if with_filters:
            shutil.copytree(compiled_filters(), self.cache / "sandbox" / "filters")
        self.environ = {"PATH": f"{self.tools}:/usr/bin:/bin", "HOME": str(self.home), "XDG_CACHE_HOME": str(self.cache), "LANG": "C.UTF-8"}
        self.options: list[str] = []
        self.cwd = self.work
        self.nice = 0
        self.files = 0

    @property
    def launches(self) -> Path:
        return self.cache / "sandbox" / "launches"

    @property
    def modules(self) -> Path:
        return self.cache / "sandbox" / "modules"

    def run(self, *words: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
        def before() -> None:
            os.nice(self.nice)
            if self.files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))

        command = [sys.executable, "-I", "-S", str(self.package / "sandbox" / "__main__.py"), "exec", *self.options, *options, "--", *words]
        return subprocess.run(
            command, cwd=self.cwd, env=self.environ, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False, preexec_fn=before
        )

    def state(self) -> dict[str, tuple[int, int]]:
        """What tells an entry from another one of the same name."""
        if not self.launches.is_dir():
            return {}
        return {path.name: (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in self.launches.iterdir()}

    def hit(self, *words: str, options: Sequence[str] = ()) -> bytes:
        """Run, assert that the entry was used, and return what the command wrote."""
        done = self.again(*words, options=options)
        assert (done.returncode, NOTE.sub(b"", done.stderr)) == (0, b""), done
        return done.stdout

    def again(self, *words: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
        """Run, and assert that the entry was used. Whoever mounts something on this host meanwhile changes an answer, rightly: then once more."""
        quiet = 0
        while quiet < 4:
            mounts, before = mount_table(), self.state()
            done = self.run(*words, options=options)
            if before and self.state() == before:
                return done
            quiet += mount_table() == mounts
        raise AssertionError("the launch was prepared anew, again and again")

    def miss(self, *words: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
        """Run, and assert that no entry was used."""
        before = self.state()
        done = self.run(*words, options=options)
        assert self.state() != before or done.returncode, "an entry was used"
        return done

    def entry(self) -> Path:
        (path,) = self.launches.iterdir()
        return path


def mount_table() -> bytes:
    """Return what is mounted, of which every launch is asked."""
    return Path("/proc/self/mountinfo").read_bytes()


def copy_package(top: Path) -> Path:
    """Copy the package, but for one thing: here a file counts at once as one that does not change any more, so that no test has to wait for that."""
    for name in ("sandbox", "profiles", "policies"):
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("api/storing.py", "cli/modules.py"):
        path = top / "sandbox" / name
        text = path.read_text()
        assert "_SETTLED_NS = 2_000_000_000" in text
        path.write_text(text.replace("_SETTLED_NS = 2_000_000_000", "_SETTLED_NS = -600_000_000_000"))
    return top


@functools.cache
def copied_package() -> Path:
    """Return a copy that all tests of this process use."""
    top = Path(tempfile.mkdtemp(prefix="sandbox-test-package-"))
    top.chmod(0o755)
    atexit.register(shutil.rmtree, top)
    return copy_package(top)


@functools.cache
def compiled_filters() -> Path:
    """Return a directory with the filters that these tests need: compiling one takes a second."""
    top = Path(tempfile.mkdtemp(prefix="sandbox-test-filters-"))
    atexit.register(shutil.rmtree, top)
    place = Place(top / "place", with_filters=False)
    place.run("true", options=["--no-cache"])
    return place.cache / "sandbox" / "filters"


def make_place(top: Path) -> Place:
    """Return a place below a test's own directory, which a payload of another user can reach."""
    for path in (top, *top.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)
    return Place(top / "place")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write over a file in place: the same inode, and its directory is not touched."""
    path.write_text(text)
    path.chmod(mode)
