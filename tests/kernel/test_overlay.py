"""Roots and trees of layers in the kernel, under both executors: what is seen, what is written where, and what the layers keep."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import Command, prepare
from sandbox.api.streams import Streams
from sandbox.errors import SetupError
from sandbox.kernel.probe import parse_release
from sandbox.plan.root import Directory, FileBytes, Overlay, RootEntry, Tmpfs
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.result import Result

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
EXECUTORS = ("native", "python")
BUSYBOX = shutil.which("busybox")
if BUSYBOX is None:
    pytest.skip("no busybox, of which the layers are made", allow_module_level=True)
OWNER = 0 if os.geteuid() == 0 else -1
TMPFS_KEEPS = parse_release(os.uname().release) >= (6, 6)
"""Whether a tmpfs has user attributes, so that a directory of a lower layer can be made again."""
TOOLS = ("sh", "ls", "cat", "mkdir", "rm", "ln", "mv", "stat", "chmod", "dd", "touch", "rmdir", "true", "readlink", "head")


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Make two layers, topmost first: links of the image in the way of whatever is ours, a whiteout and an opaque directory."""
    base, top = tmp_path / "base", tmp_path / "top"
    for path in ("bin", "etc", "var/lib/old", "opt/kept", "opt/hidden"):
        (base / path).mkdir(parents=True)
    shutil.copy(BUSYBOX, base / "bin/busybox")
    for tool in TOOLS:
        (base / "bin" / tool).symlink_to("busybox")
    (base / "etc/issue").write_text("base\n")
    (base / "etc/gone").write_text("base\n")
    (base / "etc/hosts").symlink_to("/etc/passwd")
    (base / "etc/hostname").symlink_to("../../../escape")
    for name, target in (("proc", "/etc"), ("dev", "/nowhere/dev"), ("tmp", "../../tmp")):
        (base / name).symlink_to(target)
    (base / "var/lib/old/file").write_text("old\n")
    (base / "big").write_bytes(b"x" * (1 << 20))
    (top / "etc").mkdir(parents=True)
    (top / "etc/issue").write_text("top\n")
    os.mknod(top / "etc/gone", stat.S_IFCHR, 0)
    (top / "opt").mkdir()
    (top / "opt/new").write_text("new\n")
    os.setxattr(top / "opt", "user.overlay.opaque", b"y")
    for path in (tmp_path, *tmp_path.parents):  # root's payload is somebody else
        status = path.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o005 != 0o005:
            path.chmod(stat.S_IMODE(status.st_mode) | 0o055)
    yield top, base


def run(entries: tuple[RootEntry, ...], script: str, executor: str = "native", **changes: Any) -> Result:
    """Run a shell script in a root of these entries."""
    profile = override_profile(load_profile("default"), limits={"memory": "none", "processes": "none", "cpu": "none"}, origin="test", **changes)
    prepared = prepare(Command(argv=("/bin/true",), profile=profile, environ={"PATH": "/bin"}, executor=executor))
    prepared = replace(
        prepared, root=replace(prepared.root, entries=entries, covers=(), workdir="/", argv0="/bin/sh"),
        command=replace(prepared.command, argv=("sh", "-c", script)), environment=(("PATH", "/bin"),), kept=None,
    )  # fmt: skip
    return execute(prepared, Streams(), Hooks()).result


def image(layers: tuple[Path, ...], **fields: Any) -> tuple[RootEntry, ...]:
    """Return the entries of a run on layers."""
    given: dict[str, Any] = {"size_bytes": 4 << 20, "inodes": 200, "owner": OWNER} | fields
    root = Overlay(path="/", lowers=tuple(str(layer) for layer in layers), why="image `test`", **given)
    return (
        root, Directory(path="/etc"), FileBytes(path="/etc/hostname", content=b"inside\n"), FileBytes(path="/etc/hosts", content=b"127.0.0.1 localhost\n"),
        Tmpfs(path="/tmp", size_bytes=1 << 20, inodes=50),
    )  # fmt: skip


def text(result: Result) -> str:
    """Return what a run printed; both streams, so that a failure shows its reason."""
    return ((result.stdout or b"") + (result.stderr or b"")).decode()


def state_of(top: Path) -> list[tuple[str, int, int, bytes]]:
    """Return every file of a tree with mode, time and content."""
    found = []
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path.relative_to(top)), status.st_mode, status.st_mtime_ns, content))
    return found


@pytest.mark.parametrize("executor", EXECUTORS)
def test_layers_are_seen_as_one(layers: tuple[Path, Path], executor: str) -> None:
    script = "cat /etc/issue /etc/hostname /etc/hosts; ls /opt; ls /etc; cat /var/lib/old/file; ls /"
    result = run(image(layers), script, executor)
    assert text(result) == (
        "top\ninside\n127.0.0.1 localhost\nnew\nhostname\nhosts\nissue\nold\nbig\nbin\ndev\netc\nopt\nproc\ntmp\nvar\n"
    )
    assert result.ok


@pytest.mark.parametrize("executor", EXECUTORS)
def test_links_of_the_image_lead_nowhere(layers: tuple[Path, Path], executor: str) -> None:
    """/proc, /dev, /tmp, /etc/hosts and /etc/hostname are links in the image; each is hidden by what is ours, and nothing was made where they lead."""
    script = "for p in /proc /dev /tmp /etc/hosts /etc/hostname; do readlink $p; done; cat /proc/self/comm; echo x >/tmp/f && cat /tmp/f; ls /dev/null"
    result = run(image(layers), script, executor)
    assert text(result) == "cat\nx\n/dev/null\n"
    # Control: without the skeleton, that is with what is ours left out, the link is what is there.
    result = run(image(layers)[:1], "readlink /etc/hosts", executor)
    assert text(result) == "/etc/passwd\n"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_written_is_in_no_layer_and_gone_afterwards(layers: tuple[Path, Path], executor: str) -> None:
    before = [state_of(layer) for layer in layers]
    script = "echo changed >/etc/issue; echo late >/etc/late; chmod 700 /opt; rm /opt/new /var/lib/old/file; mkdir /proc2; cat /etc/issue"
    if TMPFS_KEEPS:  # else EIO, which a note says
        script = f"{script}; rm -r /opt; mkdir /opt && ls /opt; rm -r /var; ln -s /etc /var"
    assert text(run(image(layers), script, executor)) == "changed\n"
    assert [state_of(layer) for layer in layers] == before
    assert text(run(image(layers), "cat /etc/issue; ls /etc/late", executor)).startswith("top\nls: ")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_bytes_and_inodes_are_capped(layers: tuple[Path, Path], executor: str) -> None:
    result = run(image(layers), "dd if=/dev/zero of=/fill bs=64k count=100; ls -l /fill", executor)
    assert "No space left on device" in text(result)
    result = run(image(layers), "i=0; while touch /file$i; do i=$((i+1)); done; echo $i", executor)
    assert "No space left on device" in text(result)
    made = int((result.stdout or b"").split()[-1])
    assert 150 < made < 200
    # Control: with room for it nothing is refused.
    result = run(image(layers, size_bytes=16 << 20, inodes=1000), "dd if=/dev/zero of=/fill bs=64k count=100 2>/dev/null; stat -c %s /fill", executor)
    assert text(result) == f"{100 << 16}\n"


@pytest.mark.root
def test_without_the_id_map_roots_files_stay_as_they_are(layers: tuple[Path, Path]) -> None:
    """Control: root's files are nobody's inside, and cannot be copied up for anybody."""
    said = text(run(image(layers, owner=-1), "stat -c %u /bin; touch /bin/new; chmod 700 /bin; rm /bin/ls"))
    assert said.startswith("65534\n") and said.count("\n") >= 3
    assert text(run(image(layers), "stat -c %u /bin; touch /bin/new; chmod 700 /bin; rm /bin/ls")) == "1000\n"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_copying_up_counts(layers: tuple[Path, Path], executor: str) -> None:
    """A byte appended to a file of 1 MiB takes a whole MiB of the cap."""
    small = image(layers, size_bytes=512 << 10)
    assert "No space left on device" in text(run(small, "echo >>/big", executor))
    assert text(run(image(layers), "echo >>/big && stat -c %s /big", executor)) == f"{(1 << 20) + 1}\n"


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.skipif(os.geteuid() == 0, reason="a directory of root's is not the payload's")
def test_changes_in_a_directory(layers: tuple[Path, Path], tmp_path: Path, executor: str) -> None:
    kept = tmp_path / "kept"
    for name in ("upper", "work"):
        (kept / name).mkdir(parents=True)
    result = run(image(layers, upper=str(kept), size_bytes=0, inodes=0), "echo more >/etc/late; rm /etc/issue; mkdir /srv; rm -r /opt; mkdir /opt", executor)
    assert text(result) == "" and result.ok
    assert {str(path.relative_to(kept / "upper")) for path in (kept / "upper").rglob("*")} == {"etc", "etc/late", "etc/issue", "srv", "opt"}
    gone = (kept / "upper/etc/issue").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(kept / "upper/opt", "user.overlay.opaque") == b"y"
    # It can be gone on with, and be a layer.
    again = run(image(layers, upper=str(kept), size_bytes=0, inodes=0), "cat /etc/late; ls /etc /opt", executor)
    assert text(again).startswith("more\n") and "issue" not in text(again)
    layered = run(image((kept / "upper", *layers)), "cat /etc/late; ls /opt", executor)
    assert text(layered) == "more\n"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_tree_in_the_ordinary_root(tmp_path: Path, executor: str) -> None:
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    (tree / "src/a").write_text("a\n")
    before = state_of(tree)
    profile = override_profile(load_profile("default"), limits={"memory": "none", "processes": "none", "cpu": "none"}, origin="test")
    again = "rm -r src && mkdir src;" if TMPFS_KEEPS else ""
    prepared = prepare(Command(argv=("/bin/sh", "-c", f"echo b >>src/a; {again} echo c >src/c; cat src/c; pwd"), profile=profile,
                               cwd=None, environ={"PATH": "/usr/bin:/bin"}, executor=executor))  # fmt: skip
    overlay = Overlay(path="/work/tree", lowers=(str(tree),), size_bytes=1 << 20, inodes=100, why="copy-on-write", owner=OWNER)
    prepared = replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, overlay), workdir="/work/tree"), kept=None)
    result = execute(prepared, Streams(), Hooks()).result
    assert text(result) == "c\n/work/tree\n"
    assert state_of(tree) == before


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_layer_that_is_none_is_named(layers: tuple[Path, Path], executor: str) -> None:
    with pytest.raises(SetupError) as caught:
        run(image((layers[0], layers[1] / "missing")), "true", executor)
    assert "No such file or directory" in str(caught.value) and "layer of image `test`" in str(caught.value)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_many_layers(layers: tuple[Path, Path], tmp_path: Path, executor: str) -> None:
    more = []
    for number in range(120):
        layer = tmp_path / f"more{number}"
        (layer / "many").mkdir(parents=True)
        (layer / "many" / str(number)).write_text("")
        more.append(layer)
    result = run(image((*more, *layers)), "ls /many", executor)
    assert len(text(result).split()) == 120 and result.ok
