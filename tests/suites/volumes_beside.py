"""Named volumes beside Podman's, which follow Docker's: the same image, the same cases, both run, and a table of what came of it.

``.venv/bin/python -m tests.suites.volumes_beside`` prints the table; `tests/kernel/test_volumes_podman.py` compares. Podman makes nothing but containers
without a network; its storage is a directory of ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.image_layouts import Layout, directory, entry, hardlink, symlink, tar_of

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = "volumes.test/image:1"
TOOLS = ("sh", "ls", "cat", "stat", "rm", "mkdir", "touch", "tr", "readlink", "test", "echo")
LIST = "ls -A | tr '\\n' ' '"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case: what is done to the volumes before, how they are mounted, what is run, and where we differ on purpose, why."""

    name: str
    volumes: tuple[str, ...]
    script: str
    before: tuple[tuple[tuple[str, ...], str], ...] = ()
    differs: str = ""


CASES = (
    Case(name="empty volume over a directory with files", volumes=("A:/d",), script=f"cd /d; {LIST}"),
    Case(name="modes, a hard and a symbolic link", volumes=("A:/d",), script="cd /d; stat -c '%a %h' . a script sub; readlink soft; ./script"),
    Case(name="whiteout in an upper layer", volumes=("A:/d",), script="test -e /d/gone && echo there || echo gone"),
    Case(name="opaque directory in an upper layer", volumes=("A:/d",), script=f"cd /d/opaque; {LIST}"),
    Case(name="empty volume over an empty directory", volumes=("A:/empty",), script=f"cd /empty; {LIST}; stat -c %a ."),
    Case(name="empty volume over nothing", volumes=("A:/absent/deep",), script=f"cd /absent/deep; {LIST}; stat -c %a ."),
    Case(name="empty volume over a link to a directory", volumes=("A:/link",), script=f"cd /link/; {LIST}"),
    Case(name="over a file", volumes=("A:/file",), script="cat /file 2>/dev/null; test -d /file && echo directory"),
    Case(name="volume that has files", volumes=("A:/d",), script=f"cd /d; {LIST}", before=((("A:/v",), "echo mine > /v/mine"),)),
    Case(name="volume that has only a directory", volumes=("A:/d",), script=f"cd /d; {LIST}", before=((("A:/v",), "mkdir /v/mine"),)),
    Case(name="nocopy", volumes=("A:/d:nocopy",), script=f"cd /d; {LIST}"),
    Case(name="read-only", volumes=("A:/d:ro",), script=f"cd /d; {LIST}; touch x 2>/dev/null || echo refused"),
    Case(
        name="second run keeps changes and removals", volumes=("A:/d",), script=f"cd /d; {LIST}; cat hard",
        before=((("A:/d",), "cd /d; rm a new; echo changed > hard"),),
    ),
    Case(
        name="second run after everything was removed", volumes=("A:/d",), script=f"cd /d; {LIST}", before=((("A:/d",), "rm -r /d/*"),),
        differs="Docker fills an empty volume whenever a container is made, Podman only before its first use",
    ),
    Case(name="one volume in another", volumes=("A:/d", "B:/d/sub"), script=f"cd /d; {LIST}; cd sub; {LIST}"),
    Case(name="one volume at two places", volumes=("A:/d", "A:/other"), script=f"echo x > /d/x; cd /other; {LIST}"),
    Case(name="two volumes at one place", volumes=("A:/d", "B:/d"), script="echo ran"),
    Case(name="set-id file", volumes=("A:/d",), script="cd /d; stat -c %a suid", differs="set-id bits are never copied"),
)


def make_image(top: Path) -> Path:
    """Write the image as an OCI layout, by which both get it."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    base = [directory("bin"), entry("bin/busybox", Path(busybox).read_bytes(), mode=0o755)]
    base += [symlink(f"bin/{tool}", "busybox") for tool in TOOLS]
    base += [directory(name) for name in ("d", "d/sub", "d/opaque", "other", "tmp", "etc")]
    base += [directory("empty", mode=0o1777), entry("file", b"file\n"), symlink("link", "/d")]
    base += [entry("d/a", b"a\n", mode=0o640), hardlink("d/hard", "d/a", mode=0o640), symlink("d/soft", "a"), entry("d/gone", b"x")]
    base += [entry("d/script", b"#!/bin/sh\necho run\n", mode=0o755), entry("d/suid", b"x", mode=0o4755), entry("d/sub/old", b"o"), entry("d/opaque/old", b"o")]
    upper = [directory("d", mode=0o775), directory("d/sub", mode=0o750), entry("d/sub/new", b"n"), entry("d/new", b"n"), entry("d/.wh.gone")]
    upper += [directory("d/opaque"), entry("d/opaque/.wh..wh..opq"), entry("d/opaque/new", b"n")]
    layout = Layout(top / "layout")
    layout.image([tar_of(base), tar_of(upper)], ref="1", config={"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})
    return layout.path


class Engine:
    """Runs cases; each has volumes of its own."""

    name = ""

    def __init__(self, top: Path) -> None:
        self.top = top

    def run(self, volumes: Sequence[str], script: str) -> tuple[int, str]:
        """Run a script; return how it ended and what it said."""
        raise NotImplementedError

    def case(self, case: Case) -> str:
        """Return what came of a case, the same words for the same outcome."""
        names = {letter: f"v{uuid.uuid4().hex[:12]}" for letter in "AB"}

        def named(texts: Sequence[str]) -> list[str]:
            return [names[text[0]] + text[1:] for text in texts]

        for volumes, script in case.before:
            code, out = self.run(named(volumes), script)
            assert code == 0, (self.name, case.name, out)
        code, out = self.run(named(case.volumes), case.script)
        return " ".join(out.split()) if code == 0 else "refused" if code in (125, 126, 127) else f"exit {code}: {' '.join(out.split())}"

    def call(self, *words: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL, cwd=self.top, env=os.environ | dict(environ or {})
        )
        if done.returncode and os.environ.get("SANDBOX_DEBUG"):
            print(words, done.returncode, done.stderr, file=sys.stderr)
        return done.returncode, done.stdout


class Podman(Engine):
    """Podman with a storage of its own, rootless where the caller is."""

    name = "podman"

    def __init__(self, top: Path, layout: Path) -> None:
        super().__init__(top)
        (top / "runtime").mkdir(mode=0o700)
        self._environ = {"XDG_RUNTIME_DIR": str(top / "runtime"), "XDG_DATA_HOME": str(top / "podman")}
        # crun refuses a host that has cgroups of both versions.
        runtime = ("--runtime", "runc") if shutil.which("runc") else ()
        self._base = (
            "podman", "--log-level", "error", *runtime, "--root", str(top / "storage"), "--runroot", str(top / "run"), "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs",
        )  # fmt: skip
        code, out = self.call(*self._base, "pull", "-q", f"oci:{layout}:1", environ=self._environ)
        if code:
            raise RuntimeError("podman cannot pull from a layout here")
        self.image = out.strip()

    def run(self, volumes: Sequence[str], script: str) -> tuple[int, str]:
        """See `Engine.run`."""
        options = [word for volume in volumes for word in ("-v", volume)]
        return self.call(
            *self._base, "run", "--rm", "--network", "none", "--pull", "never", *options, self.image, "/bin/sh", "-c", script, environ=self._environ
        )

    def close(self) -> None:
        """Remove the storage, whose files belong to subordinate ids."""
        places = [str(self.top / name) for name in ("storage", "run", "podman")]
        self.call(*(("podman", "unshare") if os.geteuid() else ()), "rm", "-rf", *places, environ=self._environ)


class Ours(Engine):
    """This checkout's command line."""

    name = "sandbox"

    def __init__(self, top: Path, layout: Path) -> None:
        super().__init__(top)
        self._environ = {"SANDBOX_DATA_DIR": str(top / "data"), "XDG_CACHE_HOME": str(top / "cache")}
        self._base = (sys.executable, "-I", str(ROOT / "sandbox/__main__.py"))
        code, out = self.call(*self._base, "image", "import", "-q", "--name", IMAGE, str(layout), environ=self._environ)
        if code:
            raise RuntimeError(f"the image cannot be imported: {out}")

    def run(self, volumes: Sequence[str], script: str) -> tuple[int, str]:
        """See `Engine.run`."""
        options = [word for volume in volumes for word in ("-v", volume)]
        return self.call(*self._base, "exec", "-q", "--image", IMAGE, *options, "--", "/bin/sh", "-c", script, environ=self._environ)


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        layout = make_image(top)
        ours, podman = Ours(top, layout), Podman(top, layout)
        try:
            print("| case | sandbox | podman |  |\n|---|---|---|---|")
            different = 0
            for case in CASES:
                one, other = ours.case(case), podman.case(case)
                different += one != other and not case.differs
                mark = "same" if one == other else case.differs or "DIFFERENT"
                print(f"| {case.name} | `{one}` | `{other}` | {mark} |", flush=True)
        finally:
            podman.close()
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
