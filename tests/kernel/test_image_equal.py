"""What an image is when it is unpacked: file by file what umoci makes of it, and what was recorded, for an image of every kind of entry in 25 layers.

`tests/suites/images.py` does the same for a whole Debian and with podman as well.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from kernel.image_bytes import image_of, write_layout
from kernel.image_fixture import CONFIG, layers, listing

from sandbox import images

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("image_fixture.txt")
DEADLINE_S = 240

# Where ours is another than umoci's, (umoci's line, ours). Everything else is equal.
DIFFERENCES = (
    # Devices are left out; rootless umoci has empty files in their place.
    ("dev/disk file 0660 0 e3b0c44298fc1c14 @1700000000000000000", None),
    ("dev/null file 0666 0 e3b0c44298fc1c14 @1700000000000000000", None),
    # A hard link to a file of a layer below brings it up, as link(2) in an overlay does; its other names below stay one file of their own.
    ("bin/tool-too file 0755 17 306c6ca740756034 = bin/tool @1700000000000000000", "bin/tool-too file 0755 17 306c6ca740756034 @1700000000000000000"),
    (
        "usr/lib/tool-again file 0755 17 306c6ca740756034 = bin/tool @1700000000000000000",
        "usr/lib/tool-again file 0755 17 306c6ca740756034 = bin/tool-too @1700000000000000000",
    ),
)
MOUNT_AND_LIST = """
set -e
cd "$1"
case $2 in
*:*) mount -t overlay -o "userxattr,lowerdir=$2" image "$3" ;;
*) mount --bind "$2" "$3" ;;
esac
exec "$4" -I -c "$7" "$5" "$3" "$6"
"""


LIST = """
import sys
sys.path.insert(0, sys.argv[1])
from kernel.image_fixture import listing
print("\\n".join(listing(sys.argv[2], owners=sys.argv[3] == "yes")))
"""


def merged(layer_paths: Sequence[str], tmp_path: Path, *, wrapper: Sequence[str] = ("unshare", "-Urm"), owners: bool = False) -> list[str]:
    """Return the listing of layers (topmost first) as overlay shows them, mounted in namespaces of its own."""
    base = os.path.commonpath([os.path.dirname(os.path.dirname(path)) for path in layer_paths])
    lower = ":".join(os.path.relpath(path, base) for path in layer_paths)
    point = tmp_path / "merged"
    point.mkdir(exist_ok=True)
    done = subprocess.run(
        [*wrapper, "sh", "-c", MOUNT_AND_LIST, "sh", base, lower, str(point), sys.executable, str(ROOT / "tests"), "yes" if owners else "no", LIST],
        capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def compare(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Return the differing lines, empty for none."""
    return "\n".join(difflib.unified_diff(theirs, ours, "theirs", "ours", lineterm="", n=0))


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    return write_layout(tmp_path / "layout", {"latest": image_of(layers(), config=CONFIG)})


@pytest.mark.userns
def test_equal_to_what_was_recorded(layout: Path, tmp_path: Path) -> None:
    image = images.import_image(layout, name="fixture:1")
    assert len(image.layers) == 25 and image.config.user == "1000:1000"
    ours = merged(image.layers, tmp_path)
    if os.environ.get("SANDBOX_GOLDEN") == "write":
        RECORDED.write_text("\n".join(ours) + "\n")
    assert not compare(ours, RECORDED.read_text().splitlines())
    assert images.verify("fixture:1") == ()


@pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed (apt install umoci)")
def test_equal_to_what_umoci_unpacks(layout: Path, tmp_path: Path) -> None:
    """Not to be taken for granted: what was recorded is what an independent program makes of the same bytes."""
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--rootless", "--image", f"{layout}:latest", str(bundle)], check=True, capture_output=True, timeout=DEADLINE_S)
    theirs = listing(bundle / "rootfs")
    expected = [line for line in theirs if line not in [umocis for umocis, _ in DIFFERENCES]]
    assert len(expected) == len(theirs) - len(DIFFERENCES), "each difference is really there"
    expected += [ours for _, ours in DIFFERENCES if ours is not None]
    recorded = RECORDED.read_text().splitlines()
    assert not compare(sorted(recorded), sorted(expected))


@pytest.mark.userns
def test_equal_after_export_and_import(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes out is what came in, in each form."""
    digest = images.import_image(layout, name="fixture:1").digest
    for form in ("oci", "oci-archive", "docker-archive"):
        target = tmp_path / form
        images.export("fixture:1", target, format=form)
        monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / f"data-{form}"))
        again = images.import_image(target, name="again:1")
        monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
        assert form == "docker-archive" or again.digest == digest
        assert not compare(merged(again.layers, tmp_path), RECORDED.read_text().splitlines()), form


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """One bit of mode, one name more of a file, one attribute, one nanosecond: each is a difference."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a", "b"):
        (tree / name).write_text("same")
        os.utime(tree / name, ns=(5, 5))
    os.utime(tree, ns=(5, 5))
    before = listing(tree)
    changes = (
        lambda: os.chmod(tree / "a", 0o640),
        lambda: os.utime(tree / "a", ns=(5, 6)),
        lambda: (os.unlink(tree / "b"), os.link(tree / "a", tree / "b")),
        lambda: os.setxattr(tree / "a", "user.x", b"1"),
        lambda: (tree / "a").write_text("more"),
    )
    for change in changes:
        change()
        after = listing(tree)
        assert compare(after, before)
        before = after
