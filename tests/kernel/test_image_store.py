"""The store under violence: killed at every step, several imports and removals at once, images in use, layers with the image's own ids."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.api import images
from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.images.lookup import find_image, hold_image
from sandbox.images.pins import pin_image, unpin_image
from sandbox.images.store import open_store
from tests.kernel.image_layouts import Layout, digest_of, directory, entry, hardlink, merged_tree, symlink, tar_of

pytestmark = pytest.mark.userns
ROOT = Path(__file__).resolve().parents[2]
LAYERS = [
    [directory("./"), directory("d/", mode=0o500), entry("d/f", b"one"), entry("g", b"g"), symlink("l", "d/f")],
    [entry("d/.wh.f", b""), entry("d/h", b"two"), hardlink("g2", "g")],
]

# The very program of `sandbox image import`, which ends by SIGKILL before its N-th change of the file system.
KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], *sys.argv[4].split(":")]
from sandbox.api import images
left = int(sys.argv[3])
def counted(call):
    def counting(*words, **keys):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words, **keys)
    return counting
for name in ("open", "write", "rename", "mkdir", "link", "symlink", "unlink", "mknod", "rmdir", "setxattr", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
images.import_image(sys.argv[2], name="x")
print(left)
"""


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "data").mkdir(mode=0o700)
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    return {"SANDBOX_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "layout")
    made.image([tar_of(layer) for layer in LAYERS])
    return made


def killed_import(layout: Layout, environ: dict[str, str], count: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", "-c", KILLED, str(ROOT), str(layout.path), str(count), ":".join(sys.path)]
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=240)


def test_an_import_that_is_killed_at_any_step_leaves_all_or_nothing(
    environ: dict[str, str], layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = killed_import(layout, environ, 1 << 30)
    assert done.returncode == 0, done.stderr
    steps = (1 << 30) - int(done.stdout)
    expected = merged_tree(images.show("x").layers, tmp_path)
    assert steps > 60
    points = sorted({*range(1, steps, max(1, steps // 13)), steps - 1, steps})
    found = []
    for point in points:
        data = tmp_path / f"data{point}"
        data.mkdir(mode=0o700)
        environ["SANDBOX_DATA_DIR"] = str(data)
        monkeypatch.setenv("SANDBOX_DATA_DIR", str(data))
        done = killed_import(layout, environ, point)
        assert done.returncode == -signal.SIGKILL, done.stderr
        try:
            image = images.show("x")
        except PolicyError:
            found.append(False)
        else:
            found.append(True)
            assert merged_tree(image.layers, tmp_path) == expected
        for blob in (data / "images/blobs").glob("sha256/*"):
            assert digest_of(blob.read_bytes()) == f"sha256:{blob.name}"
        if point % 5 == 0:
            images.prune()  # what a crash left is garbage, or an image
        images.import_image(layout.path, name="x")
        assert merged_tree(images.show("x").layers, tmp_path) == expected
        assert images.verify() == ()
        assert os.listdir(data / "images/tmp") == []
    assert found == sorted(found) and True in found and False in found, "killed at no moment that matters"
    images.prune(all=True)
    assert all(os.listdir(data / "images" / room) == [] for room in ("blobs/sha256", "layers", "manifests", "names", "uses", "tmp"))


WORK = """
import sys
sys.path[:0] = [sys.argv[1], *sys.argv[2].split(":")]
from sandbox.api import images
from sandbox.errors import PolicyError
for turn in range(12):
    images.import_image(sys.argv[3], name=sys.argv[4])
    try:
        images.remove(sys.argv[4])
    except PolicyError:
        pass
    images.prune()
"""


def test_imports_and_removals_at_once_lose_nothing(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    """Three processes bring and remove the same blobs and layers while a fourth wants them to stay."""
    kept = images.import_image(layout.path, name="kept")
    words = [sys.executable, "-I", "-c", WORK, str(ROOT), ":".join(sys.path), str(layout.path)]
    others = [subprocess.Popen([*words, name], env=environ, stderr=subprocess.PIPE) for name in ("a", "b", "a")]
    for other in others:
        _, said = other.communicate(timeout=240)
        assert other.returncode == 0, said.decode()
    assert images.show("kept") == kept and images.verify() == ()
    images.prune()
    assert len(os.listdir(tmp_path / "data/images/layers")) == 2 and os.listdir(tmp_path / "data/images/tmp") == []


def test_garbage_is_not_collected_beside_an_import(environ: dict[str, str], layout: Layout) -> None:
    """An import has added a blob that it does not name yet: whoever removes an image meanwhile must leave it."""
    with open_store(environ) as importing:
        digest = importing.add_bytes(b"not named yet")
        assert not images.prune().complete
        assert importing.has_blob(digest)
    done = images.prune()
    assert done.complete and done.blobs == 1


def test_a_crash_is_cleared_away_only_when_nobody_works(environ: dict[str, str], tmp_path: Path) -> None:
    with open_store(environ) as one:
        (tmp_path / "data/images/tmp/left").mkdir()
        assert os.listdir(one.tmp) == []
        with open_store(environ):
            assert {"left", one.own_name} == set(os.listdir(tmp_path / "data/images/tmp"))
    with open_store(environ):
        assert os.listdir(tmp_path / "data/images/tmp") == []


def test_an_image_that_a_run_uses_stays(environ: dict[str, str], layout: Layout) -> None:
    image = images.import_image(layout.path, name="x")
    held = hold_image(image, environ)
    with pytest.raises(PolicyError, match="is in use by a run"):
        images.remove("x")
    assert images.prune(all=True).images == ()
    file = Path(image.layers[0], "d", "h")
    file.chmod(0o600)
    file.write_bytes(b"2wo")
    (damage, *_) = images.verify("x", repair=True)
    assert not damage.mended and file.read_bytes() == b"2wo", "a layer was exchanged under a run"
    os.close(held)
    assert all(each.mended for each in images.verify("x", repair=True)) and Path(image.layers[0], "d", "h").read_bytes() == b"two"
    pin_image(image, environ, "changes-1")
    with pytest.raises(PolicyError, match="is needed by `changes-1`"):
        images.remove("x")
    unpin_image(environ, "changes-1")
    assert images.remove("x").digest == image.digest
    with pytest.raises(PolicyError, match="has been removed"):
        hold_image(image, environ)


def test_a_lock_that_nobody_takes_would_let_an_image_go(environ: dict[str, str], layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    image = images.import_image(layout.path, name="x")
    held = hold_image(image, environ)
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    images.remove("x")
    assert not os.path.exists(image.layers[0])
    os.close(held)


@pytest.mark.parametrize("change", ["mode", "content", "missing", "extra", "target", "kind", "time", "xattr", "facts", "whiteout", "layer"])
def test_every_damage_of_a_layer_is_found_and_mended(environ: dict[str, str], layout: Layout, tmp_path: Path, change: str) -> None:
    image = images.import_image(layout.path, name="x")
    expected = merged_tree(image.layers, tmp_path)
    top, bottom = (Path(layer) for layer in image.layers)
    (bottom / "d").chmod(0o700)
    (top / "d").chmod(0o700)
    match change:
        case "mode":
            (bottom / "g").chmod(0o4755)
        case "content":
            status = (bottom / "g").stat()
            (bottom / "g").write_bytes(b"h")
            os.utime(bottom / "g", ns=(status.st_atime_ns, status.st_mtime_ns))
        case "missing":
            (bottom / "d" / "f").unlink()
        case "extra":
            (bottom / "new").touch()
        case "target":
            (bottom / "l").unlink()
            (bottom / "l").symlink_to("/etc/passwd")
        case "kind":
            (bottom / "d" / "f").unlink()
            (bottom / "d" / "f").symlink_to("../g")
        case "time":
            os.utime(bottom / "g", (1, 1))
        case "xattr":
            os.setxattr(bottom / "d", "user.overlay.opaque", b"y")
        case "facts":
            path = bottom.parent / "layer.json"
            path.write_text(path.read_text().replace('"owners": {}', '"owners": {"g": [5, 5]}'))
        case "whiteout":
            (top / "d" / "f").unlink()
        case "layer":
            os.rename(bottom, bottom.parent / "gone")
    for layer in (top, bottom):
        if (layer / "d").exists():
            (layer / "d").chmod(0o500)
            os.utime(layer / "d", (1_600_000_000, 1_600_000_000))
    found = images.verify("x")
    assert found and not any(each.mended for each in found)
    assert all(each.mended for each in images.verify("x", repair=True))
    assert images.verify("x") == () and merged_tree(images.show("x").layers, tmp_path) == expected
    assert os.listdir(tmp_path / "data/images/tmp") == []


def test_a_layer_that_is_gone_is_unpacked_again(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    image = images.import_image(layout.path, name="x")
    (tmp_path / "data/images/layers" / image.details[0].key).rename(tmp_path / "aside")
    with pytest.raises(PolicyError, match="sandbox image unpack x"):
        images.show("x")
    assert images.unpack("x") == image


# ---- the image's own ids -------------------------------------------------------------------------------------------------

OWNED = [directory("./"), directory("home/", uid=1000, gid=1000, mode=0o700), entry("home/f", b"f", uid=1000, gid=33, mode=0o4750),
         entry("root", b"r"), symlink("home/l", "f", uid=7, gid=8), entry("far", b"x", uid=3_000_000_000, gid=70_000)]  # fmt: skip


@pytest.mark.newuidmap
def test_layers_with_the_images_own_ids(environ: dict[str, str], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root's programs get a single id of their own")
    made = Layout(tmp_path / "layout")
    made.image([tar_of(OWNED), tar_of([entry("home/.wh.f", b"")])])
    images.import_image(made.path, name="x", ids="range")
    image = find_image("x", environ, ids="range")
    bottom = Path(image.layers[-1])
    assert image.layers != images.show("x").layers and bottom.parent.name.endswith(".range")
    own, home = os.lstat(bottom / "root"), os.lstat(bottom / "home")
    assert own.st_uid == os.geteuid() and home.st_uid not in (0, os.geteuid()) and stat.S_IMODE(home.st_mode) == 0o700
    first = home.st_uid - 1000
    assert os.lstat(bottom / "far").st_uid == first + 65534
    assert not os.access(bottom / "home", os.X_OK), "the caller itself is not that id"
    assert images.verify() == ()
    assert images.remove("x").digest and os.listdir(tmp_path / "data/images/layers") == [] == os.listdir(tmp_path / "data/images/tmp")


def test_root_has_no_layers_with_ids(environ: dict[str, str], layout: Layout) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root")
    with pytest.raises(UnsupportedError, match="an ordinary caller"):
        images.import_image(layout.path, name="x", ids="range")


def test_an_unknown_choice_is_said(environ: dict[str, str], layout: Layout) -> None:
    for keys in ({"ids": "rnge"}, {"kind": "oic"}):
        with pytest.raises(SandboxError, match="unknown"):
            images.import_image(layout.path, name="x", **keys)


# ---- places that are no store, and other tools ---------------------------------------------------------------------------


def test_a_store_that_is_a_link_or_not_ours_is_refused(tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "d"))
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "d" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError, match="no directory that only you can write to"):
        images.import_image(layout.path)
    assert os.listdir(tmp_path / "elsewhere") == []
    (tmp_path / "d" / "images").unlink()
    (tmp_path / "d" / "images").mkdir()
    (tmp_path / "d" / "images").chmod(0o777)
    with pytest.raises(PolicyError, match="no directory that only you can write to"):
        images.import_image(layout.path)
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "layout" / "oci-layout" / "x"))
    with pytest.raises(PolicyError, match="cannot be made"):
        images.import_image(layout.path)


def test_what_is_exported_is_what_skopeo_and_umoci_read(environ: dict[str, str], layout: Layout, tmp_path: Path) -> None:
    tools = [tool for tool in ("skopeo", "umoci") if shutil.which(tool) is None]
    if tools:
        pytest.skip(f"not installed: {', '.join(tools)}")
    image = images.import_image(layout.path, name="quay.io/a/b:3")
    images.export("quay.io/a/b:3", tmp_path / "out", format="oci")
    images.export("quay.io/a/b:3", tmp_path / "out.tar")
    images.export("quay.io/a/b:3", tmp_path / "docker.tar", format="docker-archive")
    for source in (f"oci:{tmp_path}/out:3", f"oci-archive:{tmp_path}/out.tar:3", f"docker-archive:{tmp_path}/docker.tar:quay.io/a/b:3"):
        words = ["skopeo", "--tmpdir", str(tmp_path), "copy", "-q", "--insecure-policy", source, f"dir:{tmp_path}/copied"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "copied")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    words = ["umoci", "raw", "unpack", *rootless, "--image", f"{tmp_path}/out:3", str(tmp_path / "rootfs")]
    subprocess.run(words, check=True, capture_output=True, timeout=240)
    assert (tmp_path / "rootfs/d/h").read_text() == "two" and not (tmp_path / "rootfs/d/f").exists()
    assert image.details[0].size_bytes == os.stat(tmp_path / "out/blobs/sha256" / image.details[0].blob[7:]).st_size


def test_a_terminal_is_told_how_far_it_is(environ: dict[str, str], tmp_path: Path) -> None:
    import pty

    (tmp_path / "big.tar").write_bytes(tar_of([entry(f"f{n}", b"x" * (1 << 20)) for n in range(40)]))
    main, other = pty.openpty()
    words = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}; import sandbox.cli.image_text as t; t._INTERVAL_S = 0; "
             f"from sandbox.cli.main import main; sys.exit(main(['image', 'import', '-q', {str(tmp_path / 'big.tar')!r}, '-n', 'x']))"]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=other, env={**os.environ, "TERM": "xterm"}) as child:
        os.close(other)
        said = b""
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            said += chunk
        out, _ = child.communicate(timeout=240)
    os.close(main)
    assert child.returncode == 0 and out.startswith(b"sha256:")
    assert b"unpack layer 1 of 1: " in said and b" %)" in said and said.endswith(b"\r\x1b[K")
    assert all(len(line) <= 90 for line in said.split(b"\r"))
